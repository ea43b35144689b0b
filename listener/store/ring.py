"""
What was acknowledged lately, kept on local disk against a database that loses confirmed commits.

A server that is promoted without a synchronous standby lacks the last commits, and queues deliver nothing twice that
was acknowledged. So each instance keeps the batches that it recorded, each with the count of its commits at that time
(:mod:`listener.store.durability`), before it acknowledges them. Whatever has a higher count than the database is
recorded once more. That does no harm where it was not lost. Bounded by time and size; what was dropped, damaged or not
written is known by its count (:attr:`Ring.is_complete`).

It survives the end of the process at any moment, not that of the machine: nothing waits for the disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from zlib import crc32

import structlog

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Unreadable
from listener.files import guard, make_private
from listener.refresh import Priority
from listener.store.batches import Batch
from listener.store.durability import CommitMark

__all__ = ["MOST_BYTES", "Kept", "Letter", "Ring", "ring_path"]

log = structlog.get_logger()

MOST_BYTES: Final = 256 * 1024 * 1024
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS batch (
  number INTEGER PRIMARY KEY,
  at REAL NOT NULL,                   -- when it was recorded, in seconds since the epoch
  commits INTEGER NOT NULL,           -- how many commits were confirmed up to this one, which is included
  is_lost INTEGER NOT NULL,           -- whether it waits to be recorded again
  checksum INTEGER NOT NULL,          -- of the content
  content TEXT NOT NULL               -- JSON
);
CREATE TABLE IF NOT EXISTS state (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  identity TEXT NOT NULL,             -- what the counts are of
  commits INTEGER NOT NULL,           -- the highest count that was confirmed
  dropped INTEGER NOT NULL,           -- the highest count of what is no longer here
  bytes INTEGER NOT NULL              -- of all content
);
"""
_DAMAGED: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_IOERR_SHORT_READ"})
"""What SQLite says of a file that it did not write; ``SQLITE_ERROR``: with other tables."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


Letter = tuple[str, Unreadable]
"""A message that cannot be read, and its source."""


class Kept(NamedTuple):
    """A batch that was acknowledged."""

    number: int
    batch: Batch
    letters: Sequence[Letter] = ()
    """What could not be read of the same delivery, and was set aside."""


def ring_path(directory: Path, *, instance: str, identity: str) -> Path:
    """Return the file of one instance and database: several may be in one directory."""
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return directory / f"replay-{_UNSAFE.sub('_', instance)[:100]}-{digest}.db"


class Ring:
    """The batches of one instance on one database, oldest first. May be used in any thread."""

    def __init__(self, connection: sqlite3.Connection, identity: str, *, keep_seconds: float) -> None:
        """Take over a connection; batches of another database are removed. Raises sqlite3.Error."""
        self.is_complete = True
        """Whether all that was acknowledged and lost was found here, as far as losses were marked."""
        self._connection = connection
        self._keep_seconds = keep_seconds
        self._lock = threading.RLock()
        self._losses = 0
        """How many losses of this process are marked."""
        self._skipped = 0
        """The highest count of what could not be written; noted with the next batch."""
        connection.executescript(_TABLES)
        row = connection.execute("SELECT identity FROM state").fetchone()
        if row != (identity,):
            connection.execute("DELETE FROM batch")
            connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?, 0, 0, 0)", (identity,))
        connection.execute("SELECT is_lost, checksum FROM batch LIMIT 1")

    @classmethod
    def opened(cls, path: Path | None, identity: str, *, keep_seconds: float) -> Self:
        """
        Open the file, made where there is none; without a path it lasts as long as the process.

        A damaged or foreign file is replaced: everything in it is in the database. Raises OSError.
        """
        try:
            return cls._opened(path, identity, keep_seconds=keep_seconds)
        except sqlite3.Error as error:
            if path is None or error.sqlite_errorname not in _DAMAGED:
                raise OSError(f"{path}: {error}") from error
            log.warning("replay.damaged", path=str(path), error=str(error))
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        try:
            return cls._opened(path, identity, keep_seconds=keep_seconds)
        except sqlite3.Error as error:
            raise OSError(f"{path}: {error}") from error

    @classmethod
    def _opened(cls, path: Path | None, identity: str, *, keep_seconds: float) -> Self:
        if path is not None:
            if path.is_symlink():
                raise OSError(f"{path}: is a link")
            make_private(path)
            guard(path)
        connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=0.5)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            return cls(connection, identity, keep_seconds=keep_seconds)
        except BaseException:
            connection.close()
            raise

    def add(self, batch: Batch, mark: CommitMark, now: float, *, letters: Sequence[Letter] = ()) -> bool:
        """
        Keep a batch, and letters, that were recorded by this mark, and drop what is too old or too much.

        Returns:
            False where a loss was marked since: it may include this batch, which is to be recorded again.

        Raises:
            OSError: it could not be written; that it is missing is remembered.
        """
        content = _as_text(batch, letters)
        with self._lock:  # no loss is marked between the look and the commit
            try:
                if not self.follow(mark):
                    return False
                self._add(content, mark.commits, now)
            except OSError:
                self._skipped = max(self._skipped, mark.commits)
                raise
            self._skipped = 0
        return True

    def _add(self, content: str, commits: int, now: float) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO batch (at, commits, is_lost, checksum, content) VALUES (?, ?, 0, ?, ?)",
                (now, commits, crc32(content.encode()), content),
            )
            connection.execute(
                "UPDATE state SET commits = ?, bytes = bytes + ?, dropped = max(dropped, ?)",
                (commits, len(content), self._skipped),
            )
            while self._drop_oldest(connection, now):
                pass

    def _drop_oldest(self, connection: sqlite3.Connection, now: float) -> bool:
        row = connection.execute(
            "SELECT number, at, commits, length(content) FROM batch WHERE NOT is_lost ORDER BY number LIMIT 1"
        ).fetchone()
        (total,) = connection.execute("SELECT bytes FROM state").fetchone()
        if row is None or (row[1] > now - self._keep_seconds and total <= MOST_BYTES):
            return False
        number, _, commits, size = row
        connection.execute("DELETE FROM batch WHERE number = ?", (number,))
        connection.execute("UPDATE state SET bytes = bytes - ?, dropped = max(dropped, ?)", (size, commits))
        return True

    def follow(self, mark: CommitMark) -> bool:
        """
        Mark what this process's losses took: it waits to be recorded again. Raises OSError.

        Returns:
            False for a mark that is older than a loss.
        """
        with self._lock:
            for loss in mark.losses[self._losses :]:
                with self._transaction() as connection:
                    (dropped,) = connection.execute("SELECT dropped FROM state").fetchone()
                    connection.execute("UPDATE batch SET is_lost = 1 WHERE commits > ?", (loss.found,))
                    least = "UPDATE state SET commits = ?, dropped = min(dropped, ?)"
                    connection.execute(least, (loss.found, loss.found))
                self.is_complete = self.is_complete and max(dropped, self._skipped) <= loss.found
                self._skipped = 0
                self._losses += 1
            return len(mark.losses) == self._losses

    def lost(self) -> Kept | None:
        """Return the oldest batch that waits to be recorded again; :meth:`remove` it then. Raises OSError."""
        while True:
            with self._transaction() as connection:
                row = connection.execute(
                    "SELECT number, checksum, content FROM batch WHERE is_lost ORDER BY number LIMIT 1"
                ).fetchone()
            if row is None:
                return None
            number, checksum, content = row
            if crc32(str(content).encode()) == checksum:
                return Kept(number, *_from_text(content))
            self.is_complete = False
            self.remove(number)

    def remove(self, number: int) -> None:
        """Remove a batch: it was recorded again, and kept as another one. Raises OSError."""
        with self._transaction() as connection:
            size = "SELECT length(content) FROM batch WHERE number = ?"
            connection.execute(f"UPDATE state SET bytes = bytes - coalesce(({size}), 0)", (number,))
            connection.execute("DELETE FROM batch WHERE number = ?", (number,))

    @property
    def commits(self) -> int:
        """The highest count that was confirmed. Raises OSError."""
        return self._value("SELECT commits FROM state")

    def close(self, mark: CommitMark) -> None:
        """Keep the count, and close the file."""
        with suppress(OSError):
            if self.follow(mark):
                with self._transaction() as connection:
                    connection.execute("UPDATE state SET commits = ?", (mark.commits,))
        with self._lock:
            self._connection.close()

    def _value(self, query: str) -> int:
        with self._transaction() as connection:
            return int(connection.execute(query).fetchone()[0])

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection, self._lock)


class _Transaction:
    """A transaction of the file; an error of SQLite is an OSError."""

    def __init__(self, connection: sqlite3.Connection, lock: Any) -> None:
        self._connection = connection
        self._lock = lock

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            self._connection.execute("BEGIN")
        except sqlite3.Error as error:
            self._lock.release()
            raise OSError(str(error)) from error
        return self._connection

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
        except sqlite3.Error as failed:
            error = failed
        finally:
            with suppress(sqlite3.Error):
                if self._connection.in_transaction:  # SQLite ends it by itself on some errors
                    self._connection.execute("ROLLBACK")
            self._lock.release()
        if isinstance(error, sqlite3.Error):
            raise OSError(str(error)) from error


def _as_text(batch: Batch, letters: Sequence[Letter]) -> str:
    rows = [(source, one.subject.decode("latin-1"), one.body.decode("latin-1"), one.reason) for source, one in letters]
    return json.dumps([batch.changes, batch.priority, list(batch.message_ids), rows])


def _from_text(text: str) -> tuple[Batch, list[Letter]]:
    changes, priority, ids, *others = json.loads(text)
    rows = others[0] if others else ()  # a version that kept no letters wrote it
    letters = [
        (source, Unreadable(subject.encode("latin-1"), body.encode("latin-1"), why))
        for source, subject, body, why in rows
    ]
    return Batch([_as_change(row) for row in changes], priority=Priority(priority), message_ids=ids), letters


def _as_change(row: list[Any]) -> Change:
    change = Change(*row)
    fingerprint = None if change.fingerprint is None else Fingerprint(*change.fingerprint)
    return change._replace(kind=ChangeKind(change.kind), fingerprint=fingerprint)
