"""
How a state file is read and written.

A reader has its own connection, and repeats its query where an unlocked file changed meanwhile. Checkpoints have a
thread of their own. Once the file is known to be damaged nothing is written any more.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from listener.clock import SystemClock
from listener.errors import StoreError
from listener.store.connection import Connection
from listener.store.fleet import Instance, OldSnapshot
from listener.store.owner import Owner
from listener.store.sqlite import maintenance
from listener.store.sqlite.announcements import Announcements, announce
from listener.store.sqlite.database import (
    Opened,
    connect,
    open_reading,
    open_unlocked,
    prepare,
    size_bytes,
    snapshot,
)
from listener.store.sqlite.ownership import Damage, OwnerLock, lock_path, owner_of
from listener.store.writer import Writer

__all__ = ["Readers", "SqliteDriver", "SqliteTransactions"]

T = TypeVar("T")


class SqliteTransactions:
    """The transactions of a writing connection to a state file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take over the connection."""
        self.connection = connection

    @property
    def total_changes(self) -> int:
        """How many rows were written so far, committed or not."""
        return self.connection.total_changes

    def begin(self) -> None:
        """Begin one, as the only writer."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End it; what it did is durable."""
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Take back what is not committed; SQLite may have done so by itself, as on a full disk."""
        with suppress(sqlite3.Error):
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def is_in_the_way(self, _error: Exception, /) -> bool:
        """Return False: one process writes at a time, and the others wait for it."""
        return False

    def may_be_committed(self, _error: Exception, /) -> bool:
        """Return False: a commit that fails is taken back."""
        return False


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


CHECKPOINT_PASSES = 4
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
LAST_PAGES = 500
"""So many pages of the write-ahead log the writer moves to the file by itself: some milliseconds."""
LONG_LOG_PAGES = 4_000
"""A log of so many pages (of 4 KiB) starts over at the next checkpoint."""
LONGEST_LOG_PAGES = 64_000
"""One of so many does at whatever cost: 256 MiB."""


class SqliteDriver:
    """One state file, open."""

    longest_path_bytes: int | None = None

    def __init__(self, path: Path, *, owner: bool, readonly: bool) -> None:
        """
        Open the file, and make it where there is none.

        Args:
            path: of the file.
            owner: whether this process sends from it; one at a time may.
            readonly: make and change nothing; works without the right to write.

        Raises:
            StoreBusy: another process owns it.
            StoreUnusable: the file is corrupt, foreign or of a newer version; it was left as it is.
        """
        self.path = path
        self.clock = SystemClock()
        self._lock = OwnerLock(path) if owner else None
        if self._lock is not None and path.parent.is_dir():
            self._lock.acquire()
        try:
            self.transactions = None if readonly else SqliteTransactions(prepare(path))
        except BaseException:
            self._release()
            raise
        opens = partial(open_reading, path) if readonly else partial(connect, path, readonly=True)
        self._damage = Damage(path, opens)
        self.translated = self._damage.translated
        self._readers = Readers(path, has_writer=not readonly)
        self.read = self._readers.run

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    @property
    def is_owner(self) -> bool:
        """Whether this process may send."""
        return self._lock is not None

    def sender(self, _connection: Connection, /) -> Owner:
        """Return whether a process sends from it, and which."""
        return owner_of(self.path)

    instance = ""
    """One process owns the file."""

    counted = None
    """A commit that was confirmed stays."""

    @property
    def keeps_names(self) -> bool:
        """Whether ids of names stay good: the owner may remove an empty directory."""
        return self.is_owner

    @property
    def damage(self) -> StoreError | None:
        """The first proof that the file is damaged, if there is any."""
        return self._damage.found

    def notify(self) -> None:
        """Let the owner know that something was committed."""
        announce(lock_path(self.path))

    def watch(self, changed: Callable[[], None]) -> Announcements:
        """Call back in the event loop after commits of other processes, where this one owns the file."""
        return Announcements(lock_path(self.path), changed)

    def check(self) -> Callable[[], None] | None:
        """Check a small file for damage; of a larger one return what does that in the background."""
        return None if self._damage.check_small() else self._damage.check_large

    def checkpoint(self, writer: Writer) -> Future[Any] | None:
        """
        Move committed pages from the write-ahead log to the file, nearly all of them while the writer goes on.

        While the writer goes on it is always some pages ahead, and the log would grow for ever. So it
        moves the last few itself, and the log starts over.
        """
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

    def size_bytes(self, connection: Connection) -> int:
        """Return the size of the file by its own count of pages."""
        return size_bytes(connection)

    def instances(self, _connection: Connection, /) -> Sequence[Instance]:
        """Return none: one process owns the file."""
        return ()

    def unled(self, _connection: Connection, /) -> Sequence[str]:
        """Return none: the owner follows whatever was sent."""
        return ()

    def old_snapshots(self, _connection: Connection, /) -> Sequence[OldSnapshot]:
        """Return none: a reader keeps the log from being reused, which :meth:`checkpoint` reports."""
        return ()

    def remove_retired(self, _connection: Connection, /) -> None:
        """Do nothing: there is one copy of each tree."""

    def give_back(self, connection: Connection) -> bool:
        """Give a slice of the file's free pages back to the disk; return whether to go on."""
        return self.is_owner and maintenance.give_back(connection)

    def end(self) -> None:
        """End a check that runs."""
        self._damage.end()

    def close(self) -> None:
        """Close the readers, and give the lock back."""
        self._readers.close()
        self._release()
