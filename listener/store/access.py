"""The way to the state file: one writing thread, some reading ones, and nothing more once damage is known."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from listener.clock import Clock
from listener.errors import StoreError
from listener.store.damage import Damage
from listener.store.database import connect
from listener.store.names import Names
from listener.store.ownership import OwnerLock
from listener.store.reading import Readers, open_reading
from listener.store.snapshot import Snapshot
from listener.store.writer import Writer, closed

__all__ = ["SLICE_ROWS", "Access"]

T = TypeVar("T")
P = ParamSpec("P")

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
        self._names = Names()
        opens = partial(connect, path, readonly=True) if connection is not None else partial(open_reading, path)
        self._damage = Damage(path, opens)
        self._writer: Writer | None = None
        if connection is not None:
            self._writer = Writer(connection, translated=self._damage.translated, undone=self._names.clear)
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

    def _present_writer(self) -> Writer:
        """Return the writer; raise where there is none, or where the file is known to be damaged."""
        self._damage.refuse()
        if self._writer is None:
            raise StoreError(f"state file {self.path}: opened for reading only")
        return self._writer

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

    # -- damage and the log ------------------------------------------------------------------------

    @property
    def damage(self) -> StoreError | None:
        """The first proof that the file is damaged, if there is any: from then on nothing is written."""
        return self._damage.found

    async def check_at_start(self) -> None:
        """Check a small file; begin to check a larger one in the background. Raise StoreUnusable for a damaged one."""
        if not await self._run_in(self._checks, self._damage.check_small):
            self._checks.submit(self._damage.check_large)
        self._damage.refuse()

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
    def longest_work_seconds(self) -> float:
        """How long the longest commit group kept a processor busy: without the wait for disk and other threads."""
        return 0.0 if self._writer is None else self._writer.longest_work_seconds

    @property
    def longest_group_seconds(self) -> float:
        """How long the longest commit group held the writer."""
        return 0.0 if self._writer is None else self._writer.longest_group_seconds
