"""The two databases of the store, as tests of the store use them: each test runs on both."""

from __future__ import annotations

import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg

from listener.clock import Clock, SystemClock
from listener.store import Store, agreement, open_store
from listener.store.connection import Connection
from listener.store.postgres.access import PostgresDriver
from listener.store.postgres.address import connect
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.migrations import SCHEMA, prepare
from listener.store.sqlite.database import prepare as prepare_file
from listener.store.store import StoreOptions


class Database(Protocol):
    """An empty store of one kind."""

    name: str

    def open(
        self,
        *,
        clock: Clock | None = None,
        owner: bool = True,
        options: StoreOptions | None = None,
        instance: str = "a",
    ) -> Store:
        """Open it; several at once as different processes, or instances, would."""

    def connect(self) -> Connection:
        """Return a connection of its driver, in no transaction; closed with the database."""

    def set_sequence(self, number: int) -> None:
        """Let this be the last number of a change that was given out."""

    def close(self) -> None:
        """Close what :meth:`connect` returned."""

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the tables past the store."""

    def reading(self) -> AbstractContextManager[Connection]:
        """Give a connection for reading."""


def disagreements(database: Database) -> list[str]:
    """Return which aggregates do not equal their rows."""
    with database.reading() as connection:
        return agreement.disagreements(connection)


class _Readable(ABC):
    """A database whose tables can be read past the store."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """Give a connection for reading."""

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self.reading() as connection:
            return connection.execute(query, values).fetchall()


class SqliteDatabase(_Readable):
    """A state file."""

    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: list[sqlite3.Connection] = []

    def open(
        self,
        *,
        clock: Clock | None = None,
        owner: bool = True,
        options: StoreOptions | None = None,
        instance: str = "a",
    ) -> Store:
        return open_store(f"sqlite:///{self.path}", clock=clock, owner=owner, options=options)

    def connect(self) -> sqlite3.Connection:
        connection = prepare_file(self.path)
        connection.execute("PRAGMA synchronous = OFF")
        self._opened.append(connection)
        return connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with closing(sqlite3.connect(self.path)) as connection:
            yield connection

    def set_sequence(self, number: int) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("UPDATE meta SET sequence = ?", (number,))

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


class TestConnection(PostgresConnection):
    """A connection for a test, which begins and ends its transactions itself."""

    __test__ = False

    def execute(self, statement: str, values: Any = (), /) -> Any:
        if statement in ("BEGIN", "COMMIT", "ROLLBACK"):
            return self.raw.execute(statement.encode())
        return super().execute(statement, values)


class PostgresDatabase(_Readable):
    """A schema of a server."""

    name = "postgresql"

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[PostgresConnection] = []
        self._reader: Connection | None = None

    def open(
        self,
        *,
        clock: Clock | None = None,
        owner: bool = True,
        options: StoreOptions | None = None,
        instance: str = "a",
    ) -> Store:
        driver = PostgresDriver(self.url, instance=instance, owner=owner, readonly=False)
        return Store(driver, options=options or StoreOptions(), clock=clock or SystemClock())

    def connect(self) -> Connection:
        connection = TestConnection(self.url, schema=SCHEMA, instance="test")
        self._opened.append(connection)
        return connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        if self._reader is None:
            self._reader = self.connect()
        yield self._reader

    def set_sequence(self, number: int) -> None:
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            connection.execute(f"SELECT setval('{SCHEMA}.change_number', {number})".encode())

    def close(self) -> None:
        for connection in self._opened:
            connection.end()


EMPTY: Final = f"""
DO $$
DECLARE
  used text;
BEGIN
  SELECT string_agg(oid::regclass::text, ', ') INTO used FROM pg_class
    WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
      AND relname NOT IN ('schema_version', 'installation');
  IF used IS NOT NULL THEN
    EXECUTE 'TRUNCATE ' || used || ' CASCADE';
  END IF;
  PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
    FROM pg_sequences WHERE schemaname = '{SCHEMA}' AND last_value IS NOT NULL;
  UPDATE {SCHEMA}.installation SET clean = 1;
END $$
""".encode()


def prepare_schema(url: str) -> None:
    """Make the schema in a database of a test."""
    with closing(connect(url, instance="test")) as connection:
        prepare(connection)


def empty_schema(url: str) -> None:
    """Remove everything, as a new schema has it: only tables with pages, since each one takes six new files."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute(EMPTY)


@contextmanager
def sqlite_database(path: Path, template: Path) -> Iterator[SqliteDatabase]:
    """Give a state file of this path, a copy: making one waits for the disk ten times."""
    shutil.copy(template, path)  # with its mode: state files are private
    with closing(SqliteDatabase(path)) as database:
        yield database


@contextmanager
def postgres_database(url: str) -> Iterator[PostgresDatabase]:
    """Give the emptied schema of this database."""
    empty_schema(url)
    with closing(PostgresDatabase(url)) as database:
        yield database
