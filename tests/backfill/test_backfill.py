"""Backfills: cost before deed, everything once, resumable at any instant, within the quota."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from listener.backfill import Backfill, Mode, opened, source
from listener.errors import ConfigurationError, StoreError
from listener.pipeline.engine import PATIENCE_SECONDS
from listener.plugins import load_targets
from listener.settings import Settings, load_settings
from listener.sources.filesystem import FilesystemSettings
from listener.sources.listing import TreeListing
from listener.store import Store, open_store
from listener.store.controls import Progress
from tests.stand import Stand, a_stand, fetch, until

Command = Callable[..., tuple[int, str, str]]


def fill(stand: Stand, *keys: str) -> list[str]:
    """Put these files at the origin; return their keys."""
    for key in keys:
        stand.write(key)
    return list(keys)


def test_a_tree_is_refreshed_once(stand: Stand, command: Command) -> None:
    """Every file's URL is asked for exactly once, the folder of an index document too."""
    keys = fill(stand, "a.html", "d/b.html", "d/index.html", "日本.jpg")
    status, out, _ = command("backfill", "--yes", "--wait", "--json")
    reported = json.loads(out)
    assert (status, reported["listed"], reported["finished"], reported["pending"]) == (0, 4, True, 0)
    assert sorted(stand.paths()) == sorted([*map(stand.url, keys), f"{stand.edge}/d/"])
    assert reported["plan"]["refreshes"]["file"] == 5
    assert json.loads(command("status", "--json")[1])["quota"]["cdn"]["file"]["spent"] == 5


def test_the_cost_stands_before_the_deed(stand: Stand, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    --dry-run reports objects, URLs, quota by kind, what waits and for how long; nothing is sent or made.

    Where the live quota cannot be read it says that the configured one is assumed.
    """
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "wrong")
    stand.configure(target="quota = { file = 10, directory = 0 }")
    fill(stand, *(f"{n}.html" for n in range(25)), "bad\\name")
    status, out, _ = command("backfill", "--dry-run", "--json")
    reported = json.loads(out)
    assert status == 0
    assert (reported["objects"], reported["urls"], reported["parked"]) == (26, 25, 1)
    assert reported["refreshes"]["file"] + reported["deferred"] == 25
    assert reported["refreshes"]["file"] <= 9
    assert reported["further_days"] == -(-reported["deferred"] // 9)
    assert not stand.state.exists()
    assert stand.paths() == []
    text = command("backfill", "--dry-run")[1]
    assert "keys cannot be a URL" in text
    assert "configured one is assumed" in text
    assert reported["quota_assumed"].startswith("cdn: ")


def test_nobody_there_to_confirm(stand: Stand, command: Command) -> None:
    """Away from a terminal it needs --yes: exit status 2, nothing is sent."""
    fill(stand, "a.html")
    status, _, err = command("backfill")
    assert (status, "--yes" in err) == (2, True)
    assert stand.paths() == []


def test_keys_from_a_file_and_from_stdin(
    stand: Stand, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those keys, and those of --prefix; what is gone from the storage is refreshed too."""
    fill(stand, "a.html", "b.html", "d/c.html")
    (tmp_path / "keys").write_text("a.html\nd/gone.html\n")
    assert command("backfill", "--from", str(tmp_path / "keys"), "--yes", "--wait")[0] == 0
    assert sorted(stand.paths()) == [stand.url("a.html"), stand.url("d/gone.html")]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"b.html\nd/c.html\n"), isatty=lambda: False))
    assert command("backfill", "--from", "-", "--prefix", "d/", "--yes", "--wait")[0] == 0
    assert stand.paths()[2:] == [stand.url("d/c.html")]
    assert command("backfill", "--from", str(tmp_path / "nothing"), "--yes")[0] == 2
    assert command("backfill", "--from", str(tmp_path / "keys"), "--since", "1h", "--yes")[0] == 2


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa.html\r\nb.html\r\n",
        "EDGE/a.html\nEDGE/b.html\n",
        "/a.html\n/b.html",
        "# two\n.\n./d\n./a.html\n\n./b.html\n",
    ],
)
def test_lists_as_people_have_them(stand: Stand, command: Command, tmp_path: Path, text: str) -> None:
    """Each costs two refreshes, of the two files that it means."""
    fill(stand, "a.html", "b.html", "d/c.html")
    (tmp_path / "keys").write_text(text.replace("EDGE", stand.edge), newline="")
    assert command("backfill", "--from", str(tmp_path / "keys"), "--yes", "--wait")[0] == 0
    assert sorted(stand.paths()) == [stand.url("a.html"), stand.url("b.html")]


def test_a_list_that_cannot_be_meant_spends_nothing(stand: Stand, command: Command, tmp_path: Path) -> None:
    """Exit status 2 with the line's number, before the state file is made; `plan --changes` reads by the same rules."""
    fill(stand, "a.html")
    listed = tmp_path / "keys"
    listed.write_text("a.html\nhttps://elsewhere.test/b.html\n")
    for arguments in (("backfill", "--yes", "--from"), ("plan", "--changes")):
        status, _, err = command(*arguments, str(listed))
        assert (status, f"{listed}: line 2: " in err) == (2, True)
    assert stand.paths() == []
    assert not stand.state.exists()
    listed.write_bytes(b"./a.html\0# b\0")
    assert {
        one["key"] for one in json.loads(command("plan", "--changes", str(listed), "-0", "--json")[1])["refreshes"]
    } == {
        "a.html",
        "# b",
    }
    listed.write_bytes(b"\xef\xbb\xbf./a.html\r\n")
    assert (
        command("plan", "--changes", str(listed), "--objects", str(listed), "--json")[1].count('"key": "a.html"') == 1
    )


def test_what_a_person_must_mend_ends_it_at_once(stand: Stand, command: Command) -> None:
    """The key may not refresh: the problem stands there once, with what to do, and nothing is waited for."""
    stand.order("error:Forbidden.RAM,action=RefreshObjectCaches")
    stand.write("a.html", "new")
    began = time.monotonic()
    status, out, _ = command("backfill", "--yes")
    assert status == 2
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    (line,) = [line for line in out.splitlines() if "Forbidden.RAM" in line]
    assert line.startswith("deferred: account main: ") and "grant this key the RAM actions" in line


def test_what_quota_does_not_cover_is_deferred(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 3, never over quota; the rest stays due, and is not listed again to be sent."""
    with a_stand(tmp_path / "small", quota="4,0") as stand:
        monkeypatch.setenv("LISTENER_CONFIG", str(stand.config))
        monkeypatch.setenv("LISTENER_PLANNER__RESERVE", "0")
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "testid")
        monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "testsecret-that-nobody-may-see")
        fill(stand, *(f"{n}.html" for n in range(10)))
        status, out, _ = command("backfill", "--yes", "--json")
        reported = json.loads(out)
        assert (status, reported["listed"], reported["finished"]) == (3, 10, True)
        assert len(stand.paths()) <= 4
        assert reported["deferred"] == 10 - len(stand.paths())
        reported = json.loads(command("backfill", "--yes", "--json")[1])
        assert (reported["plan"]["objects"], reported["listed"], reported["finished"]) == (0, 10, True), "it resumes"
        assert len(stand.paths()) == len(set(stand.paths()))
        assert "deferred: " in command("backfill", "--yes", "--restart")[1]
        assert len(stand.paths()) <= 4


def test_refresh_comes_before_prefetch(stand: Stand, command: Command) -> None:
    """With both modes a URL is fetched into the cache only once its refresh is done."""
    fill(stand, "a.html", "b.html")
    assert command("backfill", "--mode", "refresh,prefetch", "--yes", "--wait")[0] == 0
    kinds = [(record.kind.value, record.path) for record in stand.emulator.account.tasks.all()]
    assert sorted(kinds[:2]) == [("file", stand.url("a.html")), ("file", stand.url("b.html"))]
    assert sorted(kinds[2:]) == [("prefetch", stand.url("a.html")), ("prefetch", stand.url("b.html"))]
    stand.write("a.html", "newer")
    assert fetch(stand.url("a.html"))[1] == "one"


def test_prefetch_alone_leaves_the_index_alone(stand: Stand, command: Command) -> None:
    """Prefetching says nothing about what the listener has seen: a missed change must still be found."""
    fill(stand, "a.html")
    assert command("backfill", "--mode", "prefetch", "--yes", "--wait")[0] == 0
    assert [record.kind.value for record in stand.emulator.account.tasks.all()] == ["prefetch"]
    assert json.loads(command("backfill", "--mode", "audit")[1])["unknown"] == 1


def test_a_seeding_sends_nothing_and_is_refused_twice(stand: Stand, command: Command) -> None:
    """The index knows everything afterwards; seeding what is seeded would hide changes."""
    fill(stand, "a.html", "d/b.html")
    assert json.loads(command("backfill", "--mode", "audit")[1])["unknown"] == 2
    assert not stand.state.exists()
    assert command("backfill", "--mode", "seed", "--yes")[0] == 0
    assert stand.paths() == []
    stand.write("a.html", "changed")
    fill(stand, "c.html")
    reported = json.loads(command("backfill", "--mode", "audit")[1])
    assert (reported["same"], reported["changed"], reported["unknown"]) == (1, 1, 1)
    assert reported["examples"] == ["a.html", "c.html"]
    status, _, err = command("backfill", "--mode", "seed", "--yes")
    assert (status, "hide" in err) == (2, True)
    assert command("backfill", "--mode", "seed,refresh", "--yes")[0] == 2


async def test_while_a_daemon_runs_it_only_makes_needs(stand: Stand) -> None:
    """Where another process owns the state file the needs are left for it, all of them and durable."""
    keys = fill(stand, *(f"{n}.html" for n in range(7)))
    settings, job = a_job(stand)
    async with open_store(settings.store.url, owner=True) as owner:
        async with opened(settings, load_targets(settings)) as store:
            outcome = await job.run(store, None, follow=False)
        assert (outcome.sent_here, outcome.finished, outcome.listed) == (False, True, 7)
        assert not outcome.put_off
        assert (await owner.counts()).pending == len(keys)
    assert stand.paths() == []


def a_job(stand: Stand, *modes: Mode) -> tuple[Settings, Backfill]:
    """Return the configuration and a backfill of the whole origin."""
    settings = load_settings(stand.config, {})
    listing = TreeListing("www", FilesystemSettings(path=stand.tree))
    return settings, Backfill(settings, load_targets(settings), listing, list(modes) or [Mode.REFRESH])


async def test_what_is_noted_as_listed_is_durable(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress never runs ahead of the needs: at each note, every key up to it has its need."""
    monkeypatch.setattr(source, "PORTION_KEYS", 3)
    keys = sorted(fill(stand, *(f"{n:02}.html" for n in range(20))))
    noted: list[int] = []
    save = Store.save_progress

    async def watched(self: Store, listing: str, progress: Progress) -> None:
        counts = await self.counts()
        assert counts.pending >= keys.index(progress.after) + 1
        noted.append(progress.listed)
        await save(self, listing, progress)

    monkeypatch.setattr(Store, "save_progress", watched)
    settings, job = a_job(stand)
    async with open_store(settings.store.url, owner=True), opened(settings, {}) as store:
        outcome = await job.run(store, None, follow=False)
    assert noted == [3, 6, 9, 12, 15, 18, 20, 20]
    assert outcome.finished


async def test_an_interrupted_run_goes_on_where_it_was_sure(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run lists only what follows the last durable key; together they listed everything."""
    monkeypatch.setattr(source, "PORTION_KEYS", 4)
    fill(stand, *(f"{n:02}.html" for n in range(20)))
    settings, job = a_job(stand)
    listed: list[str] = []
    ends = asyncio.Event()
    save = Store.save_progress

    async def stopping(self: Store, listing: str, progress: Progress) -> None:
        await save(self, listing, progress)
        if progress.listed == 8 and not ends.is_set():
            ends.set()
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)

    monkeypatch.setattr(Store, "save_progress", stopping)
    original = TreeListing.changes

    def watched(self: TreeListing, after: str = "") -> object:
        for change in original(self, after):
            listed.append(change.key)
            yield change

    async with open_store(settings.store.url, owner=True) as owner:
        async with opened(settings, {}) as store:
            first = await job.run(store, None, follow=False)
        assert (first.interrupted, first.finished) == (True, False)
        plan = await job.plan(owner, now=owner.clock.now())
        assert plan.begun is not None
        assert plan.begun.listed == first.listed >= 8
        assert plan.cost.objects == 20 - first.listed
        monkeypatch.setattr(TreeListing, "changes", watched)
        async with opened(settings, {}) as store:
            second = await job.run(store, plan, follow=False)
        assert (second.finished, second.listed) == (True, 20)
        assert listed == [f"{n:02}.html" for n in range(first.listed, 20)]
        assert (await owner.counts()).pending == 20
        assert (await job.plan(owner, now=owner.clock.now())).begun is None


async def test_a_portion_that_could_not_be_noted_is_listed_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store fails nothing later is taken; once it can again, the listing goes on, leaving nothing out."""
    monkeypatch.setattr(source, "PORTION_KEYS", 2)
    fill(stand, *(f"{n:02}.html" for n in range(10)))
    save = Store.save_progress
    noted: list[int] = []

    async def failing(self: Store, listing: str, progress: Progress) -> None:
        if progress.listed in (4, 6) and len(noted) < 3:
            noted.append(-1)
            raise StoreError("disk full")
        noted.append(progress.listed)
        await save(self, listing, progress)

    monkeypatch.setattr(Store, "save_progress", failing)
    settings, job = a_job(stand)
    async with open_store(settings.store.url, owner=True) as owner, opened(settings, {}) as store:
        outcome = await job.run(store, None, follow=False)
        assert noted == [2, -1, -1, 8, 10, 10]
        assert (outcome.finished, outcome.listed) == (True, 10)
        assert (await owner.counts()).pending == 10


async def test_a_failure_that_is_known_before_the_next_portion_ends_nothing_for_good(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However soon the store's error comes back, the listing goes on, and waits for no ack that never comes."""
    monkeypatch.setattr(source, "PORTION_KEYS", 2)
    fill(stand, *(f"{n:02}.html" for n in range(10)))
    save, failures = Store.save_progress, [StoreError("disk full"), StoreError("disk full")]

    async def failing(self: Store, listing: str, progress: Progress) -> None:
        if failures:
            raise failures.pop()
        await save(self, listing, progress)

    monkeypatch.setattr(Store, "save_progress", failing)
    settings, job = a_job(stand)
    async with open_store(settings.store.url, owner=True) as store:
        feed = job._feed(store, None)
        keys: list[str] = []
        for _ in range(2):
            with pytest.raises(StoreError):
                await take(feed, store, keys)
        await take(feed, store, keys)
    assert keys == [f"{n:02}.html" for n in range(10)]


async def take(feed: source.Feed | source.RepairFeed, store: Store, keys: list[str]) -> None:
    """Take every delivery, acknowledge it at once, and add its keys."""
    async for delivery in feed.deliveries(store):
        keys += [change.key for change in delivery.changes]
        await delivery.ack()


async def test_a_prefetch_that_could_not_be_asked_for_is_asked_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Portions behind one that failed are not noted before it: no key is left out when the listing goes on."""
    monkeypatch.setattr(source, "PORTION_KEYS", 2)
    keys = fill(stand, *(f"{n:02}.html" for n in range(10)))
    ask = Store.request
    calls: list[int] = []

    async def failing(self: Store, *given: object, **options: object) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise StoreError("disk full")
        return await ask(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "request", failing)
    settings, job = a_job(stand, Mode.PREFETCH)
    async with open_store(settings.store.url, owner=True) as owner, opened(settings, {}) as store:
        outcome = await job.run(store, None, follow=False)
        assert outcome.finished
        assert (await owner.counts()).pending == len(keys)


def test_seed_and_audit_stand_alone(stand: Stand) -> None:
    """What they mean next to a refresh nobody could say."""
    with pytest.raises(ConfigurationError):
        a_job(stand, Mode.SEED, Mode.REFRESH)


async def test_a_run_does_not_end_while_it_is_about_to_plan(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """What turned due a moment ago is sent, not taken for what quota left over."""
    promote_due = Store.promote_due

    async def slowly(self: Store) -> int:
        count = await promote_due(self)
        await asyncio.sleep(0.5)
        return count

    monkeypatch.setattr(Store, "promote_due", slowly)
    fill(stand, "a.html")
    settings, job = a_job(stand)
    async with opened(settings, job._targets) as store:
        outcome = await job.run(store, None, follow=False)
    assert not outcome.put_off
    assert stand.paths() == [stand.url("a.html")]


def test_ctrl_c_of_the_real_command(stand: Stand) -> None:
    """SIGINT ends it with 130, with the line that goes on; that line ends what was begun, leaving nothing out."""
    stand.configure(target="limits = { batch_urls = 20 }")
    keys = fill(stand, *(f"d{n % 20}/{n}.html" for n in range(600)))
    stand.order("slow:0.5,action=RefreshObjectCaches")
    process = stand.command("backfill", "--yes", "--wait")
    until(lambda: stand.paths() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Continue with: cdn-listener backfill --yes --wait" in err
    assert "Traceback" not in err
    assert len(stand.paths()) < len(keys)
    stand.emulator.faults.clear()
    status, out, err = stand.run("backfill", "--yes", "--wait", "--json")
    assert status == 0, err
    reported = json.loads(out)
    assert (reported["finished"], reported["pending"], reported["in_flight"]) == (True, 0, 0)
    refreshed = tuple(stand.paths())
    assert all(stand.url(key) in refreshed or stand.url(key.partition("/")[0] + "/") in refreshed for key in keys)
