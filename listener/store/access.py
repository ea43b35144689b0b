"""
The way to the database: one thread writes, some read, and each waits for none of the others.

A reader sees the database as it was at one instant. What each kind of database does in its own way is its
:class:`Driver`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from listener.clock import Clock
from listener.errors import StoreError, StoreUnusable
from listener.event_loop import call_in_loop
from listener.store.connection import Connection
from listener.store.copies import Copies
from listener.store.durability import CommitMark
from listener.store.fleet import Instance, OldSnapshot
from listener.store.names import Names
from listener.store.needs import Snapshot
from listener.store.owner import Owner
from listener.store.writer import Transactions, Writer, closed

__all__ = ["SLICE_ROWS", "Access", "Commits", "Counted", "Driver", "time_of"]


T = TypeVar("T")
P = ParamSpec("P")


class Commits(Protocol):
    """Calls back after commits of other processes."""

    @property
    def of_others(self) -> bool:
        """Whether each commit of other processes is announced, but for what is lost by accident."""

    def announce(self) -> None:
        """Let other processes know of a commit of this one, where they wait for it; called in the writing thread."""

    def close(self) -> None:
        """Call back no more."""


class Counted(Protocol):
    """Commits that a database may lose after they were confirmed; see :mod:`listener.store.durability`."""

    @property
    def identity(self) -> str:
        """What the counts are of."""

    @property
    def mark(self) -> CommitMark:
        """What was confirmed so far."""

    def expect(self, commits: int) -> None:
        """Take the count that an earlier process of this instance knew as confirmed: before the first transaction."""

    def save_trouble(self, connection: Connection, trouble: str) -> None:
        """Keep what is wrong with this instance."""


class Driver(Protocol):
    """What one kind of database does in its own way."""

    @property
    def path(self) -> Path:
        """The state file; raises StoreError where the store is none."""

    @property
    def is_owner(self) -> bool:
        """Whether this process may send."""

    @property
    def clock(self) -> Clock:
        """The clock by which all processes that use the database keep times."""

    @property
    def instance(self) -> str:
        """The name of this instance; empty where one process owns the store."""

    @property
    def longest_path_bytes(self) -> int | None:
        """How long the path of a URL can be; None: as long as any key."""

    def sender(self, connection: Connection) -> Owner:
        """Return whether a process sends from it, and which."""

    @property
    def keeps_names(self) -> bool:
        """Whether ids of names stay good from one transaction to the next."""

    @property
    def damage(self) -> StoreError | None:
        """The first proof of damage, if there is any: from then on nothing is written."""

    @property
    def counted(self) -> Counted | None:
        """The commits of this process, counted; None where none can be lost once it is confirmed."""

    @property
    def transactions(self) -> Transactions | None:
        """Of the writing connection; None for a store that only reads."""

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query that sees one instant, in the thread that calls."""

    def translated(self, error: Exception) -> Exception:
        """Return the error to report for this one."""

    def notify(self) -> None:
        """Let other processes know that something was committed."""

    def watch(self, changed: Callable[[], None]) -> Commits:
        """Call back in the event loop after commits of other processes."""

    def check(self) -> Callable[[], None] | None:
        """Check a small database for damage; of a larger one return what does that in the background."""

    def checkpoint(self, writer: Writer) -> Future[Any] | None:
        """Do what is to be done now and then, in a thread of its own; return what is left to be waited for."""

    def size_bytes(self, connection: Connection) -> int:
        """Return the size of the database."""

    def instances(self, connection: Connection) -> Sequence[Instance]:
        """Return the instances that share the database; empty where one process owns it."""

    def unled(self, connection: Connection) -> Sequence[str]:
        """Return the accounts for which something was sent that no instance follows."""

    def old_snapshots(self, connection: Connection) -> Sequence[OldSnapshot]:
        """Return who keeps old rows, so that what changes often becomes slow."""

    def remove_retired(self, connection: Connection) -> None:
        """Remove what is kept of copies of trees that were retired, where there can be several."""

    def give_back(self, connection: Connection) -> bool:
        """Give free space back to the disk; return whether to go on."""

    def end(self) -> None:
        """End what runs in the background."""

    def close(self) -> None:
        """Close everything but the writing connection."""


SLICE_ROWS = 1_000
"""Rows that one operation writes at most: some 15 ms, so that nothing holds the writer over 50 ms."""
READERS = 2


def time_of(store: Access | None) -> float:
    """Return seconds since the epoch by a store's clock, or by the machine's where there is no store."""
    return time.time() if store is None else store.clock.now()


def _proved(connection: Connection, fence: Callable[[Connection], None]) -> Connection:
    fence(connection)
    return connection


class Access:
    """An open database; the store's statements are in the modules that :class:`listener.store.Store` calls."""

    def __init__(self, driver: Driver, *, clock: Clock | None = None, copies: Copies | None = None) -> None:
        """Take over the driver of an open database; ``copies`` where sources have one tree on each instance."""
        self.clock = driver.clock if clock is None else clock
        self._driver = driver
        self._committed: Callable[[], None] = driver.notify
        """Called in the writing thread after a commit that changed anything."""
        self._fence: Callable[[Connection], None] | None = None
        self._copies = copies
        self._names = Names(None if copies is None else copies.sources.roots)
        self._writer: Writer | None = None
        if driver.transactions is not None:
            self._writer = Writer(
                driver.transactions,
                translated=driver.translated,
                undone=self._names.clear,
                changed=self._notify,
            )
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
    def path(self) -> Path:
        """The state file; raises StoreError where the store is none."""
        return self._driver.path

    @property
    def owner(self) -> bool:
        """Whether this process may send."""
        return self._driver.is_owner

    @property
    def instance(self) -> str:
        """The name of this instance; empty where one process owns the store."""
        return self._driver.instance

    @property
    def has_copies(self) -> bool:
        """Whether a tree has copies on several instances."""
        return self._copies is not None

    async def sender(self) -> Owner:
        """Return whether a process sends from it, and which."""
        return await self._read(self._driver.sender)

    async def close(self) -> None:
        """Finish what is under way and close the database; safe to call twice."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._driver.end()
        for pool in (self._pool, self._checkpoints, self._checks):
            pool.shutdown()
        if self._writer is not None:
            self._writer.close()
        self._driver.close()

    def under(self, fence: Callable[[Connection], None]) -> Self:
        """
        Return this store as the leader of one term uses it: it writes nothing once the term has ended.

        Args:
            fence: runs before each writing operation, in its transaction; raises :class:`~listener.errors.Fenced`
                where the term has ended, and keeps it from ending before the transaction does.
        """
        led = copy(self)
        led._fence = fence
        return led

    async def _write(self, operation: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kw: P.kwargs) -> T:
        """Run a writing function, of milliseconds, in a transaction; what it returns is durable."""
        writer, fence = self._present_writer(), self._fence
        if fence is not None:
            return await writer.run(lambda connection: operation(_proved(connection, fence), *args, **kw))
        if not self._driver.keeps_names:
            return await writer.run(lambda connection: operation(self._forget(connection), *args, **kw))
        return await writer.run(lambda connection: operation(connection, *args, **kw))

    def _notify(self) -> None:
        self._committed()

    def _present_writer(self) -> Writer:
        """Return the writer; raise where there is none, or where the database is known to be damaged."""
        self._refuse_damaged()
        if self._writer is None:
            raise StoreError(f"state file {self.path}: opened for reading only")
        return self._writer

    def _refuse_damaged(self) -> None:
        if (found := self._driver.damage) is not None:
            raise StoreUnusable(str(found), hint=found.hint)

    def _forget(self, connection: Connection) -> Connection:
        self._names.clear()
        return connection

    async def _read(self, query: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kw: P.kwargs) -> T:
        """Run a reading function on a connection of its own, off the event loop."""
        return await self._run_in(self._pool, lambda: self._driver.read(lambda c: query(c, *args, **kw)))

    async def read(self, query: Callable[[Snapshot], T]) -> T:
        """Run a function that needs several reads of one instant, off the event loop."""
        return await self._read(lambda connection: query(Snapshot(connection, self._names.own_roots)))

    async def _run_in(self, pool: ThreadPoolExecutor, run: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return run()
            except Exception as error:
                reported = self._driver.translated(error)
                if reported is error:
                    raise
                raise reported from error

        try:
            future = asyncio.get_running_loop().run_in_executor(pool, translated)
        except RuntimeError:
            raise closed() from None
        return await future

    @contextmanager
    def announcing(self, changed: Callable[[], None]) -> Iterator[Commits]:
        """
        Call ``changed`` in the event loop after each commit of this process that changed anything.

        Also after those of other processes; ``of_others`` says whether that is to be relied on.
        """
        loop, before = asyncio.get_running_loop(), self._committed
        commits = self._driver.watch(changed)

        def committed() -> None:
            call_in_loop(loop, changed)
            commits.announce()

        self._committed = committed
        try:
            yield commits
        finally:
            self._committed = before
            commits.close()

    @property
    def counted(self) -> Counted | None:
        """The commits of this process, counted; None where none can be lost once it is confirmed."""
        return self._driver.counted

    # -- damage and upkeep -------------------------------------------------------------------------

    @property
    def damage(self) -> StoreError | None:
        """The first proof that the database is damaged, if there is any: from then on nothing is written."""
        return self._driver.damage

    async def check_at_start(self) -> None:
        """Check a small file; begin to check a larger one in the background. Raise StoreUnusable for a damaged one."""
        if (rest := await self._run_in(self._pool, self._driver.check)) is not None:
            self._checks.submit(rest)
        self._refuse_damaged()

    async def checkpoint(self) -> None:
        """Do what the database needs now and then, while the writer goes on; see the driver."""
        writer = self._present_writer()
        last = await self._run_in(self._checkpoints, lambda: self._driver.checkpoint(writer))
        if last is not None:
            await asyncio.wrap_future(last)

    async def size_bytes(self) -> int:
        """Return the size of the database."""
        return await self._read(self._driver.size_bytes)

    async def save_trouble(self, trouble: str) -> None:
        """Keep what is wrong with this instance, for the status on any host."""
        if self.counted is not None:
            await self._write(self.counted.save_trouble, trouble)

    async def instances(self) -> Sequence[Instance]:
        """Return the instances that share the database; empty where one process owns it."""
        return await self._read(self._driver.instances)

    async def running_instances(self) -> tuple[str, ...]:
        """Return the names of those that are alive."""
        return tuple(one.name for one in await self.instances() if one.is_alive)

    async def unled_accounts(self) -> Sequence[str]:
        """Return the accounts for which something was sent that no instance follows; none where one process owns it."""
        return await self._read(self._driver.unled)

    async def old_snapshots(self) -> Sequence[OldSnapshot]:
        """Return who keeps old rows of the database, so that what changes often becomes slow."""
        return await self._read(self._driver.old_snapshots)

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
