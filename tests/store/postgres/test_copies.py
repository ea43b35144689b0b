"""Copies of one tree on several instances: what each one's changes make, and how long it waits for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from listener.change import Fingerprint
from listener.refresh import NeedState
from listener.store import Store
from listener.store.batches import Batch
from listener.store.copies import Copy, agree
from listener.store.postgres.access import PostgresDriver
from listener.store.postgres.copies import ASK_SECONDS, MOST_WINDOWS, PostgresCopies
from listener.store.retention import Configured
from listener.store.store import StoreOptions
from tests.store.databases import empty_schema
from tests.store.postgres.copies import (
    QUIET_SECONDS,
    WAIT_SECONDS,
    Fleet,
    fleet,
    holds,
    promoted,
    record,
    refresh,
    seed,
)
from tests.store.steps import FakeClock, content, deleted, route, subtree

pytestmark = pytest.mark.looptime(False)


@pytest.fixture
async def stand(store_url: str, clock: FakeClock) -> AsyncIterator[Fleet]:
    """A fleet on an empty schema."""
    empty_schema(store_url)
    async with fleet(store_url, clock) as made:
        yield made


SAME = Fingerprint(5, 1, 1, 1)


@pytest.mark.parametrize(
    ("copies", "is_same"),
    [
        ([Copy(SAME)], True),
        ([], True),
        ([Copy(None), Copy(None)], True),
        ([Copy(None), Copy(SAME)], False),
        ([Copy(SAME), Copy(SAME._replace(ctime_ns=9, inode=9))], True),
        ([Copy(SAME), Copy(SAME._replace(size_bytes=6))], False),
        ([Copy(SAME), Copy(SAME._replace(mtime_ns=2))], False),
        ([Copy(SAME, is_changed=True), Copy(SAME._replace(mtime_ns=2))], False),
        ([Copy(SAME, is_changed=True), Copy(SAME._replace(mtime_ns=2), is_changed=True)], True),
        ([Copy(SAME._replace(etag="a")), Copy(SAME._replace(etag="b"))], False),
        ([Copy(SAME._replace(etag="a")), Copy(SAME._replace(etag="a", mtime_ns=2))], True),
        ([Copy(SAME._replace(etag="a")), Copy(SAME), Copy(SAME._replace(etag="b"))], False),
        ([Copy(Fingerprint()), Copy(Fingerprint())], False),
    ],
)
def test_copies_agree_by_content_or_else_by_size_and_time(copies: list[Copy], is_same: bool) -> None:
    """Attributes of the host, as ctime and inode, do not count."""
    assert agree(copies) is is_same


async def test_each_instance_has_its_own_index(stand: Fleet) -> None:
    """Everything that reads the index reads that of this instance."""
    one, other = await stand.join("a"), await stand.join("b", is_seeded=False)
    await record(one, holds("d/x", 1))
    assert list(await one.directory("www", "d/")) == ["x"]
    assert list(await one.objects("www", ["d/x"])) == ["d/x"]
    assert await one.directories("www") == ["d/"]
    assert await one.seeded("www")
    assert await one.read(lambda snapshot: snapshot.objects_in("www", "d/")) == 1
    assert not await other.directory("www", "d/")
    assert not await other.seeded("www")
    assert await other.read(lambda snapshot: snapshot.objects_in("www", "d/")) == 0


async def test_what_is_equal_elsewhere_makes_a_need_all_the_same(stand: Fleet, clock: FakeClock) -> None:
    """The CDN may have fetched the old copy from just this server."""
    one, other = await stand.join("a"), await stand.join("b")
    await record(one, holds("x", 2, etag="2"))
    await promoted(one, clock, WAIT_SECONDS)
    await refresh(one, "x")
    assert not stand.needs()
    await record(other, holds("x", 2, etag="2"))
    assert stand.needs() == {"x": NeedState.WAITING}


async def test_a_name_that_went_on_one_server_keeps_the_need_of_another(stand: Fleet) -> None:
    """What came and went here may stay there."""
    one, other = await stand.join("a"), await stand.join("b")
    await record(one, content("x", is_birth=True))
    await record(other, content("x", is_birth=True))
    await record(one, deleted("x")._replace(is_birth=True))
    assert stand.needs() == {"x": NeedState.WAITING}


async def test_a_deploy_to_all_servers_takes_one_refresh(stand: Fleet, clock: FakeClock) -> None:
    """Although it takes longer than the quiet period."""
    instances = [await stand.join(name) for name in "abc"]
    refreshes = 0
    for step in range(12):
        if step < len(instances):
            await record(instances[step], holds("x", 2))
        if await promoted(instances[0], clock, 4.0):
            await refresh(instances[0], "x")
            refreshes += 1
    assert refreshes == 1


async def test_a_need_waits_until_the_copies_agree_and_no_longer(stand: Fleet, clock: FakeClock) -> None:
    """It is asked about again in the next slot."""
    one, other = await stand.join("a"), await stand.join("b")
    await record(one, holds("x", 2))
    assert not await promoted(one, clock)
    due = await one.next_due()
    assert due is not None
    assert clock.now() < due <= clock.now() + ASK_SECONDS
    await record(other, holds("x", 2))
    assert await promoted(one, clock) == 1
    assert stand.sql("SELECT count(*) FROM {}.pending_copy") == [(0,)]


async def test_a_server_that_lags_holds_a_need_up_to_the_limit(stand: Fleet, clock: FakeClock) -> None:
    """Then its key is listed, until the copies agree."""
    one, other = await stand.join("a"), await stand.join("b")
    began = clock.now()
    await record(one, holds("d/x", 2))
    questions = 0
    while not await promoted(one, clock, 0.0):
        due = await one.next_due()
        assert due is not None
        clock.time = due
        questions += 1
    assert clock.now() == began + WAIT_SECONDS
    assert questions <= 2 + WAIT_SECONDS / ASK_SECONDS
    (found,) = await one.different_copies()
    assert (found.source, found.key, found.since) == ("www", "d/x", clock.now())
    assert found.instances == ["a", "b"]
    await refresh(one, "d/x")
    await record(other, holds("d/x", 2))
    assert not await one.different_copies()
    assert await promoted(one, clock) == 1
    assert stand.sql("SELECT count(*) FROM {}.different_copy") == [(0,)]


async def test_after_some_waits_in_vain_a_directory_waits_no_more(stand: Fleet, clock: FakeClock) -> None:
    """Other directories do, and that one once copies agreed."""
    one, other = await stand.join("a"), await stand.join("b")
    for size in range(MOST_WINDOWS):
        await record(one, holds("d/x", size))
        assert not await promoted(one, clock)
        assert await promoted(one, clock, WAIT_SECONDS) == 1
        await refresh(one, "d/x")
    await record(one, holds("d/y", 7))
    await record(one, holds("e/y", 7))
    assert await promoted(one, clock) == 1
    assert stand.sql("SELECT name, state FROM {}.need WHERE state = 1") == [("y", 1)]
    await record(one, holds("d/z", 8))
    await record(other, holds("d/z", 8))
    assert await promoted(one, clock) == 1
    await record(one, holds("d/w", 9))
    assert not await promoted(one, clock)


async def test_who_has_no_heartbeat_or_was_not_scanned_does_not_count(stand: Fleet, clock: FakeClock) -> None:
    """It scans before it counts again, and that re-arms."""
    one, _, _ = await stand.join("a"), await stand.join("b"), await stand.join("c", is_seeded=False)
    stand.end("b")
    await record(one, holds("x", 2))
    assert await promoted(one, clock) == 1


async def test_needs_of_other_sources_do_not_wait(stand: Fleet, clock: FakeClock) -> None:
    """A bucket has one copy."""
    one, _ = await stand.join("a"), await stand.join("b")
    await record(one, holds("x", 2)._replace(root="bucket"))
    assert await promoted(one, clock) == 1


async def test_a_deletion_is_awaited_as_a_change_is(stand: Fleet, clock: FakeClock) -> None:
    """To hold nothing is to hold the same."""
    one, other = await stand.join("a"), await stand.join("b")
    for instance in (one, other):
        await seed(instance, holds("x", 2))
    await record(one, deleted("x"))
    assert not await promoted(one, clock)
    await record(other, deleted("x"))
    assert await promoted(one, clock) == 1


async def test_a_subtree_is_awaited_until_all_report_it(stand: Fleet, clock: FakeClock) -> None:
    """No index shows what changed below."""
    one, other = await stand.join("a"), await stand.join("b")
    await record(one, subtree("d/"))
    assert not await promoted(one, clock)
    await record(other, subtree("d/"))
    assert await promoted(one, clock) == 1


async def test_a_change_recorded_during_the_question_is_awaited(stand: Fleet, clock: FakeClock, store_url: str) -> None:
    """The other copy's transaction is open while the need comes due: it re-arms the need after the question."""
    one, other = await stand.join("a"), await stand.join("b")
    await record(one, holds("x", 2))
    await record(other, holds("x", 2))
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    batch = Batch([holds("x", 3)])
    clock.advance(QUIET_SECONDS)

    def interrupted(connection: object) -> None:
        other._recorder.record(connection, batch, route, now=clock.now())  # type: ignore[arg-type]
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

    recording = asyncio.create_task(other._write(interrupted))
    await begun.wait()
    promoting = asyncio.create_task(one.promote_due())
    await asyncio.sleep(0.1)
    go_on.set()
    await recording
    assert not (await promoting).total()
    assert not await promoted(one, clock)
    await record(one, holds("x", 3))
    assert await promoted(one, clock) == 1


async def test_nothing_is_recorded_between_the_question_and_its_answer(stand: Fleet, clock: FakeClock) -> None:
    """The needs are locked before the copies are read: what comes later is asked about by itself."""
    one, other = await stand.join("a"), await stand.join("b")
    await record(one, holds("x", 2))
    await record(other, holds("x", 2))
    asked, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    copies = one._copies
    assert isinstance(copies, PostgresCopies)
    differing = copies._differing

    def interrupted(*arguments: Any) -> Any:
        found = differing(*arguments)
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return found

    copies._differing = interrupted  # type: ignore[assignment, method-assign]
    clock.advance(QUIET_SECONDS)
    promoting = asyncio.create_task(one.promote_due())
    await asked.wait()
    recording = asyncio.create_task(record(other, holds("x", 3)))
    await asyncio.sleep(0.2)
    go_on.set()
    copies._differing = differing  # type: ignore[method-assign]
    await recording
    await promoting
    stand.sql("UPDATE {}.need SET state = 0, due_at = $1, window_first = $1", clock.now())
    assert not await promoted(one, clock)


# -- the first scan of a copy ----------------------------------------------------------------------


async def test_the_first_copy_of_all_is_learned_in_silence(stand: Fleet) -> None:
    """As the first scan of any source is."""
    await seed(await stand.join("a", is_seeded=False), holds("x", 2))
    assert not stand.needs()


async def test_a_server_that_joins_makes_needs_where_it_differs_only(stand: Fleet) -> None:
    """Also where it lacks an object."""
    await seed(await stand.join("a", is_seeded=False), holds("same", 1), holds("other", 2), holds("d/missing", 3))
    await seed(await stand.join("b", is_seeded=False), holds("same", 1, ctime=9), holds("other", 3), holds("e/more", 4))
    assert stand.needs().keys() == {"other", "missing", "more"}


@pytest.mark.parametrize(("ctime_ago", "is_silent"), [(200, True), (130, False), (10, False)])
async def test_a_known_server_under_a_new_name_may_have_been_written_meanwhile(
    stand: Fleet, clock: FakeClock, ctime_ago: int, is_silent: bool
) -> None:
    """What was written after the absence began, less a minute, may have been another content in between."""
    old = await stand.join("pod-1", is_seeded=False)
    await seed(old, holds("x", 1))
    clock.advance(-100)
    await old.upkeep(keep_seconds=1e6)
    clock.advance(100)
    stand.end("pod-1")
    new = await stand.join("pod-2", is_seeded=False)
    await seed(new, holds("x", 1, ctime=int(clock.now()) - ctime_ago))
    assert (not stand.needs()) is is_silent


async def test_a_tree_that_was_shared_before_counts_as_an_absent_copy(stand: Fleet, clock: FakeClock) -> None:
    """Nothing is lost when a state file moves to PostgreSQL."""
    one = await stand.join("a", is_seeded=False)
    stand.sql("INSERT INTO {}.root (name, seeded, used_at) VALUES ('www', 1, $1)", clock.now())
    await seed(one, holds("x", 1))
    assert stand.needs().keys() == {"x"}


async def test_a_first_scan_goes_through_all_directories(stand: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice at a time."""
    monkeypatch.setattr("listener.store.store.FIRST_SCAN_DIRECTORIES", 2)
    await seed(await stand.join("a", is_seeded=False), holds("x", 1))
    keys = [f"{directory}/{directory}" for directory in "abcde"]
    await seed(await stand.join("b", is_seeded=False), *(holds(key, 2) for key in keys))
    assert stand.needs().keys() == {*"abcde", "x"}


async def test_upkeep_retires_the_copies_of_absent_instances_only(stand: Fleet, clock: FakeClock) -> None:
    """As the storage of a source that is configured no longer."""
    one, other = await stand.join("a"), await stand.join("b")
    for instance in (one, other):
        await record(instance, holds("x", 1))
    configured = Configured(frozenset({"www"}), frozenset(), frozenset({"www"}), frozenset({"cdn"}))
    await one.upkeep(keep_seconds=100.0, configured=configured)
    stand.end("b")
    for _ in range(2):
        clock.advance(101)
        await one.upkeep(keep_seconds=100.0, configured=configured)
    assert stand.sql("SELECT name FROM {}.root ORDER BY 1") == [("www@a",)]
    assert list(await one.directory("www", "")) == ["x"]


async def test_upkeep_forgets_what_settled_needs_waited_for_and_what_agrees_again(
    stand: Fleet, clock: FakeClock
) -> None:
    """A change of a ready need leaves such rows."""
    one, _ = await stand.join("a"), await stand.join("b")
    await record(one, holds("x", 1))
    await promoted(one, clock, WAIT_SECONDS)
    await record(one, holds("x", 2))
    await refresh(one, "x")
    assert stand.sql("SELECT count(*) FROM {}.pending_copy, {}.different_copy") == [(1,)]
    await record(one, deleted("x"))
    stand.sql("DELETE FROM {}.need")
    await one.upkeep(keep_seconds=1e6)
    assert stand.sql("SELECT count(*) FROM {}.pending_copy") == [(0,)]
    assert stand.sql("SELECT count(*) FROM {}.different_copy") == [(0,)]


async def leave_traces(stand: Fleet, clock: FakeClock) -> Store:
    """Let two copies differ until the wait is over, and another change wait; return the store that goes on."""
    one, other = await stand.join("a"), await stand.join("b")
    await record(one, holds("d/x", 1))
    await promoted(one, clock, WAIT_SECONDS)
    await record(one, holds("d/x", 2))
    await record(other, holds("d/y", 1))
    counts = [stand.sql(f"SELECT count(*) FROM {{}}.{table}")[0][0] for table in TRACES]
    assert all(counts), counts
    return one


TRACES = ("pending_copy", "different_copy", "copy_window")


async def test_upkeep_removes_what_is_left_of_retired_copies(stand: Fleet, clock: FakeClock) -> None:
    """A source that has no copies any more leaves nothing; nor does it make needs. No source has copies from now on."""
    await leave_traces(stand, clock)
    for name in "ab":
        stand.end(name)
    before = stand.needs()
    driver = PostgresDriver(stand.url, instance="a", owner=True, readonly=False)
    configured = Configured(frozenset({"www"}), frozenset(), frozenset({"www"}), frozenset({"cdn"}))
    async with Store(driver, options=StoreOptions(), clock=clock) as store:
        await store.upkeep(keep_seconds=100.0, configured=configured)
        assert all(stand.sql(f"SELECT 1 FROM {{}}.{table} LIMIT 1") for table in TRACES)
        clock.advance(101)
        for _ in range(2):
            await store.upkeep(keep_seconds=100.0, configured=configured)
    assert stand.sql("SELECT name FROM {}.root WHERE name LIKE 'www@%'") == []
    assert [stand.sql(f"SELECT 1 FROM {{}}.{table}") for table in TRACES] == [[], [], []]
    assert stand.needs() == before


async def test_upkeep_removes_what_an_absent_instance_waited_for(stand: Fleet, clock: FakeClock) -> None:
    """What others wait for and differ in stays; a window stays as long as a copy has the directory."""
    one = await leave_traces(stand, clock)
    stand.end("b")
    configured = Configured(frozenset({"www"}), frozenset(), frozenset({"www"}), frozenset({"cdn"}))
    await one.upkeep(keep_seconds=100.0, configured=configured)
    clock.advance(101)
    for _ in range(2):
        await one.upkeep(keep_seconds=100.0, configured=configured)
    assert {name for (name,) in stand.sql("SELECT DISTINCT instance FROM {}.pending_copy")} == {"a"}
    assert stand.sql("SELECT number FROM {}.copy_window") == [(1,)]
    await record(one, deleted("d/x"))
    stand.sql("DELETE FROM {}.object")
    stand.sql("DELETE FROM {}.tree")
    await one.upkeep(keep_seconds=100.0, configured=configured)
    assert stand.sql("SELECT number FROM {}.copy_window") == []
