"""
What was acknowledged lately, kept on local disk against a database that loses confirmed commits.

A server that is promoted without a synchronous standby lacks the last commits, and queues deliver nothing twice that
was acknowledged. So each instance keeps the batches that it recorded, each with the count of its commits at that time
(:mod:`listener.store.durability`): whatever has a higher count than the database is recorded once more. That does no
harm where it was not lost. Bounded by time and size; what was dropped is known by its count.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from listener.change import Change, ChangeKind, Fingerprint
from listener.files import guard, make_private
from listener.refresh import Priority
from listener.store.batches import Batch

__all__ = ["MOST_BYTES", "Kept", "Ring"]

MOST_BYTES: Final = 256 * 1024 * 1024
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS batch (
  number INTEGER PRIMARY KEY,
  at REAL NOT NULL,                   -- when it was recorded, in seconds since the epoch
  commits INTEGER NOT NULL,           -- how many commits were confirmed up to this one, which is included
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


class Kept(NamedTuple):
    """A batch that was acknowledged."""

    number: int
    batch: Batch


class Ring:
    """The batches of one instance on one database, oldest first. May be used in any thread."""

    def __init__(self, connection: sqlite3.Connection, identity: str, *, keep_seconds: float) -> None:
        """Take over a connection; batches of another database are removed. Raises sqlite3.Error."""
        self._connection = connection
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        connection.executescript(_TABLES)
        row = connection.execute("SELECT identity FROM state").fetchone()
        if row != (identity,):
            connection.execute("DELETE FROM batch")
            connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?, 0, 0, 0)", (identity,))

    @classmethod
    def opened(cls, path: Path | None, identity: str, *, keep_seconds: float) -> Self:
        """Open the file, made where there is none; without a path it lasts as long as the process. Raises OSError."""
        try:
            if path is not None:
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
        except sqlite3.Error as error:
            raise OSError(f"{path}: {error}") from error

    def add(self, batch: Batch, commits: int, now: float) -> None:
        """Keep a batch that is recorded, and drop what is too old or too much. Raises OSError."""
        content = _as_text(batch)
        with self._transaction() as connection:
            connection.execute("INSERT INTO batch (at, commits, content) VALUES (?, ?, ?)", (now, commits, content))
            connection.execute("UPDATE state SET commits = max(commits, ?), bytes = bytes + ?", (commits, len(content)))
            while self._drop_oldest(connection, now):
                pass

    def _drop_oldest(self, connection: sqlite3.Connection, now: float) -> bool:
        number, at, commits, size = connection.execute(
            "SELECT number, at, commits, length(content) FROM batch ORDER BY number LIMIT 1"
        ).fetchone()
        (total,) = connection.execute("SELECT bytes FROM state").fetchone()
        if at >= now - self._keep_seconds and total <= MOST_BYTES:
            return False
        connection.execute("DELETE FROM batch WHERE number = ?", (number,))
        connection.execute("UPDATE state SET bytes = bytes - ?, dropped = max(dropped, ?)", (size, commits))
        return connection.execute("SELECT 1 FROM batch LIMIT 1").fetchone() is not None

    def moved(self, kept: Kept, commits: int) -> None:
        """Note that a batch was recorded once more, at this count. Raises OSError."""
        with self._transaction() as connection:
            connection.execute("UPDATE batch SET commits = ? WHERE number = ?", (commits, kept.number))
            connection.execute("UPDATE state SET commits = max(commits, ?)", (commits,))

    def lose(self, found: int) -> None:
        """Let counts go on from what the database has. Raises OSError."""
        with self._transaction() as connection:
            connection.execute("UPDATE state SET commits = ?", (found,))

    def after(self, commits: int) -> Iterator[Kept]:
        """Yield what was recorded above this count, in order, one at a time."""
        number, last = 0, self._value("SELECT coalesce(max(number), 0) FROM batch")
        while True:
            with self._lock:
                row = self._connection.execute(
                    "SELECT number, content FROM batch WHERE number > ? AND number <= ? AND commits > ?"
                    " ORDER BY number LIMIT 1",
                    (number, last, commits),
                ).fetchone()
            if row is None:
                return
            number = row[0]
            yield Kept(number, _as_batch(row[1]))

    @property
    def commits(self) -> int:
        """The highest count that was confirmed."""
        return self._value("SELECT commits FROM state")

    def is_complete_after(self, commits: int) -> bool:
        """Return whether everything that was recorded above this count is here."""
        return self._value("SELECT dropped FROM state") <= commits

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _value(self, query: str) -> int:
        with self._lock:
            return int(self._connection.execute(query).fetchone()[0])

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection, self._lock)


class _Transaction:
    """A transaction of the file; an error of SQLite is an OSError."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.Lock) -> None:
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


def _as_text(batch: Batch) -> str:
    return json.dumps([batch.changes, batch.priority, list(batch.message_ids)])


def _as_batch(text: str) -> Batch:
    changes, priority, ids = json.loads(text)
    return Batch([_as_change(row) for row in changes], priority=Priority(priority), message_ids=ids)


def _as_change(row: list[Any]) -> Change:
    change = Change(*row)
    fingerprint = None if change.fingerprint is None else Fingerprint(*change.fingerprint)
    return change._replace(kind=ChangeKind(change.kind), fingerprint=fingerprint)
