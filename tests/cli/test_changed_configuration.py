"""A changed configuration loses nothing: what was renamed, moved or removed is carried over, or reported."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.stand import Stand, until

Command = Callable[..., tuple[int, str, str]]


def put(stand: Stand, *changes: tuple[str, str]) -> None:
    """Replace parts of the configuration."""
    text = stand.config.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    stand.put(text)


def stale(command: Command) -> list[str]:
    """Return the stale URLs."""
    return sorted(one["url"] for one in json.loads(command("status", "--all", "--json")[1])["stale"])


def problems(command: Command) -> str:
    """Return what status says is wrong, and what to do."""
    return json.dumps(json.loads(command("status", "--json")[1])["problems"])


def with_pending(stand: Stand, command: Command, *names: str) -> None:
    """Leave changes of these files unsent: a pause stands."""
    with stand.daemon():
        command("pause")
        for name in names:
            stand.write(name, "changed")
        until(lambda: stand.json("/api/status")["pending"] == len(names), what="they are recorded")


def test_a_changed_base_url_takes_its_needs_along(stand: Stand, command: Command) -> None:
    """`check` shows it; the start gives each need the URL that its object has now, and nothing of the old is sent."""
    old = "http://old.example.com/deep/"
    put(stand, (f"{stand.edge}/", old))
    for name in ("a.html", "d/b.html"):
        stand.write(name, "old")
    with_pending(stand, command, "a.html", "d/b.html")
    assert stale(command) == [f"{old}a.html", f"{old}d/b.html"]
    put(stand, (old, f"{stand.edge}/"))
    assert "2 stale URLs that no site serves any more get other URLs" in command("check")[1]
    assert stale(command) == [f"{old}a.html", f"{old}d/b.html"]
    with stand.daemon():
        until(lambda: stale(command) == [stand.url("a.html"), stand.url("d/b.html")], what="they are rerouted")
        command("resume")
        until(lambda: sorted(stand.paths()) == [stand.url("a.html"), stand.url("d/b.html")], what="they are sent")


def test_a_renamed_target_is_reported_and_repaired(stand: Stand, command: Command) -> None:
    """Its needs are kept, named in every view with the command, and sent once they have the new name."""
    with_pending(stand, command, "a.html")
    put(stand, ("[targets.cdn]", "[targets.edge]"), ('target = "cdn"', 'target = "edge"'))
    repair = "cdn-listener store rename target cdn edge"
    assert repair in command("check")[1]
    assert repair in problems(command)
    assert repair in command("status")[1]
    with stand.daemon() as process:
        until(lambda: repair in json.dumps(stand.json("/api/status")["problems"]), what="it is reported")
        status, _, err = command("store", "rename", "target", "cdn", "edge")
        assert (status, "stop it first" in err) == (2, True)
        process.terminate()
        assert "configuration.left_over" in process.communicate()[1]
    assert command("store", "rename", "target", "cdn", "cdn")[0] == 2
    assert command("store", "rename", "target", "edge", "edge")[0] == 2
    status, out, _ = command("store", "rename", "target", "cdn", "edge")
    assert (status, out) == (0, "target edge has the 1 stale URL of cdn; start the daemon\n")
    assert "store rename" not in problems(command)
    with stand.daemon():
        command("resume")
        until(lambda: stand.paths() == [stand.url("a.html")], what="it is sent")


def test_a_renamed_source_is_reported_and_repaired(stand: Stand, command: Command) -> None:
    """What changed while nobody looked under the new name is found, also after a first scan of it."""
    for name in ("a.html", "b.html"):
        stand.write(name, "old")
    with stand.daemon():
        pass
    put(stand, ("[sources.www]", "[sources.web]"), ('source = "www"', 'source = "web"'))
    assert "cdn-listener store rename source www web" in command("check")[1]
    stand.write("a.html", "changed while the daemon was away")
    with stand.daemon():
        assert "store rename source www" in json.dumps(stand.json("/api/status")["problems"])
    assert stand.paths() == []
    assert command("store", "rename", "source", "www", "web")[0] == 0
    with stand.daemon():
        until(lambda: stand.paths() == [stand.url("a.html")], what="the scan finds it")
        assert stand.json("/api/status")["problems"] == []


def test_what_was_removed_is_forgotten_by_command(stand: Stand, command: Command) -> None:
    """A removed target's needs, a removed source's index, and URLs of a removed site."""
    with_pending(stand, command, "a.html")
    put(stand, ("[targets.cdn]", "[targets.edge]"), ('target = "cdn"', 'target = "edge"'))
    put(stand, ("[sources.www]", "[sources.web]"), ('source = "www"', 'source = "web"'))
    assert command("store", "forget", "source", "web")[0] == 2
    assert command("store", "forget", "target", "cdn")[1] == "forgot the 1 stale URL of target cdn\n"
    assert command("store", "forget", "source", "www")[1] == "forgot the index of source www\n"
    assert "not configured" not in problems(command)
    actions = [one["action"] for one in json.loads(command("tasks", "--manual", "--json")[1])]
    assert actions[:2] == ["forget source", "forget target"]
