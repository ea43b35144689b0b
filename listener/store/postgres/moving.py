"""A PostgreSQL store as one end of a move (:mod:`listener.store.moving`)."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from listener.errors import StoreBusy, StoreError
from listener.store.moving import SLICE_ROWS, TABLES, Counters, RowTooLong
from listener.store.postgres.address import connect, described_place, reported
from listener.store.postgres.migrations import SCHEMA, prepare

__all__ = ["PostgresEnd", "reading", "writing"]

INSTANCE: Final = "store move"
_LINE: Final = re.compile(r"COPY \w+, \D+(\d+)")
"""In the context of an error, in whichever language."""
IN_BLOCKS: Final = {"attempt_item": "attempt_number", "attempt_group": "group_number"}
"""Tables whose ids are given out in blocks, by sequences that go up by the size of one."""
_NO_LIMITS: Final = (
    "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;"
    " SET LOCAL lock_timeout = 0; SET LOCAL synchronous_commit = on"
)


class PostgresEnd:
    """Both ends: a connection within the one transaction of the move."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str = SCHEMA) -> None:
        """Take over a connection in a transaction."""
        self._connection = connection
        self._schema = schema

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns, without those that the server derives from others."""
        rows = self._connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
            " AND is_generated = 'NEVER' ORDER BY ordinal_position",
            (self._schema, table),
        )
        return [name for (name,) in rows]

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        return int(self._one("SELECT count(*) FROM {}", self._name(table)))

    def slices(self, table: str, columns: Sequence[str]) -> Generator[Sequence[Sequence[Any]], None, None]:
        """Yield a table's rows."""
        query = sql.SQL("SELECT {} FROM {}").format(_listed(columns), self._name(table))
        with self._connection.cursor(name="moved", binary=True) as cursor:  # kept by the server, read in slices
            cursor.execute(query)
            while rows := cursor.fetchmany(SLICE_ROWS):
                yield rows

    def counters(self) -> Counters:
        """Return what was given out."""
        row = self._connection.execute(
            sql.SQL("SELECT sequence, created_at FROM {}").format(self._name("meta"))
        ).fetchone()
        if row is None:
            raise StoreError(f"PostgreSQL schema {self._schema}: its only row about itself is missing")
        return Counters(int(row[0]), float(row[1]), {table: self._last(name) for table, name in self._sequences()})

    def write(self, table: str, columns: Sequence[str], slices: Iterable[Sequence[Sequence[Any]]]) -> None:
        """Write rows."""
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(self._name(table), _listed(columns))
        try:
            with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
                for rows in slices:
                    for row in rows:
                        copy.write_row([_without_nul(value) for value in row])
        except psycopg.errors.ProgramLimitExceeded as error:
            if (line := _LINE.search(error.diag.context or "")) is None:
                raise
            raise RowTooLong(int(line[1]) - 1) from error

    def set_counters(self, counters: Counters) -> None:
        """Let the next numbers be above these."""
        self._set(f"{self._schema}.change_number", counters.sequence)
        for table, sequence in self._sequences():
            highest = self._one("SELECT coalesce(max({}), 0) FROM {}", sql.Identifier(_id(table)), self._name(table))
            self._set(sequence, max(highest, counters.ids.get(table, 0)))
        self._connection.execute(
            sql.SQL("UPDATE {} SET created_at = %s").format(self._name("installation")), (counters.created_at,)
        )

    def begin(self) -> None:
        """Keep others out, and write rows as they are: counts that triggers keep are columns, too."""
        tables = sql.SQL(", ").join(map(self._name, TABLES))
        self._connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(tables))
        for table in TABLES:
            if self.count(table):
                raise StoreError(
                    f"PostgreSQL schema {self._schema}: is not empty: table {table} has rows",
                    hint=f"name another database, or drop what is there: DROP SCHEMA {self._schema} CASCADE",
                )
        self._switch_triggers("DISABLE")

    def end(self) -> None:
        """Let triggers count again."""
        self._switch_triggers("ENABLE")

    def _switch_triggers(self, how: str) -> None:
        for table in TABLES:
            self._connection.execute(sql.SQL("ALTER TABLE {} {} TRIGGER USER").format(self._name(table), sql.SQL(how)))

    def analyse(self) -> None:
        """Let the server plan for what is there now."""
        for table in TABLES:
            self._connection.execute(sql.SQL("ANALYZE {}").format(self._name(table)))

    def _sequences(self) -> list[tuple[str, str]]:
        """Return the tables that number their rows, each with its sequence."""
        rows = self._connection.execute(
            "SELECT table_name, pg_get_serial_sequence(format('%%I.%%I', table_schema, table_name), column_name)"
            " FROM information_schema.columns WHERE table_schema = %s AND is_identity = 'YES'",
            (self._schema,),
        )
        blocks = {table: f"{self._schema}.{name}" for table, name in IN_BLOCKS.items()}
        return list({**dict(rows.fetchall()), **blocks}.items())

    def _last(self, sequence: str) -> int:
        """Return the last number of the last block that a sequence gave out; 0 where it gave out none."""
        return int(
            self._one(
                f"SELECT CASE WHEN is_called THEN last_value + seqincrement - 1 ELSE 0 END FROM {sequence}, pg_sequence"
                f" WHERE seqrelid = '{sequence}'::regclass"
            )
        )

    def _set(self, sequence: str, last: int) -> None:
        if last:
            self._connection.execute("SELECT setval(%s, %s)", (sequence, last))

    def _one(self, statement: str, *parts: sql.Composable) -> Any:
        row = self._connection.execute(sql.SQL(statement).format(*parts)).fetchone()
        return row[0] if row else None

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._schema, table)


def _id(table: str) -> str:
    return "number" if table == "message" else "id"


@contextmanager
def reading(url: str, schema: str = SCHEMA) -> Iterator[PostgresEnd]:
    """
    Read a store that no daemon uses, as it is at one instant.

    Raises:
        StoreBusy: one does.
        StoreError: the server was not reached, there is no store, or an instance has to book something first.
    """
    with _connected(url) as connection:
        if connection.execute("SELECT to_regclass(%s)", (f"{schema}.schema_version",)).fetchone() == (None,):
            raise StoreError(
                f"{described_place(url)} has no schema {schema}: there is no store",
                hint="check the database in the URL",
            )
        prepare(connection, schema)
        _refuse_in_use(connection, schema)
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(_NO_LIMITS)
            end = PostgresEnd(connection, schema)
            if late := end.count("late_answer"):
                raise StoreError(
                    f"PostgreSQL schema {schema}: {late} requests were accepted that no ledger has yet",
                    hint="start an instance, which books them, and stop it again",
                )
            yield end


@contextmanager
def writing(url: str, schema: str = SCHEMA) -> Iterator[PostgresEnd]:
    """
    Write a store in one transaction, which nobody sees before its end.

    Raises:
        StoreBusy: somebody uses it.
        StoreError: it is not empty, the server was not reached, or it did not confirm the commit.
    """
    with _connected(url) as connection:
        prepare(connection, schema)
        _refuse_in_use(connection, schema)
        end = PostgresEnd(connection, schema)
        warnings: list[str] = []
        with connection.transaction():
            connection.execute(_NO_LIMITS)
            end.begin()
            yield end
            end.end()
            connection.add_notice_handler(lambda notice: warnings.append(str(notice.message_primary)))
        if warnings:
            raise StoreError(f"PostgreSQL committed with a warning, so that the move may not last: {warnings[0]}")
        end.analyse()


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(url, instance=INSTANCE, prepared=False) as connection:
        try:
            yield connection
        except psycopg.errors.LockNotAvailable:
            raise _in_use("another session uses it") from None
        except psycopg.Error as error:
            raise reported(error) from error


def _refuse_in_use(connection: psycopg.Connection[Any], schema: str) -> None:
    """Raise StoreBusy where an instance has a heartbeat. Its connections prove nothing: a pool keeps them."""
    alive = sql.SQL("SELECT name FROM {} WHERE until > clock_timestamp() LIMIT 1")
    row = connection.execute(alive.format(sql.Identifier(schema, "instance"))).fetchone()
    if row is not None:
        raise _in_use(f"instance {row[0]} runs")


def _in_use(by: str) -> StoreBusy:
    return StoreBusy(f"the PostgreSQL store is in use: {by}", hint="stop every instance first")


def _listed(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _without_nul(value: Any) -> Any:
    """Return what PostgreSQL can hold: a text that is shown to people may have a character that it cannot."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) and "\0" in value else value
