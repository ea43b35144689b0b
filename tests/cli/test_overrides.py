"""An operator's day: deploys are bracketed, CI waits, something is paused, cancelled, confirmed or cared for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from listener.daemon.selection import choose_site
from listener.errors import ConfigurationError
from listener.settings import parse_settings
from tests.stand import Stand, fetch, until

Command = Callable[..., tuple[int, str, str]]


def test_a_deploy_is_held_released_and_waited_for(stand: Stand, command: Command) -> None:
    """While it is held nothing is sent; after the release `wait` ends with 0 once the edge is fresh."""
    stand.configure(site='name = "shop"')
    for name in ("a.html", "b.html"):
        stand.write(name, "old")
    with stand.daemon():
        assert fetch(stand.url("a.html"))[1] == "old"
        (held,) = json.loads(command("hold", "--site", "shop", "--for", "5m", "--reason", "deploy 7", "--json")[1])
        assert (held["kind"], held["prefix"], held["reason"]) == ("hold", f"{stand.edge}/", "deploy 7")
        for name in ("a.html", "b.html"):
            stand.write(name, "new")
        status, out, err = command("wait", "--prefix", "/a", "--timeout", "3s", "--grace", "2s", "--json")
        reported = json.loads(out)
        assert (status, reported["fresh"]) == (1, False), err
        assert reported["unsettled"][0]["example"] == stand.url("a.html")
        assert stand.paths() == []
        assert json.loads(command("release", "--json")[1]) == {"ended": 1, "still_in_effect": []}
        status, out, err = command("wait", "--timeout", "60s", "--grace", "1s")
        assert (status, out[:11]) == (0, "fresh after"), err
        assert [fetch(stand.url(name))[1] for name in ("a.html", "b.html")] == ["new", "new"]
    assert sorted(stand.paths()) == [stand.url("a.html"), stand.url("b.html")]
    deeds = json.loads(command("tasks", "--manual", "--json")[1])
    assert [(deed["action"], deed["reason"]) for deed in deeds] == [("end of hold", ""), ("hold", "deploy 7")]


@pytest.mark.parametrize(
    ("said", "prefix"),
    [("shop", "/shop/"), ("1", "/blog/"), ("files", "/shop/"), ("http://h/blog/", "/blog/"), ("www", "/blog/")],
)
def test_a_site_is_named_as_people_would(said: str, prefix: str) -> None:
    """By its name, its number, its source or its base URL; where that is not one site, all are reported."""
    table = {
        "sources": {"files": {"type": "filesystem", "path": "/a"}, "www": {"type": "filesystem", "path": "/b"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [
            {"name": "shop", "source": "files", "target": "cdn", "base_urls": ["http://h/shop/"]},
            {"source": "www", "target": "cdn", "base_urls": ["http://h/blog/"]},
        ],
    }
    settings = parse_settings(table, {})
    assert choose_site(settings, said).base_urls == (f"http://h{prefix}",)
    for wrong in ("2", "nobody", None):
        with pytest.raises(ConfigurationError) as error:
            choose_site(settings, wrong)
        assert error.value.hint == "--site shop: files; --site 1: www"


def test_a_rejected_url_is_no_outage(stand: Stand, command: Command) -> None:
    """`wait` ends with 3 and the command to run; what is reported as late does not grow with it."""
    stand.write("bad.html", "old")
    stand.order("malformed:bad")
    with stand.daemon():
        stand.write("bad.html", "new")
        until(lambda: stand.json("/api/status")["parked"] == 1, what="it is rejected")
        status, out, err = command("wait", "--timeout", "60s", "--grace", "0s", "--json")
        found = json.loads(out)
        assert (status, found["fresh"], found["unsettled"][0]["waits_for"]) == (3, False, "person"), err
        assert "cdn-listener dead-letters" in found["reason"]
        status, out, err = command("wait", "--timeout", "60s", "--grace", "0s")
        assert (status, out, err[:18]) == (3, f"parked  1  {stand.url('bad.html')}\n", "waits for a person")
        reported = stand.json("/api/status")
        assert reported["oldest_unsettled_seconds"] == 0.0
        assert reported["waits_for"]["person"]["needs"] == 1
        assert reported["waits_for"]["person"]["oldest_seconds"] > 0
        metrics = fetch(f"{stand.admin}/metrics")[1]
        assert "listener_oldest_unsettled_seconds 0.0" in metrics
        assert 'listener_waiting_needs{waits_for="person"} 1.0' in metrics
        stand.write("good.html", "new")
        until(lambda: stand.paths() == [stand.url("good.html")], what="the others go on")


def test_waiting_needs_a_daemon(stand: Stand, command: Command) -> None:
    """Without one nothing would ever turn fresh: exit status 1 at once, and what to do."""
    status, _, err = command("wait", "--timeout", "60s")
    assert (status, "there is no state file yet" in err) == (1, True)
    assert command("refresh", stand.url("a.html"), "--wait")[0] == 0
    status, _, err = command("wait", "--timeout", "600s", "--grace", "0s")
    assert (status, "cdn-listener run" in err) == (1, True)


def test_what_is_paused_waits_and_what_is_cancelled_goes(stand: Stand, command: Command) -> None:
    """A pause defers even manually, with its reason in the output; cancel settles it, after somebody said yes."""
    assert command("refresh", stand.url("first.html"), "--wait")[0] == 0
    assert command("pause", "--target", "cdn", "--reason", "audit")[0] == 0
    status, out, _ = command("refresh", stand.url("a.html"))
    assert status == 3
    assert out.startswith("deferred")
    assert [one["kind"] for one in json.loads(command("status", "--json")[1])["orders"]] == ["pause"]
    assert "audit" in command("status")[1]
    status, _, err = command("cancel", "--reason", "old", "--prefix", "/a")
    assert (status, "--yes" in err) == (2, True)
    status, _, err = command("cancel", "--reason", "old", "--yes")
    assert (status, "--all" in err) == (2, True)
    cancelled = json.loads(command("cancel", "--reason", "old", "--prefix", "/a", "--yes", "--json")[1])
    assert cancelled == {"cancelled": 1, "requests_under_way": 0}
    assert json.loads(command("status", "--json")[1])["pending"] == 0
    assert command("pause", "--site", "0")[0] == 0
    status, out, _ = command("resume", "--site", "0")
    assert (status, out) == (0, "ended 1 pause\n")
    assert command("pause")[0] == 0
    assert "there is no pause to end\nstill in effect: pause  everything" in command("resume", "--site", "0")[1]
    assert json.loads(command("resume", "--site", "0", "--json")[1])["still_in_effect"][0]["kind"] == "pause"
    assert command("resume")[1] == "ended 2 pauses\n"
    assert command("pause")[0] == 0
    assert command("resume")[1] == "ended 1 pause\n"
    assert command("resume")[1] == "there is no pause to end\n"
    assert stand.paths() == [stand.url("first.html")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hold", "--site", "9"], "there is no site 9"),
        (["hold", "--for", "soon"], "90s, 10m, 1h30m"),
        (["hold", "--for", "9999d"], "a year"),
        (["pause", "--target", "cdm"], "cdn"),
        (["confirm-deletions", "ww"], "www"),
        (["wait", "--prefix", "http://h/a b"], "blank"),
        (["wait", "--prefix", "http://typo.test/"], "http://typo.test/: is not below any site's base URL"),
        (["cancel", "--all", "--yes"], "--reason"),
    ],
)
def test_what_cannot_be_meant_is_refused(stand: Stand, command: Command, arguments: list[str], words: str) -> None:
    """Exit status 2 and one clear message."""
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert words in err


def test_deletions_are_confirmed_from_outside(stand: Stand, command: Command) -> None:
    """A source that stopped at an emptied root is a problem in every view, and goes on when it is confirmed."""
    for number in range(40):
        stand.write(f"{number}.html", "old")
    stand.configure()
    with stand.daemon():
        assert fetch(stand.url("7.html"))[1] == "old"
        for number in range(40):
            (stand.tree / f"{number}.html").unlink()
        until(lambda: "empty" in stand.json("/api/status")["sources"]["www"]["detail"], what="it stopped")
        assert fetch(stand.url("7.html"))[1] == "old"
        assert stand.paths() == []
        until(lambda: not stand.ready(), what="it is not ready")
        assert "confirm-deletions www" in stand.json("/readyz")["reasons"][0]
        page = fetch(f"{stand.admin}/")[1]
        assert '<h1 class="warn">40 deletions are held back until a person confirms</h1>' in page
        (problem,) = stand.json("/api/status")["problems"]
        assert problem["remedy"].endswith("cdn-listener confirm-deletions www")
        assert 'listener_source_held_deletions{source="www"} 40.0' in fetch(f"{stand.admin}/metrics")[1]
        status, out, _ = command("wait", "--timeout", "60s", "--grace", "0s", "--json")
        assert (status, json.loads(out)["held_deletions"]) == (3, {"www": 40})
        assert command("confirm-deletions", "www")[0] == 0
        until(lambda: fetch(stand.url("7.html"))[0] == 404, what="the edge knows that it is gone")
        until(stand.ready, what="it is ready again")
        status, out, err = command("confirm-deletions", "www")
        assert (status, out, "nothing to confirm" in err) == (1, "", True)
        status, out, err = command("approve")
        assert (status, out, "nothing to approve" in err) == (1, "", True)
        assert stand.json("/api/status")["orders"] == []
        assert command("wait", "--timeout", "60s", "--grace", "0s")[0] == 0


def test_the_state_file_is_cared_for(stand: Stand, command: Command, tmp_path: Path) -> None:
    """A backup, a check and compacting, each by its command."""
    status, _, err = command("store", "check")
    assert (status, "there is no state file yet" in err) == (1, True)
    assert command("refresh", stand.url("a.html"), "--wait")[0] == 0
    assert json.loads(command("store", "check", "--json")[1]) == {"sound": True, "findings": []}
    copy = tmp_path / "copy.db"
    assert command("store", "backup", str(copy))[0] == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    assert command("store", "backup", str(copy))[0] == 1
    done = json.loads(command("store", "compact", "--json")[1])
    assert done["after_bytes"] == stand.state.stat().st_size
    assert command("store", "check")[1] == "sound\n"
