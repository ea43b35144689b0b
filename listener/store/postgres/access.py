"""
How the schema is read and written by one instance among several.

One thread writes, on a connection of its own; each reader has another, and sees one instant. What another instance was
in the way of is repeated by the writer. A lost connection is opened again by the next transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors

from listener.errors import StoreError
from listener.store.connection import Connection
from listener.store.fleet import Instance, OldSnapshot
from listener.store.owner import Owner
from listener.store.postgres.address import reported
from listener.store.postgres.clock import DatabaseClock
from listener.store.postgres.connection import LIMITS, PostgresConnection, UnknownOutcome, is_lost, quoted
from listener.store.postgres.copies import remove_retired
from listener.store.postgres.counting import CountedCommits
from listener.store.postgres.migrations import SCHEMA, prepare
from listener.store.postgres.notifications import Notifications
from listener.store.postgres.snapshots import old_snapshots
from listener.store.writer import Writer

__all__ = ["PostgresDriver", "PostgresTransactions"]

T = TypeVar("T")
_IN_THE_WAY: Final = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.ForeignKeyViolation,  # the row behind an id that was kept was removed: ids are forgotten with the undone
    errors.UniqueViolation,  # another instance made the same row
)
_INSTANCES: Final = """
SELECT name, version, extract(epoch FROM started_at)::double precision, until > clock_timestamp(),
  extract(epoch FROM coalesce(died_at, until) - clock_timestamp())::double precision,
  ARRAY (SELECT lease.name FROM {schema}.lease WHERE lease.instance = instance.name
    AND lease.incarnation = instance.incarnation AND lease.name !~ '^(task|source):' ORDER BY lease.name),
  coalesce((SELECT trouble FROM {schema}.instance_count AS counted WHERE counted.name = instance.name), ''),
  extract(epoch FROM coalesce(died_at, until))::double precision
FROM {schema}.instance WHERE until > '-infinity' OR died_at > clock_timestamp() - interval '1 day' ORDER BY name
"""
_UNLED: Final = """
SELECT name FROM {schema}.lease WHERE name !~ '^(task|source):'
  AND NOT EXISTS (SELECT FROM {schema}.instance AS living WHERE living.until > clock_timestamp()
    AND (lease.name = ANY (living.leases)
      OR (living.name = lease.instance AND living.incarnation = lease.incarnation)))
  AND EXISTS (SELECT FROM {schema}.attempt_group AS g WHERE g.account = lease.name AND g.active = 1) ORDER BY name
"""
_READS: Final = 2
"""A query is repeated once where its connection turned out to be lost."""


class PostgresTransactions:
    """The transactions of a writing connection."""

    def __init__(
        self,
        connection: PostgresConnection,
        counted: CountedCommits | None = None,
        *,
        idle_seconds: float | None = None,
    ) -> None:
        """
        Take over the connection.

        Args:
            connection: that writes.
            counted: counts what is committed.
            idle_seconds: how long locks are kept where this process is frozen inside a transaction.
        """
        self.connection = connection
        self._limits = None if idle_seconds is None else LIMITS._replace(idle_seconds=idle_seconds)
        self._counted = counted
        self._compared: psycopg.Connection[Any] | None = connection.raw if counted else None
        """The connection whose server was compared with the count."""
        self._changes_before = 0

    @property
    def total_changes(self) -> int:
        """How many rows were written so far, committed or not."""
        return self.connection.total_changes

    def begin(self) -> None:
        """Begin one."""
        self.connection.begin(self._limits)
        self._changes_before = self.total_changes
        if self._counted is not None and self._compared is not self.connection.raw:
            self._counted.look(self.connection.raw)  # once more after a loss
            self._compared = self.connection.raw

    def commit(self) -> None:
        """End it; what it did is durable."""
        if self._counted is None or self.total_changes == self._changes_before:
            self.connection.commit()
            return
        try:
            (commits,) = self.connection.commit(self._counted.statement)
        except psycopg.DatabaseError:
            self._compared = None
            raise
        self._counted.confirm(commits)

    def rollback(self) -> None:
        """Take it back."""
        self.connection.rollback()

    def close(self) -> None:
        """Close the connection."""
        self.connection.end()

    def is_in_the_way(self, error: Exception, /) -> bool:
        """Return whether another instance was in the way, or the connection or commits were lost before this one."""
        if self._counted is not None and self._counted.found_loss(error):
            return True
        if is_lost(error):
            self.connection.close()
            return True
        return isinstance(error, _IN_THE_WAY)

    def may_be_committed(self, error: Exception, /) -> bool:
        """Return whether the answer to the commit is missing."""
        return isinstance(error, UnknownOutcome)


class PostgresDriver:
    """One schema, as one instance uses it."""

    longest_path_bytes: int | None = 2_200
    """A row of an index has at most 2,704 bytes, of which 500 are left for the base URL and a query."""

    def __init__(
        self,
        url: str,
        *,
        instance: str,
        owner: bool,
        readonly: bool,
        prepared: bool = True,
        schema: str = SCHEMA,
        idle_seconds: float | None = None,
        clock: DatabaseClock | None = None,
    ) -> None:
        """
        Connect, and make the schema where there is none.

        Args:
            url: of the store, as libpq reads it.
            instance: the name of this instance.
            owner: whether this process may send.
            readonly: change nothing.
            prepared: whether statements may stay prepared in the session.
            schema: in which the tables are.
            idle_seconds: how long a transaction that writes keeps its locks where this process is frozen inside it.
            clock: that is to show the server's time.

        Raises:
            ConfigurationError: the URL is none, or the server cannot hold a store.
            StoreUnusable: the schema is of a newer version, or its numbers are not handed out in order.
            StoreError: the server was not reached.
        """
        self.is_owner = owner
        self.instance = instance
        self.keeps_names = True
        self.damage: StoreError | None = None
        self.clock = clock or DatabaseClock()
        self._open = partial(PostgresConnection, url, schema=schema, instance=instance, prepared=prepared)
        writing = self._open()
        try:
            prepare(writing.raw, schema)
            self.counted = CountedCommits.begun(writing.raw, schema, instance) if owner else None
            self.clock.read(writing.raw)
        except BaseException as error:
            writing.end()
            if isinstance(error, psycopg.Error):
                raise self.translated(error) from error
            raise
        if readonly:
            writing.end()
        self.transactions = None if readonly else PostgresTransactions(writing, self.counted, idle_seconds=idle_seconds)
        self._instances = _INSTANCES.replace("{schema}", quoted(schema))
        self._unled = _UNLED.replace("{schema}", quoted(schema))
        self._schema = schema
        self._notifications: list[Notifications] = []
        self._local = threading.local()
        self._readers: list[PostgresConnection] = []

    def sender(self, connection: Connection) -> Owner:
        """Return whether any instance runs: it sends for its accounts."""
        return Owner(any(one.is_alive for one in self.instances(connection)))

    @property
    def path(self) -> Path:
        """Raise StoreError: there is no file."""
        raise StoreError("the store is in PostgreSQL, not in a file", hint="use PostgreSQL's own tools for that")

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query that sees one instant, in the thread that calls."""
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open(was_open=True)
            self._readers.append(connection)
        for left in reversed(range(_READS)):
            try:
                connection.begin(readonly=True)
                return query(connection)
            except psycopg.OperationalError as error:
                if not is_lost(error):
                    raise
                connection.close()
                if not left:
                    raise
            finally:
                connection.rollback()
        raise AssertionError("the last round returns or raises")

    def translated(self, error: Exception) -> Exception:
        """Return the error to report for this one."""
        if isinstance(error, psycopg.DataError) and "NUL" in str(error):
            return UnicodeError("PostgreSQL takes no NUL in a text")
        if isinstance(error, errors.NumericValueOutOfRange):
            return OverflowError("a number does not fit into 64 bits")
        if isinstance(error, psycopg.Error):
            return reported(error)
        return error

    def notify(self) -> None:
        """Do nothing: only daemons wait, and what a command does may wait until they look again by themselves."""

    def watch(self, changed: Callable[[], None]) -> Notifications:
        """Call back in the event loop after commits of other instances, as far as they are announced."""
        connect = partial(self._open, prepared=False, was_open=True)
        self._notifications.append(Notifications(connect, self._schema, changed))
        return self._notifications[-1]

    def check(self) -> Callable[[], None] | None:
        """Do nothing: the server checks its pages (``data_checksums``, ``pg_amcheck``)."""
        return None

    def checkpoint(self, _writer: Writer, /) -> Future[Any] | None:
        """Do nothing: the server does it."""
        return None

    def size_bytes(self, connection: Connection) -> int:
        """Return the size of the database."""
        return int(connection.execute("SELECT pg_database_size(current_database())").fetchone()[0])

    def instances(self, connection: Connection) -> Sequence[Instance]:
        """Return those with a heartbeat, and those that died within a day."""
        assert isinstance(connection, PostgresConnection)
        rows = psycopg.Cursor(connection.raw).execute(self._instances.encode(), prepare=False)
        return [Instance._make((*values, tuple(led), trouble, ends_at)) for *values, led, trouble, ends_at in rows]

    def unled(self, connection: Connection) -> Sequence[str]:
        """Return the accounts whose requests no instance follows: none that runs leads them."""
        assert isinstance(connection, PostgresConnection)
        return [name for (name,) in psycopg.Cursor(connection.raw).execute(self._unled.encode(), prepare=False)]

    def old_snapshots(self, connection: Connection) -> Sequence[OldSnapshot]:
        """Return who keeps old rows, so that what changes often becomes slow."""
        assert isinstance(connection, PostgresConnection)
        return old_snapshots(connection.raw)

    def remove_retired(self, connection: Connection, /) -> None:
        """Remove what is kept of copies that were retired."""
        remove_retired(connection)

    def give_back(self, _connection: Connection, /) -> bool:
        """Return False: autovacuum makes room for what comes next."""
        return False

    def end(self) -> None:
        """Do nothing: nothing runs in the background."""

    def close(self) -> None:
        """Close the readers, and what listens."""
        for notifications in self._notifications:
            notifications.close()
            notifications.join()
        for connection in self._readers:
            connection.end()
        self._readers.clear()
