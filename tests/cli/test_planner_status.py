"""``status`` reports what lies ahead, with and without a daemon; ``plan`` says in plain words why something waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from listener.emulator import parse_quota
from listener.refresh import RefreshKind, split_reason
from tests.stand import Stand, until

Command = Callable[..., tuple[int, str, str]]


def test_status_has_outlooks_before_anything_ran(stand: Stand, command: Command) -> None:
    """Without a state file the fields are there, and empty."""
    reported = json.loads(command("status", "--json")[1])
    assert (reported["forecasts"], reported["backlog"]) == ({}, {})
    assert command("status")[0] == 0


def test_status_explains_a_quota_of_zero(stand: Stand, command: Command) -> None:
    """With one file of quota and three asked for: the quota is used up, and what waits is reported."""
    limits = parse_quota("1,0")
    stand.emulator.account.ledger.limits.update({kind: limits.get(kind, 0) for kind in RefreshKind})
    stand.configure(more="[planner]\nreserve = 0.0\n", target="quota = { file = 1, directory = 0 }")
    for key in ("a.html", "b.html", "c.html"):
        stand.write(key)
    with stand.daemon():
        for key in ("a.html", "b.html", "c.html"):
            assert command("refresh", stand.url(key))[0] in (0, 3)
        until(stand.paths, what="what the quota allows was sent")
        reported = json.loads(command("status", "--json")[1])
        assert set(reported["forecasts"]["main"]) >= {"file", "directory"}
        assert stand.json("/api/status").keys() >= {"forecasts", "backlog"}
    reported = json.loads(command("status", "--json")[1])
    waits = reported["backlog"]["main"]
    assert waits["needs"] == 2
    assert reported["forecasts"]["main"]["file"]["lasts_until"] is not None
    out = command("status")[1]
    assert "account main: the file quota is used up until its reset" in out


def test_a_plan_says_in_plain_words_why_keys_wait(stand: Stand, command: Command, tmp_path: Path) -> None:
    """Where nothing is affordable each key waits for tokens, without any cost of the inside."""
    changes = tmp_path / "changes"
    changes.write_text("a/1.html\na/2.html\n")
    asked = ["plan", "--changes", str(changes), "--files", "0", "--directories", "0"]
    out = command(*asked)[1]
    assert "deferred  a/1.html  Deferred: no file quota left. No directory quota is left either.\n" in out
    assert "0 file and 0 directory refreshes left" not in out
    assert "0 file and 0 directory refreshes left" in command(*asked, "--verbose")[1]
    assert "000000" not in out
    reported = json.loads(command("plan", "--changes", str(changes), "--files", "1", "--directories", "0", "--json")[1])
    (why,) = [one["reason"] for one in reported["refreshes"]]
    assert split_reason(why) == (
        "Sent by itself: the quota allows it, and no directory refresh costs less.",
        "file, 1 of 2 due; 0 file and 0 directory refreshes left",
    )


def test_explain_prints_the_addresses_of_a_key(stand: Stand, command: Command) -> None:
    """Each with the rule that made it; where there is none, why."""
    stand.configure(site='prefix = "public/"\nexclude = ["**/*.map"]\nstrip_suffixes = [".html"]')
    status, out, _ = command("plan", "--explain", "public/[a].html", "--json")
    explained = json.loads(out)
    assert (status, explained["problem"]) == (0, "")
    assert {one["url"].removeprefix(stand.edge): one["rule"] for one in explained["addresses"]} == {
        "/%5Ba%5D.html": "the key itself",
        "/[a].html": "the key itself; spellings: browser",
        "/%5Ba%5D": "strip_suffixes: .html",
        "/[a]": "strip_suffixes: .html; spellings: browser",
    }
    assert "strip_suffixes: .html; spellings: browser" in command("plan", "--explain", "public/[a].html")[1]
    assert "directory" in command("plan", "--explain", "public/a/")[1]
    for key, reason in (
        ("private/a", "serves keys that start with public/"),
        ("public/a.map", "(include, exclude)"),
        ("public/a\nb", "control character"),
    ):
        status, out, _ = command("plan", "--explain", key)
        assert (status, reason in out) == (1, True)


def test_explain_takes_a_url_and_a_path_of_the_tree(stand: Stand, command: Command) -> None:
    """They mean the key that they mean in a list; a URL or a path elsewhere is an error."""
    stand.configure()
    expected = command("plan", "--explain", "shop/a.html")
    assert expected[0] == 0
    for same in ("/shop/a.html", "./shop/a.html", str(stand.tree / "shop/a.html"), stand.url("shop/a.html")):
        assert command("plan", "--explain", same) == expected
    for wrong, words in (("https://other.example/a.html", "is not below"), ("/etc/passwd", "outside of")):
        status, _, err = command("plan", "--explain", wrong)
        assert (status, words in err) == (2, True), err


def test_a_plan_wants_one_question(stand: Stand, command: Command, tmp_path: Path) -> None:
    """Neither and both of --changes and --explain: exit status 2."""
    stand.configure()
    (tmp_path / "changes").write_text("a\n")
    for arguments in ((), ("--explain", "a", "--changes", str(tmp_path / "changes"))):
        status, _, err = command("plan", *arguments)
        assert (status, "--explain KEY" in err) == (2, True)
