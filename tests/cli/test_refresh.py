"""Refreshing and prefetching manually: through the same store and ledger as everything else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from listener.pipeline.engine import PATIENCE_SECONDS
from listener.store import open_store
from tests.stand import SECRET, Stand, fetch

Command = Callable[..., tuple[int, str, str]]


def test_a_refreshed_url_is_fresh_at_the_edge(stand: Stand, command: Command) -> None:
    """With --wait the command ends when the edge serves the new copy; what it cost is in the ledger."""
    stand.write("a b.html", "old")
    assert fetch(stand.url("a b.html"))[1] == "old"
    stand.write("a b.html", "new")
    assert fetch(stand.url("a b.html"))[1] == "old"
    status, out, _ = command("refresh", f"{stand.edge}/a%20b.html", "--wait", "--json")
    assert status == 0
    (reported,) = json.loads(out)["urls"]
    assert (reported["state"], reported["target"], bool(reported["task_id"])) == ("complete", "cdn", True)
    assert fetch(stand.url("a b.html"))[1] == "new"
    assert json.loads(command("status", "--json")[1])["quota"]["cdn"]["file"]["spent"] == 1


def test_without_wait_it_ends_when_the_cdn_took_it(stand: Stand, command: Command) -> None:
    """The task is reported and stays in flight for whoever looks next."""
    stand.order("stuck:a.html:3600")
    status, out, _ = command("refresh", stand.url("a.html"))
    assert status == 0
    assert out.startswith("accepted  cdn  ")
    assert json.loads(command("status", "--json")[1])["in_flight"] == 1


def test_a_directory_is_one_request(stand: Stand, command: Command) -> None:
    """--directory spends a directory and no file."""
    assert command("refresh", f"{stand.edge}/d/", "--directory", "--wait")[0] == 0
    quota = json.loads(command("status", "--json")[1])["quota"]["cdn"]
    assert (quota["file"]["spent"], quota["directory"]["spent"]) == (0, 1)
    assert stand.paths() == [f"{stand.edge}/d/"]


def test_a_prefetch_fills_the_cache(stand: Stand, command: Command) -> None:
    """The edge has a copy afterwards; it cost a prefetch."""
    stand.write("a.html", "one")
    assert command("prefetch", stand.url("a.html"), "--wait")[0] == 0
    stand.write("a.html", "two")
    assert fetch(stand.url("a.html"))[1] == "one"
    assert json.loads(command("status", "--json")[1])["quota"]["cdn"]["prefetch"]["spent"] == 1


def test_the_same_url_twice_is_one_request(stand: Stand, command: Command) -> None:
    """URLs are normalised before they are compared."""
    host = stand.edge.removeprefix("http://")
    assert command("refresh", f"{stand.edge}/a%7Eb", f"HTTP://{host}/a~b", "--wait")[0] == 0
    assert stand.paths() == [f"{stand.edge}/a~b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["https://elsewhere.test/a"], "elsewhere.test"),
        (["https://HOST/a"], "The base URL is http://HOST/: write http://HOST/a"),
        (["https://*.example.com/a"], "wildcard"),
        (["ftp://example.com/a"], "http://"),
        (["http://h/a b"], "blank"),
        (["EDGE/a/../b"], "segment"),
        (["EDGE/a#b"], "fragment"),
        (["EDGE/a", "--directory"], "ends with /"),
        (["EDGE/a/?x", "--directory"], "no query"),
        (["EDGE/", "--directory"], "min_directory_depth"),
        (["EDGE/a", "--urgent"], "--reason"),
        (["EDGE/a", "--target", "cdm"], "cdn"),
        ([], "URL"),
        (["EDGE/a", "--no-such-option"], "--no-such-option"),
    ],
)
def test_what_cannot_be_meant_is_refused(stand: Stand, command: Command, arguments: list[str], words: str) -> None:
    """Exit status 2, one clear message, and nothing is asked for."""
    host = stand.edge.removeprefix("http://")
    written = [word.replace("EDGE", stand.edge).replace("HOST", host) for word in arguments]
    status, out, err = command("refresh", *written)
    assert (status, out) == (2, "")
    assert words.replace("HOST", host) in err
    assert err.startswith("error: ")
    assert not stand.state.exists()


def test_what_quota_does_not_cover_is_deferred(stand: Stand, command: Command) -> None:
    """Exit status 3, the reason, and the need stays; --urgent takes it from the reserve, with its reason kept."""
    stand.order("quota-limit:3,0")
    stand.configure("[planner]\nreserve = 0.4")
    status, out, _ = command("refresh", *(stand.url(f"{n}.html") for n in range(5)), "--json")
    states = [one["state"] for one in json.loads(out)["urls"]]
    assert status == 3
    # The fifth was taken; on a busy machine its task may be done before the command looks.
    assert states.count("deferred") == 4
    assert sum(states.count(state) for state in ("accepted", "complete")) == 1
    assert all(one["reason"] for one in json.loads(out)["urls"] if one["state"] == "deferred")
    reported = json.loads(command("status", "--json")[1])
    assert (reported["pending"], reported["deferred"]) == (4, 4)
    assert command("refresh", stand.url("now.html"), "--urgent", "--reason", "wrong price shown")[0] == 0
    (row,) = [row for row in json.loads(command("tasks", "--json")[1]) if row["url"] == stand.url("now.html")]
    assert (row["urgent"], row["reason"]) == (1, "wrong price shown")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "a-wrong-one", "secret"),
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", "nobody", "key"),
    ],
)
def test_a_wrong_key_is_reported_before_anything_is_recorded(
    stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    """Exit status 1, what to mend, and no need that would be sent later by surprise."""
    monkeypatch.setenv(variable, value)
    status, out, err = command("refresh", stand.url("a.html"))
    assert (status, out) == (2, "")
    assert words in err
    assert "hint: " in err
    assert SECRET not in err
    assert "a-wrong-one" not in err
    assert json.loads(command("status", "--json")[1])["pending"] == 0


def test_a_wrong_clock_is_reported(stand: Stand, command: Command) -> None:
    """Beyond 15 minutes the CDN refuses every request: how far the clock is off is named."""
    stand.order("clock-skew:1200")
    status, _, err = command("refresh", stand.url("a.html"))
    assert status == 2
    assert "clock" in err.lower()


def test_a_throttled_call_is_waited_for(stand: Stand, command: Command) -> None:
    """A CDN that is busy for a moment defers nothing."""
    stand.order("throttle:5:0.2,action=RefreshObjectCaches")
    assert command("refresh", stand.url("a.html"))[0] == 0
    assert stand.paths() == [stand.url("a.html")]


def test_what_a_person_must_mend_is_not_waited_for(stand: Stand, command: Command) -> None:
    """The key may read the quota and not refresh: the command ends at once, with the problem and what to do."""
    stand.order("error:Forbidden.RAM,action=RefreshObjectCaches")
    began = time.monotonic()
    status, out, _ = command("refresh", stand.url("a.html"))
    assert status == 2
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    assert out.startswith("deferred  cdn")
    assert "problem: account main: the CDN answered Forbidden.RAM" in out
    assert "grant this key the RAM actions cdn:RefreshObjectCaches" in out
    assert json.loads(command("status", "--json")[1])["deferred"] == 1


def test_a_refused_url_says_what_to_do(stand: Stand, command: Command) -> None:
    """In its outcome, and in the dead letters later."""
    stand.order(f"domain-not-found:{stand.emulator.edge_url.removeprefix('http://')}")
    status, out, _ = command("refresh", stand.url("a.html"))
    assert status == 3
    remedy = "check that the domain belongs to this account and is online"
    assert out.startswith("parked  cdn") and remedy in out
    assert remedy in command("dead-letters")[1]


async def test_while_a_daemon_owns_the_file_it_only_requests(stand: Stand, command: Command) -> None:
    """Where another process owns the state file the need is left for it, and that is said."""
    async with open_store(f"sqlite:///{stand.state}", owner=True) as store:
        status, out, _ = await asyncio.to_thread(command, "refresh", stand.url("a.html"))
        assert status == 0
        assert "the running daemon sends them" in out
        assert out.startswith("pending  cdn")
        assert (await store.counts()).pending == 1
    assert stand.paths() == []


async def test_what_the_daemon_does_not_send_is_deferred(
    stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --wait a URL is pending while the daemon may send it, and deferred once it has not for a while."""
    monkeypatch.setattr("listener.cli.refresh.STALLED_SECONDS", 0.3)
    async with open_store(f"sqlite:///{stand.state}", owner=True):
        status, out, _ = await asyncio.to_thread(command, "refresh", stand.url("a.html"), "--wait", "--json")
    (one,) = json.loads(out)["urls"]
    assert (status, one["state"]) == (3, "deferred")
    assert "cdn-listener status --url" in one["reason"]


@pytest.mark.parametrize("kind", ["corrupt", "newer"])
def test_an_unusable_state_file_is_kept(stand: Stand, command: Command, kind: str) -> None:
    """Exit status 1 with what to do; not a byte of it changes."""
    import sqlite3

    if kind == "corrupt":
        stand.state.write_bytes(b"no database at all" * 1000)
    else:
        with sqlite3.connect(stand.state) as connection:
            connection.execute(f"PRAGMA application_id = {0x43444E4C}")
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    before = stand.state.read_bytes()
    for arguments in (["refresh", stand.url("a.html")], ["status"], ["tasks"]):
        status, _, err = command(*arguments)
        assert status == 1
        assert "state file" in err
        assert "hint: " in err
    assert stand.state.read_bytes() == before


def test_configuration_mistakes_are_usage_errors(tmp_path: Path, command: Command) -> None:
    """No file, an unreadable one, no TOML, an unknown key: exit status 2, the key and the nearest name."""
    status, _, err = command("status")
    assert (status, "no configuration file" in err) == (2, True)
    assert command("status", "--config", str(tmp_path / "missing.toml"))[0] == 2
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[coalescer]\nquite_seconds = 2\n")
    status, _, err = command("status", "--config", str(wrong))
    assert (status, "quite_seconds" in err, "quiet_seconds" in err) == (2, True, True)
    wrong.write_text("= nothing")
    assert command("config", "show", "--config", str(wrong))[0] == 2
    assert command("no-such-command")[0] == 2


def test_status_says_by_the_same_rule_that_no_site_serves_a_url(stand: Stand, command: Command) -> None:
    """What `refresh` refuses, `status --url` explains, both with the base URL that would match."""
    url = stand.edge.replace("http://", "https://") + "/a"
    refused = command("refresh", url)[2]
    status, out, _ = command("status", "--url", url)
    assert status == 0
    assert f"{url}: no site serves this URL. The base URL is {stand.edge}/" in out
    assert f"The base URL is {stand.edge}/" in refused
    assert "is not below any site's base URL" in refused
    assert json.loads(command("status", "--url", url, "--json")[1])["url"]["problem"] in out
    assert json.loads(command("status", "--url", stand.url("a"), "--json")[1])["url"]["problem"] == ""
