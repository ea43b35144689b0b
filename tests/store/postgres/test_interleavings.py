"""
Two instances at once, each interleaving forced: no change is lost, whatever commits first.

What would lose one: a lower number that overwrites a higher one, numbers that are not in the order of time, a decision
to leave a change out that was read without a lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from listener.change import Change, ChangeKind, Fingerprint
from listener.errors import StoreUnusable
from listener.pipeline.intake import Intake, StoreRetry
from listener.refresh import RefreshKind
from listener.store import NeedInput
from listener.store.batches import Batch, Recorded
from listener.store.ledger import ShareBooking, book_share
from listener.store.postgres.migrations import SCHEMA
from listener.store.sqlite.migrations import VERSION
from tests.pipeline.world import PlayedSource
from tests.store.databases import PostgresDatabase, postgres_database
from tests.store.steps import ALLOWANCE, BASE, Bench, FakeClock, content, deleted, file
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
WAIT_SECONDS = 20


@dataclass
class Gate:
    """Where a recorder stops: after it took its number and read what it decides by, before it writes."""

    reached: threading.Event = field(default_factory=threading.Event)
    is_open: threading.Event = field(default_factory=threading.Event)
    ignore: bool = False
    """Whether rewrites with the same content make no need."""

    def route(self, change: Change) -> Sequence[NeedInput]:
        self.reached.set()
        assert self.is_open.wait(WAIT_SECONDS)
        return [NeedInput("cdn", BASE + change.key, ignore_rewrites=self.ignore)]

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, WAIT_SECONDS)

    @classmethod
    def opened(cls, *, ignore: bool = False) -> Gate:
        gate = cls(ignore=ignore)
        gate.is_open.set()
        return gate


class Fleet:
    """Instances on one schema."""

    def __init__(self, database: PostgresDatabase, stack: AsyncExitStack) -> None:
        self.database = database
        self.clock = FakeClock()
        self._stack = stack

    async def instance(self, name: str) -> Bench:
        store = await self._stack.enter_async_context(self.database.open(clock=self.clock, instance=name))
        return Bench(store, self.clock, self.database)

    async def is_waiting_for_lock(self, sessions: int = 1) -> None:
        """Return once so many sessions wait for a row that another one has locked."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(WAIT_SECONDS):
            while await asyncio.to_thread(self.value, query) < sessions:
                await asyncio.sleep(0.005)

    def value(self, query: str) -> Any:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    def run(self, statement: str) -> None:
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture
async def fleet(store_url: str) -> AsyncIterator[Fleet]:
    """No instance yet."""
    with postgres_database(store_url) as database:
        async with AsyncExitStack() as stack:
            yield Fleet(database, stack)


def record(bench: Bench, gate: Gate, *changes: Change, scan: int | None = None) -> asyncio.Task[list[Recorded]]:
    """Begin to record these changes."""
    return asyncio.create_task(bench.store.record([Batch(changes, scan)], gate.route))


async def due(bench: Bench) -> None:
    """Let the quiet time pass."""
    bench.clock.advance(60)
    await bench.store.promote_due()


# -- numbers ---------------------------------------------------------------------------------------


async def test_a_lower_number_that_comes_late_lowers_nothing(fleet: Fleet) -> None:
    """
    One takes its number and pauses, a request is sent, another records a later change, the first goes on.

    The later change was never fetched: its number is above the watermark, and stays in the row.
    """
    first, second, leader = [await fleet.instance(name) for name in ("first", "second", "leader")]
    await leader.change(content("k"))
    gate = Gate()
    paused = record(first, gate, content("k", 2))
    await gate.wait()
    made = await leader.send(file("k"))
    (later,) = await record(second, Gate.opened(), content("k", 3))
    assert later.sequence > made[0].watermark
    gate.is_open.set()
    ((earlier,),) = [await paused]
    assert earlier.sequence <= made[0].watermark
    await leader.finish(made)
    assert fleet.value(f"SELECT sequence FROM {SCHEMA}.need") == later.sequence
    assert await leader.stale("k") == ["waiting"]


@pytest.mark.parametrize("which", ["the same recorder", "another recorder"])
async def test_a_change_after_a_request_has_a_number_above_its_watermark(fleet: Fleet, which: str) -> None:
    """Whichever session records it, and whatever it recorded before."""
    first, second, leader = [await fleet.instance(name) for name in ("first", "second", "leader")]
    await first.change(content("other"), wait=0)
    await second.change(content("k"))
    made = await leader.send(file("k"))
    await (first if which == "another recorder" else second).change(content("k", 2), wait=0)
    await leader.finish(made)
    assert await leader.stale("k") == ["waiting"]


async def test_what_arrives_during_a_commit_is_numbered_when_it_is_written(fleet: Fleet) -> None:
    """
    Changes gather while a commit takes long, a request is sent, one more change joins them.

    They are one batch with one number. Taken when the batch began it would be below the request's watermark.
    """
    ingest, leader = [await fleet.instance(name) for name in ("ingest", "leader")]
    await leader.change(content("k"))
    gate, source = Gate(), PlayedSource("main")
    sites: Any = SimpleNamespace(route=gate.route, folder=lambda *_: None)
    intake = Intake(lambda: {"main": source}, ingest.store, sites, retry=StoreRetry(), committed=lambda: None)
    tasks = [asyncio.create_task(work) for work in (intake.read("main"), intake.commit())]
    source.deliver(content("first"))
    await gate.wait()
    source.deliver(content("second"))
    await until(lambda: not intake._inbox.idle)
    made = await leader.send(file("k"))
    source.deliver(content("k", 2))
    await until(source.queue.empty)
    gate.is_open.set()
    await until(lambda: source.acked == 3)
    await leader.finish(made)
    assert await leader.stale("k") == ["waiting"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_late_commit_is_found_by_its_row(fleet: Fleet) -> None:
    """Its number was visible before it: that the number has not grown since says nothing."""
    first, second, leader = [await fleet.instance(name) for name in ("first", "second", "leader")]
    await leader.change(content("c"), wait=0)
    gate = Gate()
    paused = record(first, gate, content("a"))
    await gate.wait()
    await second.change(content("b"), wait=0)
    number = await leader.store.sequence()
    gate.is_open.set()
    await paused
    assert await leader.store.sequence() == number
    await due(leader)
    assert await leader.ready() == {"": 3}


async def test_a_late_manual_request_is_another_revision(fleet: Fleet) -> None:
    """It has no time at which it is due: whoever plans sees a row that changed with it."""
    one, leader = [await fleet.instance(name) for name in ("one", "leader")]
    await one.store.request([NeedInput("cdn", f"{BASE}a")])
    before = (await leader.store.agenda()).revision
    connection = fleet.database.connect()
    connection.execute("BEGIN")
    connection.execute("UPDATE meta SET sequence = sequence + 1")
    assert (await leader.store.agenda()).revision == before
    connection.execute("COMMIT")
    assert (await leader.store.agenda()).revision > before


async def test_a_sequence_that_keeps_numbers_for_sessions_is_refused(fleet: Fleet) -> None:
    """Two recorders would give out numbers in another order than that of time."""
    await fleet.instance("one")
    fleet.run(f"ALTER SEQUENCE {SCHEMA}.change_number CACHE 20")
    try:
        with pytest.raises(StoreUnusable, match="keeps 20 numbers"):
            await fleet.instance("two")
    finally:
        fleet.run(f"ALTER SEQUENCE {SCHEMA}.change_number CACHE 1")


async def test_a_schema_of_a_newer_program_is_refused(fleet: Fleet) -> None:
    """One that this program may still use is not."""
    fleet.run(f"UPDATE {SCHEMA}.schema_version SET version = {VERSION + 1}")
    try:
        await fleet.instance("one")
        fleet.run(f"UPDATE {SCHEMA}.schema_version SET min_program = {VERSION + 1}")
        with pytest.raises(StoreUnusable, match=f"needs version {VERSION + 1}"):
            await fleet.instance("two")
    finally:
        fleet.run(f"UPDATE {SCHEMA}.schema_version SET version = {VERSION}, min_program = {VERSION}")


# -- what is left out ------------------------------------------------------------------------------


def reported(order: int, etag: str, key: str = "k") -> Change:
    """Return an event of a store with an order token."""
    return Change("site", key, ChangeKind.CONTENT, Fingerprint(1, etag=etag), order=f"{order:016X}")


async def settle(fleet: Fleet) -> int:
    """Have every need refreshed; return how many there were."""
    count = fleet.value(f"SELECT count(*) FROM {SCHEMA}.need")
    fleet.run(f"DELETE FROM {SCHEMA}.need")
    return int(count)


@pytest.mark.parametrize("known", [True, False])
async def test_two_consumers_of_one_queue_lose_no_change(fleet: Fleet, known: bool) -> None:
    """
    One gets the event of content Y, the other that of the next, X, at once; a request is sent; then Y comes again.

    The second must not take X for what is covered already by what it read before the first committed.
    """
    first, second = [await fleet.instance(name) for name in ("first", "second")]
    await record(first, Gate.opened(ignore=True), reported(5, "X", "k" if known else "other"))
    assert await settle(fleet) == 1
    gate, other_gate = Gate(ignore=True), Gate(ignore=True)
    if not known:  # the second has the lower number, and commits first
        other = record(second, other_gate, reported(7, "X"))
        await other_gate.wait()
    paused = record(first, gate, reported(6, "Y"))
    await gate.wait()
    other_gate.is_open.set()
    if known:
        other = record(second, other_gate, reported(7, "X"))
        await fleet.is_waiting_for_lock()
    else:
        await other
    gate.is_open.set()
    await asyncio.gather(paused, other)
    assert await settle(fleet) == 1  # the edge has X now, which was there at 7
    ((last,),) = [await record(first, Gate.opened(ignore=True), reported(8, "Y"))]
    assert (last.needs, last.suppressed) == (1, 0)


async def test_a_scan_leaves_out_what_is_newer_when_it_writes(fleet: Fleet) -> None:
    """An event that commits while a scan's finding waits for its row is newer, and stays in the index."""
    scanner = await fleet.instance("scanner")
    began = await scanner.change(content("k", 1), wait=0)
    connection = fleet.database.connect()
    connection.execute("BEGIN")
    connection.execute("UPDATE object SET mtime_ns = 3, sequence = ?", (began + 1,))
    finding = record(scanner, Gate.opened(), content("k", 2), scan=began)
    await fleet.is_waiting_for_lock()
    connection.execute("COMMIT")
    ((found,),) = [await finding]
    assert (found.needs, found.outdated) == (0, 1)
    assert (await scanner.store.objects("www", ["k"]))["k"].mtime_ns == 3


async def test_what_expires_is_not_what_changed_meanwhile(fleet: Fleet) -> None:
    """A change commits between the look for what is old and its removal."""
    recorder, leader = [await fleet.instance(name) for name in ("recorder", "leader")]
    await leader.change(content("k"))
    (load,) = await leader.store.read(lambda snapshot: snapshot.loads())
    leader.clock.advance(1000)
    now = leader.clock.now()
    connection = fleet.database.connect()
    connection.execute("BEGIN")
    connection.execute("UPDATE need SET window_first = ?, sequence = sequence + 1", (now,))
    expiring = asyncio.create_task(leader.store.expire(load, before=now - 500))
    await fleet.is_waiting_for_lock()
    connection.execute("COMMIT")
    assert await expiring == 0
    assert await recorder.stale("k") == ["ready"]


async def test_backfills_book_no_more_than_their_share(fleet: Fleet) -> None:
    """Several wait for another one: each looks at what is booked when no other one can book any more."""
    backfills = [await fleet.instance(name) for name in "abcdefgh"]
    now = fleet.clock.now()

    def booking(units: int) -> list[ShareBooking]:
        return [ShareBooking("main", ALLOWANCE[RefreshKind.FILE], units, most=140)]

    assert await backfills[0].store.book_share(booking(10), now=now)  # so that the row is there
    connection = fleet.database.connect()
    connection.execute("BEGIN")
    assert book_share(connection, booking(60), now=now)
    others = [asyncio.create_task(one.store.book_share(booking(60), now=now)) for one in backfills]
    await fleet.is_waiting_for_lock(len(others))
    connection.execute("COMMIT")
    assert sum([await other for other in others]) == 1
    assert fleet.value(f"SELECT share_booked FROM {SCHEMA}.ledger") == 130


async def test_a_change_of_a_new_directory_is_recorded_by_both(fleet: Fleet) -> None:
    """Both make its row; one waits for the other, and takes its id."""
    first, second = [await fleet.instance(name) for name in ("first", "second")]
    gate = Gate()
    paused = record(first, gate, content("d/a"))
    await gate.wait()
    other = record(second, Gate.opened(), content("d/b"))
    await fleet.is_waiting_for_lock()
    gate.is_open.set()
    await asyncio.gather(paused, other)
    assert set(first.index()) == {"d/a", "d/b"}
    first.assert_counted()


async def test_a_directory_that_was_removed_as_empty_is_made_again(fleet: Fleet) -> None:
    """An id that is kept for it may be gone: the transaction is repeated with a new one."""
    recorder, keeper = [await fleet.instance(name) for name in ("recorder", "keeper")]
    await recorder.change(content("d/a"))
    await keeper.finish(await keeper.send(file("d/a")))
    await recorder.change(deleted("d/a"))
    await keeper.finish(await keeper.send(file("d/a")))
    await keeper.store.upkeep(keep_seconds=1.0)
    assert fleet.value(f"SELECT count(*) FROM {SCHEMA}.directory") == 0
    await recorder.change(content("d/a", 2))
    assert await recorder.stale("d/a") == ["ready"]
    recorder.assert_counted()


async def test_two_that_lock_in_another_order_both_commit(fleet: Fleet) -> None:
    """The server ends one of them as a deadlock; it is repeated."""
    first, second = [await fleet.instance(name) for name in ("first", "second")]
    await first.change(content("a/x"), content("b/x"))

    def locking(order: Sequence[str], barrier: threading.Barrier) -> Callable[[Any], int]:
        begun = [False]

        def operation(connection: Any) -> int:
            for key in order:
                connection.execute(
                    "UPDATE directory SET last_sequence = last_sequence + 1 WHERE url = ?", (BASE + key,)
                )
                if not begun[0]:
                    begun[0] = True
                    barrier.wait(WAIT_SECONDS)
            return 1

        return operation

    barrier = threading.Barrier(2)
    works: list[Awaitable[int]] = [
        first.store._write(locking(["a/", "b/"], barrier)),
        second.store._write(locking(["b/", "a/"], barrier)),
    ]
    assert await asyncio.gather(*works) == [1, 1]
