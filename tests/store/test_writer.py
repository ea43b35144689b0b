"""Groups: an operation is whole or not at all, hurts no other, and is reported after its commit."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from listener.errors import StoreError
from listener.store import NeedInput, open_store
from listener.store.batches import Batch
from listener.store.sqlite import access, database
from listener.store.sqlite.access import SqliteTransactions
from listener.store.sqlite.database import connect, prepare
from listener.store.sqlite.ownership import Damage
from listener.store.writer import Writer
from tests.store.steps import BASE, Bench, content, route


@pytest.fixture
def bench(sqlite_bench: Bench) -> Bench:
    """Only SQLite: how a file is written."""
    return sqlite_bench


def add(value: int, *, then: BaseException | None = None):  # type: ignore[no-untyped-def]
    """Return an operation that writes a number, and then fails or waits."""

    def operation(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO target (id, name) VALUES (?1, ?1)", (value,))
        if then is not None:
            raise then
        return value

    return operation


class Bed:
    """A writer by itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.undone = 0
        damage = Damage(path, partial(connect, path, readonly=True))
        self.transactions = SqliteTransactions(prepare(path))
        self.writer = Writer(self.transactions, translated=damage.translated, undone=self._undone, changed=lambda: None)

    def _undone(self) -> None:
        self.undone += 1

    def there(self) -> list[int]:
        connection = sqlite3.connect(self.path)
        try:
            return [row[0] for row in connection.execute("SELECT id FROM target ORDER BY id")]
        finally:
            connection.close()


@pytest.fixture
def bed(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A writer that is closed in the end."""
    bed = Bed(tmp_path / "s.db")
    yield bed
    bed.writer.close()


def test_one_that_raises_hurts_no_other(bed: Bed) -> None:
    """Of three in a group the second fails alone, with its own error, and what it did is taken back and reported."""
    stop = threading.Event()
    bed.writer.submit(lambda c: stop.wait(10))
    first = bed.writer.submit(add(1))
    second = bed.writer.submit(add(2, then=ValueError("two")))
    third = bed.writer.submit(add(3))
    wrong = bed.writer.submit(lambda c: c.execute("SELECT missing"))
    stop.set()
    assert (first.result(5), third.result(5)) == (1, 3)
    with pytest.raises(ValueError, match="two"):
        second.result(5)
    with pytest.raises(StoreError, match="no such column"):
        wrong.result(5)
    assert bed.there() == [1, 3]
    assert bed.undone >= 2


def test_a_failed_commit_is_raised_to_every_waiter(bed: Bed) -> None:
    """When the commit fails nobody of the group learns of success, and nothing of it remains; then all goes on."""
    stop, real = threading.Event(), bed.transactions.connection

    class Failing:
        """A connection whose disk takes no commit."""

        def execute(self, statement: str, *values: object) -> object:
            if statement == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return real.execute(statement, *values)

        @property
        def in_transaction(self) -> bool:
            return real.in_transaction

    blocked = bed.writer.submit(lambda c: stop.wait(10))
    bed.transactions.connection = Failing()  # type: ignore[assignment]
    futures = [blocked, *(bed.writer.submit(add(n)) for n in range(3))]
    stop.set()
    for future in futures:
        with pytest.raises(StoreError, match="disk I/O"):
            future.result(5)
    bed.transactions.connection = real
    assert bed.there() == []
    assert bed.writer.submit(add(7)).result(5) == 7


def test_a_lock_held_by_another_program_fails_the_group(bed: Bed) -> None:
    """When the write lock cannot be had the waiter is reported, and the writer goes on afterwards."""
    bed.writer.submit(lambda c: None).result(5)
    bed.transactions.connection.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(bed.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        bed.writer.submit(add(1)).result(5)
    other.execute("ROLLBACK")
    other.close()
    assert bed.writer.submit(add(2)).result(5) == 2
    assert bed.there() == [2]


def test_what_sqlite_rolled_back_by_itself_is_an_error(bed: Bed) -> None:
    """An operation after which no transaction stands (as on a full disk) fails the group; the others are run again."""
    stop = threading.Event()
    bed.writer.submit(lambda c: stop.wait(10))
    first = bed.writer.submit(add(1))
    gone = bed.writer.submit(lambda c: c.execute("ROLLBACK") and None)
    stop.set()
    assert first.result(5) == 1
    with pytest.raises(StoreError):
        gone.result(5)
    assert bed.there() == [1]


def test_a_cancelled_waiter_before_its_turn_is_not_run(bed: Bed) -> None:
    """Nobody waits for it any more, so that it is as if it had never been asked for; the others are run."""
    stop = threading.Event()
    first = bed.writer.submit(lambda c: stop.wait(10))
    cancelled, last = bed.writer.submit(add(2)), bed.writer.submit(add(3))
    assert cancelled.cancel()
    stop.set()
    assert last.result(5) == 3
    alone = bed.writer.submit(lambda c: stop.clear())
    alone.result(5)
    blocked = bed.writer.submit(lambda c: stop.wait(10))
    lone = bed.writer.submit(add(4))
    assert lone.cancel()
    stop.set()
    assert blocked.result(5)
    assert first.result(5)
    assert bed.there() == [3]


def test_close_finishes_what_is_queued(bed: Bed) -> None:
    """What was accepted before the close is committed; what comes after is refused, and never hangs."""
    stop = threading.Event()
    bed.writer.submit(lambda c: stop.wait(10))
    queued = [bed.writer.submit(add(n)) for n in range(50)]
    closing = threading.Thread(target=bed.writer.close)
    closing.start()
    while not bed.writer._closed:
        pass
    with pytest.raises(StoreError, match="closed"):
        bed.writer.submit(add(99))
    stop.set()
    closing.join(5)
    assert [future.result(5) for future in queued] == list(range(50))
    bed.writer.close()
    assert bed.there() == list(range(50))


async def test_ids_of_what_was_undone_are_forgotten(bench: Bench) -> None:
    """A directory made by an operation that failed is made again by the next, under whatever id it then has."""

    def poisoned(change: object) -> list[NeedInput]:
        return [NeedInput("cdn", BASE + "a/x"), NeedInput("cdn", BASE + "a/y", "no scope")]  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="no scope"):
        await bench.store.record([Batch([content("a/x")])], poisoned)
    await bench.store.request([NeedInput("other", "https://other.example.com/z/1")])
    await bench.change(content("a/x"))
    assert len(await bench.ready()) == 2
    assert await bench.stale("a/x") == ["ready"]
    assert set(bench.index()) == {"a/x"}


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Writing, reading and checkpoints after the close are refused with a word; closing twice does no harm."""
    store = open_store(f"sqlite:///{tmp_path}/s.db", owner=True)
    await store.sequence()
    await store.close()
    await store.close()
    for call in (store.sequence, store.checkpoint, store.mark_clean):
        with pytest.raises(StoreError, match="closed"):
            await call()


async def test_a_checkpoint_without_room_is_reported_like_any_other_failure(bench: Bench) -> None:
    """The log lies next to the file, and room for it does not mean room for both; once there is, all is moved."""
    await bench.store.record([Batch([content(f"k{n}") for n in range(2_000)])], route)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bench.store.path.stat().st_size, before[1]))
    try:
        with pytest.raises(StoreError, match="state file"):
            await bench.store.checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await bench.store.checkpoint()
    assert len(bench.index()) == 2_000


async def test_a_storm_of_writers_is_grouped(bench: Bench) -> None:
    """Many at once share commits, each gets its own result, in order."""
    results = await asyncio.gather(*(bench.store.record([Batch([content(f"k{n}")])], route) for n in range(200)))
    sequences = [recorded.sequence for (recorded,) in results]
    assert sequences == list(range(1, 201))
    assert 0 < bench.store.longest_work_seconds <= bench.store.longest_group_seconds + 0.1 < 10
    await bench.store.checkpoint()
    assert len(bench.index()) == 200


def test_what_runs_apart_is_in_no_transaction(bed: Bed) -> None:
    """Between groups, alone or behind others, a failure is reported and hurts nobody."""
    stop = threading.Event()
    alone = bed.writer.submit(lambda c: c.in_transaction, apart=True)
    assert alone.result(5) is False
    bed.writer.submit(lambda c: stop.wait(10))
    before, apart = bed.writer.submit(add(1)), bed.writer.submit(lambda c: c.in_transaction, apart=True)
    wrong, after = bed.writer.submit(lambda c: c.execute("SELECT missing"), apart=True), bed.writer.submit(add(2))
    stop.set()
    assert (before.result(5), apart.result(5), after.result(5)) == (1, False, 2)
    with pytest.raises(StoreError, match="no such column"):
        wrong.result(5)


async def test_the_log_does_not_grow_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While writes go on without a pause, checkpoints start the write-ahead log over once it is long."""
    monkeypatch.setattr(access, "LONG_LOG_PAGES", 400)
    log = bench.store.path.with_name(bench.store.path.name + "-wal")
    done = False

    async def storm() -> None:
        lane = 0
        while not done:
            lane += 1
            await bench.store.record([Batch([content(f"{lane}/{n}") for n in range(200)])], route)

    feeders = [asyncio.create_task(storm()) for _ in range(3)]
    sizes, written = [], 0
    for _ in range(20):
        while await bench.store.sequence() < written + 10:
            await asyncio.sleep(0)
        written = await bench.store.sequence()
        await bench.store.checkpoint()
        sizes.append(log.stat().st_size)
    done = True
    await asyncio.gather(*feeders)
    assert sum(later <= sooner for sooner, later in pairwise(sizes)) > 10
    assert len(bench.index()) > 1000


async def test_a_log_that_grew_in_a_storm_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it starts over, the disk has back what it took beyond its limit."""
    monkeypatch.setattr(access, "LONG_LOG_PAGES", 100)
    monkeypatch.setattr(database, "LOG_BYTES", 1_000_000)
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as store:
        log = store.path.with_name(store.path.name + "-wal")
        for lane in range(10):
            await store.record([Batch([content(f"{lane}/{n}") for n in range(500)])], route)
        assert log.stat().st_size > 1_000_000
        await store.checkpoint()
        await store.record([Batch([content("one")])], route)
        assert log.stat().st_size <= 1_000_000
