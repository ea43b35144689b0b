"""
The way to the state file: one thread writes, some read, and each waits for none of the others.

Operations that arrive together are committed together. A reader has its own connection, sees the file as it was at
one instant, and repeats its query where an unlocked file changed meanwhile. Checkpoints have a thread of their own.
Once the file is known to be damaged nothing is written any more.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter, thread_time
from types import TracebackType
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, Self, TypeVar

from listener.clock import Clock
from listener.errors import StoreError, StoreUnusable
from listener.event_loop import call_in_loop
from listener.store.index import Names
from listener.store.needs import Snapshot
from listener.store.owner import Owner
from listener.store.sqlite.announcements import Announcements, announce
from listener.store.sqlite.database import Opened, connect, open_reading, open_unlocked, snapshot
from listener.store.sqlite.ownership import Damage, OwnerLock, lock_path, owner_of

__all__ = [
    "GROUP_SECONDS",
    "SLICE_ROWS",
    "Access",
    "Writer",
    "closed",
]


T = TypeVar("T")
P = ParamSpec("P")
Operation = Callable[[sqlite3.Connection], Any]


class Item(NamedTuple):
    """An operation that waits for its turn."""

    operation: Operation
    future: Future[Any]
    apart: bool


GROUP_SECONDS = 0.01
"""A group takes no further operation once it has worked this long: nothing may hold the writer over 50 ms."""


def closed() -> StoreError:
    """Return the error of a call that came after the store was closed."""
    return StoreError("the store is closed")


class Writer:
    """
    Runs operations in order, each whole or not at all, many to a commit; results follow the commit.

    An operation may run twice: when one of its group fails the group is taken back, and each is run by itself.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        translated: Callable[[Exception], Exception],
        undone: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """
        Take over the connection.

        Args:
            connection: the writing connection.
            translated: returns the error to raise for one that an operation raised.
            undone: called whenever something that an operation did was taken back.
            changed: called after each commit that changed anything, in the writing thread.
        """
        self._connection = connection
        self._undone = undone
        self._changed = changed
        self._translated = translated
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._entry = threading.Lock()
        self._closed = False
        self._chore: Item | None = None
        self.longest_group_seconds = 0.0
        self.longest_work_seconds = 0.0
        self.changed_rows = connection.total_changes
        """Grows with each commit that changed anything."""
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run the operation inside a transaction and return its result once that is durable.

        One whose waiter is cancelled before it began is not run at all; one that has begun is finished.

        Raises:
            StoreError: the commit failed; nothing of the operation remains.
        """
        return await asyncio.wrap_future(self.submit(operation))

    def submit(self, operation: Callable[[sqlite3.Connection], T], *, apart: bool = False) -> Future[T]:
        """Queue the operation; the future resolves after its commit. One that runs apart is in no transaction."""
        future: Future[T] = Future()
        with self._entry:
            if self._closed:
                raise closed()
            self._queue.put(Item(operation, future, apart))
        return future

    def close(self) -> None:
        """Finish what is queued and close the connection; safe to call twice."""
        with self._entry:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if item.future.set_running_or_notify_cancel():
                began, worked = perf_counter(), thread_time()
                self._turn(item, began)
                self.longest_group_seconds = max(self.longest_group_seconds, perf_counter() - began)
                self.longest_work_seconds = max(self.longest_work_seconds, thread_time() - worked)
        self._connection.close()

    def _turn(self, item: Item, began: float) -> None:
        """Run the operation with its group, and then what is to run apart."""
        if not item.apart:
            self._group(item, began)
            chore, self._chore = self._chore, None
            if chore is None:
                return
            item = chore
        try:
            item.future.set_result(item.operation(self._connection))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            self._fail(item, error)

    def _group(self, first: Item, began: float) -> None:
        """Commit the operation together with those that wait behind it; when that fails, each by itself."""
        group: list[Item] = []
        error = self._commit(self._gather(first, began), group)
        if error is not None and len(group) > 1:
            for item in group:
                if (error := self._commit([item], [])) is not None:
                    self._fail(item, error)
        elif error is not None:
            self._fail(first, error)

    def _commit(self, items: Iterable[Item], begun: list[Item]) -> Exception | None:
        """Run these operations in one transaction and set their results; return what went wrong instead."""
        results = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for item in items:
                begun.append(item)
                results.append(item.operation(self._connection))
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            self._undo()
            return error
        changed_rows, self.changed_rows = self.changed_rows, self._connection.total_changes
        for item, result in zip(begun, results, strict=True):
            item.future.set_result(result)
        if changed_rows != self.changed_rows:
            self._changed()
        return None

    def _gather(self, first: Item, began: float) -> Iterator[Item]:
        """Yield the first operation, then those that wait, as long as the group has time for them."""
        item: Item | None = first
        while item is not None:
            yield item
            item = self._following(began)

    def _following(self, began: float) -> Item | None:
        """Take the next operation that waits, if the group has time for it."""
        while not self._queue.empty() and perf_counter() - began < GROUP_SECONDS:
            item = self._queue.get()
            if item is None:
                self._queue.put(None)  # nothing can come after it
                return None
            if item.future.set_running_or_notify_cancel():
                if not item.apart:
                    return item
                self._chore = item
                return None
        return None

    def _fail(self, item: Item, error: Exception) -> None:
        item.future.set_exception(self._translated(error))

    def _undo(self) -> None:
        """Take back what is not committed; SQLite may have done so by itself, as on a full disk."""
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._undone()


RACES: Final = 5
"""So often a query is repeated when the file changed under it: a daemon starts or ends once, not for ever."""


class Readers:
    """One reading connection for each thread."""

    def __init__(self, path: Path, *, has_writer: bool) -> None:
        """Take the file; ``has_writer``: this process also writes it, so that the shared index is always there."""
        self._path = path
        self._has_writer = has_writer
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []

    def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the file as it is at one instant."""
        for left in reversed(range(RACES)):
            opened = self._opened()
            try:
                with snapshot(opened.connection):
                    result = query(opened.connection)
            except Exception:
                if not left or opened.is_current:
                    raise
            else:
                if not left or opened.is_current:
                    return result
        raise AssertionError("the last round returns or raises")

    def _opened(self) -> Opened:
        opened: Opened | None = getattr(self._local, "opened", None)
        if opened is not None and not opened.is_current:
            self._local.opened = None
            self._all.remove(opened.connection)
            opened.connection.close()
            opened = None
        if opened is None:
            opened = self._local.opened = self._open()
            self._all.append(opened.connection)
        return opened

    def _open(self) -> Opened:
        if self._has_writer:
            return Opened(connect(self._path, readonly=True), self._path)
        return open_unlocked(self._path)

    def close(self) -> None:
        """Close every connection; no query may run any more."""
        for connection in self._all:
            connection.close()
        self._all.clear()


SLICE_ROWS = 1_000
"""Rows that one operation writes at most: some 15 ms, so that nothing holds the writer over 50 ms."""
READERS = 2
CHECKPOINT_PASSES = 4
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
LAST_PAGES = 500
"""So many pages of the write-ahead log the writer moves to the file by itself: some milliseconds."""
LONG_LOG_PAGES = 4_000
"""A log of so many pages (of 4 KiB) starts over at the next checkpoint."""
LONGEST_LOG_PAGES = 64_000
"""One of so many does at whatever cost: 256 MiB."""


class Access:
    """An open state file; the store's statements are in the modules that :class:`listener.store.Store` calls."""

    def __init__(
        self, connection: sqlite3.Connection | None, path: Path, *, lock: OwnerLock | None, clock: Clock
    ) -> None:
        """Take over an open connection, None for a store that only reads."""
        self.path = path
        self.clock = clock
        self._lock = lock
        self._committed: Callable[[], None] = partial(announce, lock_path(path))
        """Called in the writing thread after a commit that changed anything."""
        self._names = Names()
        opens = partial(connect, path, readonly=True) if connection is not None else partial(open_reading, path)
        self._damage = Damage(path, opens)
        self._writer: Writer | None = None
        if connection is not None:
            self._writer = Writer(
                connection,
                translated=self._damage.translated,
                undone=self._names.clear,
                changed=self._announce,
            )
        self._readers = Readers(path, has_writer=connection is not None)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store reader")
        self._checkpoints = ThreadPoolExecutor(1, thread_name_prefix="store checkpoint")
        self._checks = ThreadPoolExecutor(1, thread_name_prefix="store check")

    async def __aenter__(self) -> Self:
        """Use the store; :meth:`close` it in the end."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        await self.close()

    @property
    def owner(self) -> bool:
        """Whether this process may send."""
        return self._lock is not None

    async def sender(self) -> Owner:
        """Return whether a process sends from it, and which."""
        return owner_of(self.path)

    async def close(self) -> None:
        """Finish what is under way and close the file; safe to call twice."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._damage.end()
        for pool in (self._pool, self._checkpoints, self._checks):
            pool.shutdown()
        if self._writer is not None:
            self._writer.close()
        self._readers.close()
        if self._lock is not None:
            self._lock.release()

    async def _write(
        self, operation: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kw: P.kwargs
    ) -> T:
        """Run a writing function, of milliseconds, in a transaction; what it returns is durable."""
        writer = self._present_writer()
        if not self.owner:
            # The owner may have removed an empty directory since: ids are looked up again.
            return await writer.run(lambda connection: operation(self._forget(connection), *args, **kw))
        return await writer.run(lambda connection: operation(connection, *args, **kw))

    def _announce(self) -> None:
        self._committed()

    def _present_writer(self) -> Writer:
        """Return the writer; raise where there is none, or where the file is known to be damaged."""
        self._refuse_damaged()
        if self._writer is None:
            raise StoreError(f"state file {self.path}: opened for reading only")
        return self._writer

    def _refuse_damaged(self) -> None:
        if (found := self._damage.found) is not None:
            raise StoreUnusable(str(found), hint=found.hint)

    def _forget(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        self._names.clear()
        return connection

    async def _read(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kw: P.kwargs
    ) -> T:
        """Run a reading function on a connection of its own, off the event loop."""
        return await self._run_in(self._pool, lambda: self._readers.run(lambda c: query(c, *args, **kw)))

    async def read(self, query: Callable[[Snapshot], T]) -> T:
        """Run a function that needs several reads of one instant, off the event loop."""
        return await self._read(lambda connection: query(Snapshot(connection)))

    async def _run_in(self, pool: ThreadPoolExecutor, run: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return run()
            except Exception as error:
                reported = self._damage.translated(error)
                if reported is error:
                    raise
                raise reported from error

        try:
            future = asyncio.get_running_loop().run_in_executor(pool, translated)
        except RuntimeError:
            raise closed() from None
        return await future

    @contextmanager
    def announcing(self, changed: Callable[[], None]) -> Iterator[Announcements]:
        """
        Call ``changed`` in the event loop after each commit of this process that changed anything.

        Where this process owns the file, also after those of other processes, unless ``of_others`` says that none come.
        """
        loop, before = asyncio.get_running_loop(), self._committed
        announcements = Announcements(lock_path(self.path), changed)
        self._committed = partial(call_in_loop, loop, changed)
        try:
            yield announcements
        finally:
            self._committed = before
            announcements.close()

    # -- damage and the log ------------------------------------------------------------------------

    @property
    def damage(self) -> StoreError | None:
        """The first proof that the file is damaged, if there is any: from then on nothing is written."""
        return self._damage.found

    async def check_at_start(self) -> None:
        """Check a small file; begin to check a larger one in the background. Raise StoreUnusable for a damaged one."""
        if not await self._run_in(self._pool, self._damage.check_small):
            self._checks.submit(self._damage.check_large)
        self._refuse_damaged()

    async def checkpoint(self) -> None:
        """
        Move committed pages from the write-ahead log to the file, nearly all of them while the writer goes on.

        While the writer goes on it is always some pages ahead, and the log would grow for ever. So it
        moves the last few itself, and the log starts over.
        """
        writer = self._present_writer()

        def run() -> Future[Any] | None:
            connection = connect(self.path)
            try:
                for _ in range(CHECKPOINT_PASSES):
                    _, pages, moved = connection.execute(_CHECKPOINT).fetchone()
                    if pages - moved < LAST_PAGES:
                        break
            finally:
                connection.close()
            if pages < LONG_LOG_PAGES or (pages - moved >= LAST_PAGES and pages < LONGEST_LOG_PAGES):
                return None
            # From this thread, at once: every moment the writer gets further ahead.
            return writer.submit(lambda c: c.execute(_CHECKPOINT).fetchone(), apart=True)

        if (last := await self._run_in(self._checkpoints, run)) is not None:
            await asyncio.wrap_future(last)

    @property
    def changed_rows(self) -> int:
        """A number that grows with each commit of this process that changed anything."""
        return 0 if self._writer is None else self._writer.changed_rows

    @property
    def longest_work_seconds(self) -> float:
        """How long the longest commit group kept a processor busy: without the wait for disk and other threads."""
        return 0.0 if self._writer is None else self._writer.longest_work_seconds

    @property
    def longest_group_seconds(self) -> float:
        """How long the longest commit group held the writer."""
        return 0.0 if self._writer is None else self._writer.longest_group_seconds
