"""A state file as one end of a move (:mod:`listener.store.moving`)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from listener.errors import StoreError
from listener.files import flush
from listener.store.moving import SLICE_ROWS, Counters
from listener.store.sqlite.database import STORE_ERRORS, open_reading, prepare, snapshot, translate
from listener.store.sqlite.ownership import OwnerLock

__all__ = ["SqliteEnd", "reading", "writing"]


class SqliteEnd:
    """Both ends: a connection to a state file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take over an open connection."""
        self._connection = connection

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns."""
        return [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def slices(self, table: str, columns: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
        """Yield a table's rows."""
        cursor = self._connection.execute(f"SELECT {', '.join(columns)} FROM {table}")
        while rows := cursor.fetchmany(SLICE_ROWS):
            yield rows

    def counters(self) -> Counters:
        """Return what was given out."""
        sequence, created_at = self._connection.execute("SELECT sequence, created_at FROM meta").fetchone()
        ids = dict(self._connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
        return Counters(sequence, created_at, ids)

    def write(self, table: str, columns: Sequence[str], slices: Iterable[Sequence[Sequence[Any]]]) -> None:
        """Write rows; each slice is a transaction."""
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        for rows in slices:
            self._connection.execute("BEGIN")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")

    def set_counters(self, counters: Counters) -> None:
        """Let the next numbers be above these."""
        self._connection.execute("UPDATE meta SET sequence = ?, created_at = ?", counters[:2])
        counted = self._connection.execute("SELECT name FROM sqlite_schema WHERE sql LIKE '%AUTOINCREMENT%'").fetchall()
        for table, highest in counters.ids.items():
            if (table,) not in counted or not highest:
                continue
            counter = self._connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (highest, table)
            )
            if not counter.rowcount:
                self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, highest))


@contextmanager
def reading(path: Path) -> Iterator[SqliteEnd]:
    """
    Read a state file that no daemon owns.

    Raises:
        StoreBusy: one does.
        StoreError: it is not there, or cannot be read.
    """
    if not path.exists():
        raise StoreError(f"state file {path}: there is none")
    lock = OwnerLock(path)
    lock.acquire()
    try:
        with closing(open_reading(path)) as connection, snapshot(connection):
            yield SqliteEnd(connection)
    except STORE_ERRORS as error:
        raise translate(error, path) from error
    finally:
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[SqliteEnd]:
    """
    Make a state file, which has its name once it is whole.

    Raises:
        StoreBusy: a daemon owns it.
        StoreError: there is one already, or it cannot be written.
    """
    lock = OwnerLock(path)
    if path.parent.is_dir():
        lock.acquire()
    draft = path.with_name(path.name + ".part")
    try:
        if path.exists():
            raise StoreError(f"state file {path}: already exists", hint="name a file that does not exist yet")
        _remove(draft)
        with closing(prepare(draft)) as connection:
            with _without_triggers(connection):
                yield SqliteEnd(connection)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        flush(draft)
        draft.rename(path)
        flush(path.parent)
    except OSError as error:
        raise StoreError(f"state file {path}: cannot be written: {error.strerror}") from error
    except STORE_ERRORS as error:
        raise translate(error, path) from error
    finally:
        _remove(draft)
        lock.release()


@contextmanager
def _without_triggers(connection: sqlite3.Connection) -> Iterator[None]:
    """Write rows as they are: counts that triggers keep are columns, too. The file may be lost by a crash meanwhile."""
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA wal_autocheckpoint = 1000")
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    yield
    for _, statement in triggers:
        connection.execute(statement)


def _remove(draft: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{draft}{suffix}")  # noqa: PTH108 - the name is a text
