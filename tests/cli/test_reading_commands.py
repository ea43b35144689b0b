"""The commands that read: they work whether or not a daemon runs, and change nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from listener.allowances import Day, for_each_kind
from listener.contracts import KindLimits, TargetBase, Unreadable
from listener.refresh import RefreshKind, Scope
from listener.store import NeedInput, open_store
from listener.store.controls import AccountReport
from listener.store.filtering import OLD_NEWS, SuppressedWriter
from listener.store.transitions import AttemptRequest
from tests.stand import SECRET, Stand, fetch

Command = Callable[..., tuple[int, str, str]]
NUMBERS = ("pending", "deferred", "in_flight", "failed", "parked", "unconfirmed", "dead_letters")


def test_status_before_anything_ran(stand: Stand, command: Command) -> None:
    """Zeros, the configured quota and every source; no state file is made."""
    status, out, _ = command("status", "--json", "--config", str(stand.config))
    reported = json.loads(out)
    assert status == 0
    assert [reported[name] for name in NUMBERS] == [0] * len(NUMBERS)
    assert reported["oldest_unsettled_seconds"] == 0
    assert set(reported["quota"]["cdn"]) == {"file", "directory", "prefetch", "ignore-params"}
    assert reported["quota"]["cdn"]["file"] | {"resets_at": ""} == {
        "limit": 10000,
        "spent": 0,
        "others": 0,
        "held": 0,
        "left": 10000,
        "reserve": 1000,
        "resets_at": "",
        "window": "a day",
    }
    resets_at = datetime.fromisoformat(reported["quota"]["cdn"]["file"]["resets_at"])
    assert (resets_at.utcoffset().total_seconds(), resets_at.hour) == (0, 16)  # type: ignore[union-attr]
    source = reported["sources"]["www"]
    assert {name: source[name] for name in ("state", "last_event_at", "lost_events", "rescans")} == {
        "state": "stopped",
        "last_event_at": None,
        "lost_events": 0,
        "rescans": 0,
    }
    assert not stand.state.exists()


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["tasks"], ["tasks", "--json"], ["dead-letters"], ["dead-letters", "--json"], ["quota", "--json"]],
)
def test_reading_makes_no_state_file(stand: Stand, command: Command, arguments: list[str]) -> None:
    """Each reading command answers without a state file, and leaves none behind."""
    assert command(*arguments, "--config", str(stand.config))[0] == 0
    assert not stand.state.exists()


def test_quota_shows_the_ledger_and_the_live_reading(stand: Stand, command: Command) -> None:
    """What we booked and what the CDN says stand side by side."""
    stand.write("a.html")
    assert command("refresh", stand.url("a.html"), "--wait")[0] == 0
    reported = json.loads(command("quota", "--json")[1])["quota"]["cdn"]["file"]
    assert (reported["limit"], reported["spent"], reported["left"]) == (10000, 1, 9999)
    assert reported["live"] == {"limit": 10000, "remaining": 9999}


def test_quota_left_is_no_more_than_the_cdn_reports(stand: Stand, command: Command) -> None:
    """A limit that the CDN lowered since the ledger was corrected last bounds what is left, in text and JSON."""
    stand.write("a.html")
    assert command("refresh", stand.url("a.html"), "--wait")[0] == 0
    stand.order("quota-limit:5,0")
    found = json.loads(command("quota", "--json")[1])["quota"]["cdn"]
    assert found["file"]["live"] == {"limit": 5, "remaining": 4}
    assert (found["file"]["left"], found["directory"]["left"]) == (4, 0)
    assert (found["file"]["reserve"], found["directory"]["reserve"]) == (4, 0)
    header = command("quota")[1].splitlines()[0]
    assert all(title in header for title in ("others", "left", "reserve", "live left"))


def test_a_quota_without_a_limit_is_unlimited(command: Command, monkeypatch: pytest.MonkeyPatch, stand: Stand) -> None:
    """Text says so for a target without allowances, and names no reset; JSON lists the kinds."""
    target = TargetBase("cache", None)
    target.limits = {RefreshKind.FILE: KindLimits(10)}
    monkeypatch.setattr("listener.plugins.load_targets", lambda _: {"cache": target})
    for name in ("status", "quota"):
        status, out, _ = command(name)
        (line,) = [line for line in out.splitlines() if line.startswith("cache ")]
        assert (status, line.split()) == (0, ["cache", "file", "unlimited"])
        shown = json.loads(command(name, "--json")[1])
        assert (shown["quota"]["cache"], shown["unlimited"]["cache"]) == ({}, ["file"])


def test_quota_says_when_the_cdn_cannot_be_asked(
    stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 1 and the reason; the ledger is shown all the same."""
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "another-secret")
    status, out, err = command("quota", "--json")
    assert status == 1
    assert json.loads(out)["quota"]["cdn"]["file"]["limit"] == 10000
    assert "cdn" in err
    assert "another-secret" not in out + err


def test_tasks_shows_what_was_requested_and_why(stand: Stand, command: Command) -> None:
    """Each attempt with its task, state, times in UTC, looks and reason, newest first; --limit bounds them."""
    for key in ("a.html", "b.html"):
        stand.write(key)
        assert command("refresh", stand.url(key), "--wait")[0] == 0
    rows = json.loads(command("tasks", "--json")[1])
    assert [row["url"] for row in rows] == [stand.url("b.html"), stand.url("a.html")]
    assert all(row["state"] == "complete" and row["task_id"] and row["reason"] for row in rows)
    assert all(row["accepted_at"].endswith("Z") for row in rows)
    assert len(json.loads(command("tasks", "--json", "--limit", "1")[1])) == 1
    assert stand.url("b.html") in command("tasks")[1]


def test_status_of_one_url(stand: Stand, command: Command) -> None:
    """Whether it is stale, and what was asked about it."""
    stand.write("a.html")
    command("refresh", stand.url("a.html"), "--wait")
    reported = json.loads(command("status", "--json", "--url", stand.url("a.html"))[1])["url"]
    assert not reported["stale"]
    assert [attempt["state"] for attempt in reported["attempts"]] == ["complete"]
    assert reported["suppressed"] is None
    assert "nothing is known to be stale" in command("status", "--url", stand.url("a.html"))[1]
    other = command("status", "--url", "http://other.test/")[1]
    assert f"http://other.test/: no site serves this URL. Base URLs are: {stand.edge}/." in other
    assert "nothing is known to be stale" not in other


def test_status_of_one_url_names_who_serves_it_and_what_is_next(stand: Stand, command: Command) -> None:
    """Site, source, target, last change, last refresh and the next step, as text and as JSON."""
    stand.configure(site='name = "shop"')
    stand.write("a.html")
    url = stand.url("a.html")
    command("refresh", url, "--wait")
    found = json.loads(command("status", "--json", "--url", url)[1])["url"]
    assert (found["site"], found["source"], found["targets"], found["problem"]) == ("shop", "www", ["cdn"], "")
    assert (found["last_refresh"]["kind"], found["last_refresh"]["url"]) == ("file", url)
    assert found["last_change"] <= found["last_refresh"]["finished_at"]
    assert found["next_step"].startswith("nothing: it is fresh")
    command("pause", "--reason", "audit")
    command("refresh", url)
    found = json.loads(command("status", "--json", "--url", url)[1])["url"]
    assert found["last_change"] > found["last_refresh"]["finished_at"]
    assert "no daemon runs" in found["next_step"]
    out = command("status", "--url", url)[1]
    for line in (
        "site: shop, source www, target cdn",
        "last change: 20",
        "last refresh: 20",
        "next step: no daemon runs",
    ):
        assert f"\n  {line}" in out, out
    other = json.loads(command("status", "--json", "--url", "http://other.test/")[1])["url"]
    assert (other["site"], other["source"], other["targets"]) == (None, None, [])


def test_status_begins_with_what_is_wrong(stand: Stand, command: Command) -> None:
    """Verdict, problems, disjoint numbers, then the oldest with age, state, reason and next try; or all of them."""

    async def prepare() -> None:
        async with open_store(f"sqlite:///{stand.state}", owner=True) as store:
            await store.request([NeedInput("cdn", stand.url(f"d/{number}.html"), Scope.EXACT) for number in range(12)])
            await store.save_account(AccountReport("main", "cannot connect to http://127.0.0.1:1", "look", 1.8e9))

    asyncio.run(prepare())
    lines = command("status")[1].splitlines()
    assert lines[0] == "12 URLs are not fresh yet"
    assert lines[1].startswith("problem: no daemon is running")
    assert any(one.startswith("problem: account main: cannot connect to http://127.0.0.1:1") for one in lines[:6])
    assert "waiting for us: 12 (12 pending, 12 of them due; 0 failed)" in lines
    assert "waiting for the CDN: 0 (in flight)" in lines
    assert "waiting for a person: 0 (0 rejected, 0 unconfirmed)" in lines
    first = lines.index("stale, oldest first:")
    assert lines[first + 1] == f"  {stand.url('d/0.html')}"
    assert re.match(r"    deferred for [\d.]+ m?s.*, since 20.*; no daemon runs", lines[first + 2])
    assert sum(one.startswith("  http") for one in lines) == 10
    assert "  more: cdn-listener status --all, or --prefix P" in lines
    every = command("status", "--all")[1]
    assert every.count(f"  {stand.edge}/d/") == 12
    assert len(json.loads(command("status", "--all", "--json")[1])["stale"]) == 12
    some = command("status", "--prefix", "/d/1")[1]
    assert some.count(f"  {stand.edge}/d/") == 3
    assert "resets at" not in some
    found = json.loads(command("status", "--prefix", "/d/1", "--json")[1])
    assert {one["url"] for one in found["stale"]} == {stand.url(f"d/{number}.html") for number in (1, 10, 11)}
    assert {one["waits_for"] for one in found["stale"]} == {"us"}
    assert found["pending"] == sum(found["waits_for"][who]["needs"] for who in ("us", "cdn", "person")) == 12


def test_status_of_one_url_shows_changes_that_made_no_refresh(stand: Stand, command: Command) -> None:
    """How many, when the last was recorded, and why."""
    stand.write("a.html")
    command("refresh", stand.url("a.html"), "--wait")
    with contextlib.closing(sqlite3.connect(stand.state)) as connection, connection:
        changes = SuppressedWriter()
        for _ in range(2):
            changes.note(stand.url("a.html"), OLD_NEWS)
        changes.flush(connection, 1_800_000_000.0)
    reported = json.loads(command("status", "--json", "--url", stand.url("a.html"))[1])["url"]
    assert reported["suppressed"] == {"times": 2, "at": "2027-01-15T08:00:00Z", "reason": OLD_NEWS}
    shown = command("status", "--url", stand.url("a.html"))[1]
    assert f"2 changes made no refresh, the last at 2027-01-15T08:00:00Z: {OLD_NEWS}" in shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b'{"keys": 1, "x": "\xe2\x80\xae\x1b[2J"}', '{"keys": 1, "x": "'), (b"\xff\x00", "ff00 (hexadecimal)")],
)
def test_an_unreadable_message_is_shown_with_its_body(stand: Stand, command: Command, body: bytes, shown: str) -> None:
    """As it was received, but for what a terminal would obey."""

    async def keep() -> None:
        async with open_store(f"sqlite:///{stand.state}") as store:
            await store.add_dead_letters("hook", [Unreadable(b"id", body, "not JSON")])

    asyncio.run(keep())
    (letter,) = json.loads(command("dead-letters", "--json")[1])
    out = command("dead-letters", "--show", letter["id"])[1]
    assert "reason:  not JSON" in out
    assert shown in out
    assert out.replace("\n", "").isprintable()
    found = json.loads(command("dead-letters", "--show", letter["id"], "--json")[1])
    assert (found["body"] or "").encode() == body or found["body_hex"] == body.hex()


def test_what_the_cdn_refused_is_listed_retried_and_discarded(stand: Stand, command: Command) -> None:
    """A parked URL shows with the CDN's words; it is sent again on demand, or forgotten."""
    stand.order("malformed:bad")
    assert command("refresh", stand.url("bad.html"))[0] == 3
    (letter,) = json.loads(command("dead-letters", "--json")[1])
    assert (letter["kind"], letter["subject"]) == ("url", stand.url("bad.html"))
    assert letter["reason"]
    shown = command("dead-letters", "--show", letter["id"])[1]
    assert stand.url("bad.html") in shown
    assert "body:    none kept" in shown
    assert command("dead-letters", "--show", "letter-99")[0] == 2
    assert command("dead-letters", "--retry", stand.url("nothing.html"))[0] == 1
    assert json.loads(command("dead-letters", "--retry", stand.url("bad.html"), "--json")[1]) == {"retried": 1}
    assert json.loads(command("status", "--json")[1])["pending"] == 1
    assert command("refresh", stand.url("bad.html"))[0] == 3
    assert json.loads(command("dead-letters", "--discard-all", "--json")[1]) == {"discarded": 1}
    assert command("dead-letters")[1].strip() == "no dead letters"
    assert command("dead-letters", "--retry-all", "--discard-all")[0] == 2


def test_dead_letters_are_filtered_and_paged(stand: Stand, command: Command) -> None:
    """By kind, source and prefix; the next page begins after the last id; on the page as in the command."""
    names = [f"bad{n}.html" for n in range(30)]

    async def reject() -> None:
        async with open_store(f"sqlite:///{stand.state}", owner=True) as store:
            wanted = [AttemptRequest("cdn", RefreshKind.FILE, stand.url(name), True, "test", 0.0) for name in names]
            await store.request([NeedInput("cdn", stand.url(name)) for name in names])
            for one in await store.hold(
                wanted, account="main", allowances=for_each_kind({RefreshKind.FILE: 100}, Day())
            ):
                await store.park([one.id], error="Malformed")

    asyncio.run(reject())

    def listed(*arguments: str) -> list[dict[str, str]]:
        status, out, err = command("dead-letters", "--json", *arguments)
        assert status == 0, err
        return list(json.loads(out))

    pages = [listed("--limit", "20")]
    assert "more: --after" in command("dead-letters", "--limit", "20")[2]
    pages.append(listed("--limit", "20", "--after", pages[0][-1]["id"]))
    assert [len(page) for page in pages] == [20, 10]
    assert {one["subject"] for page in pages for one in page} == {stand.url(name) for name in names}
    assert len(listed("--kind", "url", "--source", "cdn", "--prefix", stand.url("bad1"))) == 11
    assert listed("--kind", "key") == listed("--source", "www") == listed("--prefix", "x") == []
    for wrong in (("--kind", "x"), ("--after", "x")):
        assert command("dead-letters", *wrong)[0] == 2
    with stand.daemon():
        first = fetch(f"{stand.admin}/")[1]
        (more,) = re.findall(r'href="(/\?after=[^"#]*)', first)
        second = fetch(stand.admin + more.replace("&amp;", "&"))[1]
        shown = [set(re.findall(r"bad\d+\.html", re.sub(r'(?s)id="recent".*', "", text))) for text in (first, second)]
        assert [len(one) for one in shown] == [25, 5]
        assert not shown[0] & shown[1]
        assert "No other dead letters" in fetch(f"{stand.admin}/?kind=key&source=www&prefix=x")[1]
        assert fetch(f"{stand.admin}/?kind=x")[0] == fetch(f"{stand.admin}/?after=x")[0] == 400


def test_config_show_hides_secrets(stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Effective values with defaults, as TOML or JSON; a password in a database URL does not show."""
    assert "quiet_seconds = 0.2" in command("config", "show")[1]
    monkeypatch.setenv("LISTENER_STORE__URL", "postgresql://me:hunter2@db/x")
    shown = command("config", "show", "--json")[1]
    assert "hunter2" not in shown
    assert json.loads(shown)["coalescer"]["cap_seconds"] == 30.0


def test_config_schema_and_plugins(command: Command) -> None:
    """Both need no configuration; the schema holds the plugins' tables."""
    schema = json.loads(command("config", "schema")[1])
    assert "filesystem" in json.dumps(schema["properties"]["sources"])
    names = {(plugin["group"], plugin["name"]) for plugin in json.loads(command("plugins", "--json")[1])}
    assert {("sources", "filesystem"), ("targets", "alibaba-cdn")} <= names
    assert "alibaba-cdn" in command("plugins")[1]


def test_check_tries_everything(stand: Stand, command: Command) -> None:
    """State file, admin port, path, credentials, quota, clock and reads: each is reported, nothing is changed."""
    status, out, _ = command("check", "--json")
    found = json.loads(out)
    assert status == 0
    assert not [one for one in found if one["state"] == "failed"]
    subjects = " ".join(one["subject"] for one in found)
    for word in ("store", "admin", "sources.www.path", "credentials", "quota", "clock"):
        assert word in subjects
    assert not stand.state.exists()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("secret", "signature|secret|Signature"),
        ("path", "does not exist"),
        ("skew", "ahead of|clock|Timestamp"),
        ("port", "cannot listen"),
        ("directory", "directory does not exist"),
        ("corrupt", "not a usable SQLite file"),
        ("newer", "newer version"),
        ("foreign", "another program"),
        ("empty", "not set or empty"),
    ],
)
def test_check_names_what_is_wrong(
    stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch, case: str, words: str
) -> None:
    """Each thing that can be wrong is named with a hint, and the exit status is 1."""
    break_it(stand, monkeypatch, case)
    status, out, err = command("check", "--json")
    failed = [one for one in json.loads(out) if one["state"] == "failed"]
    assert status == 1
    assert failed
    assert re.search(words, " ".join(one["message"] for one in failed)), failed
    assert all(one["hint"] for one in failed), failed
    assert SECRET not in out + err


def break_it(stand: Stand, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Make one thing wrong."""
    match case:
        case "secret":
            monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "another-secret")
        case "empty":
            monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "")
        case "path":
            stand.configure(path="/nowhere/at/all")
        case "skew":
            stand.order("clock-skew:1200")
        case "port":
            monkeypatch.setenv("LISTENER_ADMIN__LISTEN", stand.edge.removeprefix("http://"))
        case "directory":
            monkeypatch.setenv("LISTENER_STORE__URL", f"sqlite:///{stand.root}/no/state.db")
        case "corrupt":
            stand.state.write_bytes(b"this is no database, but long enough to look at" * 100)
        case _:
            connection = sqlite3.connect(stand.state)
            connection.execute("CREATE TABLE t (x)")
            if case == "newer":
                connection.execute(f"PRAGMA application_id = {0x43444E4C}")
                connection.execute("PRAGMA user_version = 99")
            connection.commit()
            connection.close()


def test_plan_without_a_configuration(tmp_path: Path, command: Command) -> None:
    """Keys in, refreshes out; that depth 1 is assumed is said on stderr."""
    changes, objects = tmp_path / "changes", tmp_path / "objects"
    changes.write_text("".join(f"a/{n}.html\n" for n in range(50)) + "b/x.html\n日本.jpg\n")
    objects.write_text("".join(f"a/{n}.html\n" for n in range(60)) + "b/x.html\n日本.jpg\n")
    status, out, err = command(
        "plan", "--changes", str(changes), "--objects", str(objects), "--files", "3", "--directories", "1", "--json"
    )
    made = json.loads(out)
    assert status == 0
    assert "depth = 1" in err
    assert {(one["kind"], one["key"]) for one in made["refreshes"]} == {
        ("directory", "a/"),
        ("file", "b/x.html"),
        ("file", "日本.jpg"),
    }
    assert made["collateral"] == 10
    assert made["spent"] == {"file": 2, "directory": 1}
    assert made["deferred"] == []
    assert (
        "spent: 2 file, 1 directory"
        in command("plan", "--changes", str(changes), "--objects", str(objects), "--files", "3", "--directories", "1")[
            1
        ]
    )


def test_plan_takes_keys_as_the_storage_has_them(stand: Stand, tmp_path: Path, command: Command) -> None:
    """The site's prefix, filters and depth count; keys of other places are left out; keys come back whole."""
    stand.configure(site='prefix = "public/"\nexclude = ["**/*.tmp"]\nmin_directory_depth = 2')
    changes = tmp_path / "changes"
    changes.write_text("".join(f"public/a/{n}.html\n" for n in range(9)) + "private/x\npublic/y.tmp\n")
    _, out, _ = command("plan", "--changes", str(changes), "--files", "2", "--directories", "5", "--json")
    made = json.loads(out)
    assert {one["key"] for one in made["refreshes"]} <= {f"public/a/{n}.html" for n in range(9)}
    assert len(made["refreshes"]) == 2
    assert len(made["deferred"]) == 7


def test_plan_wants_a_site_named_where_there_are_several(stand: Stand, tmp_path: Path, command: Command) -> None:
    """Two sites and no --site: exit status 2, with the choices."""
    stand.configure('[[sites]]\nsource = "www"\ntarget = "cdn"\nbase_urls = ["http://other.test/"]')
    (tmp_path / "changes").write_text("a\n")
    status, _, err = command("plan", "--changes", str(tmp_path / "changes"), "--files", "1", "--directories", "1")
    assert (status, "--site 1" in err) == (2, True)
    assert command("plan", "--changes", str(tmp_path / "changes"), "--site", "1")[0] == 0
    assert command("plan", "--changes", str(tmp_path / "changes"), "--site", "2")[0] == 2
    assert command("plan", "--changes", str(tmp_path / "nothing"), "--site", "1")[0] == 2


def test_a_key_that_is_no_utf8_can_be_printed(stand: Stand, tmp_path: Path, command: Command) -> None:
    """Bytes that are no UTF-8 come out escaped, as JSON and as text."""
    (tmp_path / "changes").write_bytes(b"a/\xff.html\0")
    status, out, _ = command("plan", "-0", "--changes", str(tmp_path / "changes"), "--json")
    assert (status, json.loads(out)["refreshes"][0]["key"]) == (0, "a/\udcff.html")
    assert command("plan", "-0", "--changes", str(tmp_path / "changes"))[0] == 0


def test_check_warns_where_one_site_may_spend_all(stand: Stand, command: Command) -> None:
    """Several sites of one account without any share or guarantee; one site alone is no reason to warn."""

    def warned() -> list[str]:
        checks = json.loads(command("check", "--json")[1])
        rows = checks["checks"] if isinstance(checks, dict) else checks
        return [row["subject"] for row in rows if "any one of them may spend 75%" in row["message"]]

    stand.configure()
    assert warned() == []
    more = '[[sites]]\nsource = "www"\ntarget = "cdn"\nprefix = "shop/"\nbase_urls = ["http://shop.test/"]\n{}'
    stand.configure(more.format(""))
    assert warned() == ["account main"]
    stand.configure(more.format("share = { file = 0.5 }"))
    assert warned() == []


def test_a_path_that_is_missing_is_named_once(stand: Stand, command: Command) -> None:
    """The line begins with the setting; its message does not repeat it."""
    stand.configure(path=str(stand.root / "missing"))
    _, out, _ = command("check")
    (line,) = [one for one in out.splitlines() if "does not exist" in one and "sources.www" in one]
    assert line.count("sources.www.path") == 1


def test_old_names_of_options_work_and_are_not_shown(command: Command, stand: Stand) -> None:
    """Help names one word for each thing."""
    stand.configure()
    assert command("tasks", "--by-hand")[:2] == command("tasks", "--manual")[:2]
    assert "--by-hand" not in command("tasks", "--help")[1]
    assert "--anew" not in command("backfill", "--help")[1]
    stand.write("a.html")
    assert command("backfill", "--dry-run", "--anew")[0] == 0
