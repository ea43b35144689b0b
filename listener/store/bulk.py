"""
Many rows by few statements: insert, update, delete and look up.

For SQLite running a statement costs more than the row that it writes, the more so for a table with triggers. So rows
are inserted by statements of many rows, of a few sizes, which stay compiled, and changed by one statement that is run
for each. For PostgreSQL each statement is a journey: it takes all rows at once, as the table ``wanted``
(:class:`listener.store.connection.SetConnection`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar, cast

from listener.store.connection import Connection, SetConnection

__all__ = ["NEED_KEY", "Bulk", "RowStatement", "Upsert", "delete_rows", "in_sets_of", "in_sizes", "select_wanted"]

T = TypeVar("T")
Row = TypeVar("Row", bound=tuple[Any, ...])
_SIZES = (64, 8, 1)
_WANTED_SIZES = (1, 8, 64, 512)
NEED_KEY = ("directory", "name", "scope")


def in_sets_of(connection: Connection) -> SetConnection | None:
    """Return the connection where it takes many rows at once, and its triggers run once for a statement."""
    return None if isinstance(connection, sqlite3.Connection) else cast("SetConnection", connection)


class Bulk:
    """A statement that writes rows into one table."""

    def __init__(self, statement: str, row: str, *, columns: int, constants: int = 0, key: Sequence[str] = ()) -> None:
        """
        Prepare it.

        Args:
            statement: SQL with ``{}`` in place of ``VALUES`` and the rows.
            row: one row in SQL: its values are ``{0}`` and so on, those that all rows share ``?1`` and so on.
            columns: how many values of its own a row has.
            constants: how many are shared.
            key: the columns that are unique, where rows may be there already; a row begins with their values.
        """
        marks = iter(f"?{number}" for number in range(constants + 1, constants + 1 + columns * _SIZES[0]))
        rows = [row.format(*(next(marks) for _ in range(columns))) for _ in range(_SIZES[0])]
        self._statements = {size: statement.format(f"VALUES {', '.join(rows[:size])}") for size in _SIZES}
        values = row.format(*(f"column{number}" for number in range(1, columns + 1)))[1:-1]
        returning = f" RETURNING {', '.join(key)}" if key else ""
        self._statement = statement.format(f"SELECT {values} FROM wanted") + returning
        self._key_length = len(key)

    def write(self, connection: Connection, rows: Sequence[Row], constants: Sequence[object] = ()) -> list[Row]:
        """Write the rows; return those of statements that wrote fewer than all, since rows are there already."""
        if (in_sets := in_sets_of(connection)) is not None:
            return self._write_at_once(in_sets, rows, constants) if rows else []
        left: list[Row] = []
        start = 0
        while start < len(rows):
            size = next(size for size in _SIZES if size <= len(rows) - start)
            part = rows[start : start + size]
            done = connection.execute(self._statements[size], (*constants, *chain.from_iterable(part)))
            if done.rowcount < size:
                left += part
            start += size
        return left

    def _write_at_once(self, connection: SetConnection, rows: Sequence[Row], constants: Sequence[object]) -> list[Row]:
        done = connection.execute_wanted(self._statement, rows, constants)
        if done.rowcount == len(rows):
            return []
        if not self._key_length:
            return list(rows)
        return _missing(rows, set(done.fetchall()))


def _missing(rows: Sequence[Row], keys: set[tuple[Any, ...]]) -> list[Row]:
    """Return the rows whose key is not among these, and of several with one key that is all but the first."""
    length = len(next(iter(keys), ()))
    left = []
    for row in rows:
        if row[:length] in keys and length:
            keys.remove(row[:length])
        else:
            left.append(row)
    return left


def _layers(rows: Sequence[Row], key_length: int) -> Iterator[Sequence[Row]]:
    """Yield the rows in parts that have each key once, in their order: a statement changes a row once only."""
    while rows:
        if len({row[:key_length] for row in rows}) == len(rows):
            yield rows
            return
        seen: set[tuple[Any, ...]] = set()
        again: list[Row] = []
        layer: list[Row] = []
        for row in rows:
            (again if row[:key_length] in seen else layer).append(row)
            seen.add(row[:key_length])
        yield layer
        rows = again


class RowStatement:
    """An ``UPDATE`` or ``DELETE`` that is run for each of many rows."""

    def __init__(self, statement: str, *, columns: int, key: Sequence[str]) -> None:
        """
        Prepare it.

        Args:
            statement: SQL with ``{rows}`` before ``WHERE``, the values of a row as ``{0}`` and so on, and constants by
                name.
            columns: how many values a row has.
            key: the columns by which it finds its row; a row begins with their values.
        """
        self._text = statement
        self._columns = columns
        self._key_length = len(key)
        self._returning = f" RETURNING {', '.join(key)}"

    def run(self, connection: Connection, rows: Sequence[Row], **constants: float) -> int:
        """Run it for each row; return how many rows it changed."""
        if not rows:
            return 0
        if (in_sets := in_sets_of(connection)) is not None:
            statement = self._of_set(tuple(constants))
            layers = _layers(rows, self._key_length)
            return sum(in_sets.execute_wanted(statement, each, constants).rowcount for each in layers)
        return connection.executemany(self._of_row(constants), rows).rowcount

    def missed(self, connection: Connection, rows: Sequence[Row], **constants: float) -> Sequence[Row]:
        """Run it for each row; return the rows for which it changed nothing."""
        if not rows:
            return []
        if (in_sets := in_sets_of(connection)) is not None:
            statement = self._of_set(tuple(constants)) + self._returning
            return [
                row
                for each in _layers(rows, self._key_length)
                for row in _missing(each, set(in_sets.execute_wanted(statement, each, constants).fetchall()))
            ]
        assert isinstance(connection, sqlite3.Connection)
        missed: list[Row] = []

        def reported() -> Iterator[Row]:
            before = connection.total_changes
            for row in rows:
                yield row
                after = connection.total_changes
                if after == before:
                    missed.append(row)
                before = after

        connection.executemany(self._of_row(constants), reported())
        return missed

    def _of_row(self, constants: Mapping[str, float]) -> str:
        # Binding a constant for each row would cost as much as the row. They are numbers of our own.
        marks = [f"?{number}" for number in range(1, self._columns + 1)]
        return self._text.format(*marks, rows="", **{name: repr(value) for name, value in constants.items()})

    def _of_set(self, constants: tuple[str, ...]) -> str:
        rows = "USING wanted" if self._text.lstrip().startswith("DELETE") else "FROM wanted"
        columns = [f"column{number}" for number in range(1, self._columns + 1)]
        return self._text.format(*columns, rows=rows, **{name: f":{name}" for name in constants})


class Upsert:
    """Rows that are inserted or, where they are there already, updated: in sets one statement does either."""

    def __init__(self, table: str, columns: str, *, key: Sequence[str], update: str, where: str) -> None:
        """
        Prepare it.

        Args:
            table: where the rows go.
            columns: the columns of a row, in the order of its values.
            key: the columns that are unique; a row begins with their values.
            update: what an update sets; values of the row are ``{0}`` and so on, old ones have the name of the table.
            where: which rows are updated.
        """
        names = columns.split(", ")
        marks = [f"{{{number}}}" for number in range(len(names))]
        insert = f"INSERT INTO {table} ({columns}) {{}} ON CONFLICT"
        self.insert = Bulk(f"{insert} DO NOTHING", f"({', '.join(marks)})", columns=len(names), key=key)
        found = " AND ".join(f"{column} = {mark}" for column, mark in zip(key, marks, strict=False))
        self.update = RowStatement(
            f"UPDATE {table} SET {update} {{rows}} WHERE {found} AND {where}", columns=len(names), key=key
        )
        excluded = [f"excluded.{name}" for name in names]
        values = ", ".join(f"column{number}" for number in range(1, len(names) + 1))
        keys = ", ".join(key)
        self._key_length = len(key)
        self._statement = (
            f"{insert.format(f'SELECT {values} FROM wanted')} ({keys}) DO UPDATE SET {update.format(*excluded)}"
            f" WHERE {where.format(*excluded)} RETURNING {keys} /*! , xmax = 0 */"
        )
        """The last column: whether the row is new."""

    def write(self, connection: SetConnection, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        """Insert or update these rows; return the keys of those that are new."""
        return [
            tuple(key)
            for layer in _layers(rows, self._key_length)
            for *key, is_new in connection.execute_wanted(self._statement, layer).fetchall()
            if is_new
        ]


@lru_cache(maxsize=256)
def _deletion(table: str, key: tuple[str, ...]) -> RowStatement:
    where = " AND ".join(f"{column} = {{{number}}}" for number, column in enumerate(key))
    return RowStatement(f"DELETE FROM {table} {{rows}} WHERE {where}", columns=len(key), key=key)


def delete_rows(connection: Connection, table: str, key: Sequence[str], rows: Sequence[Row]) -> int:
    """
    Delete the rows with these values of the key's columns; return how many there were.

    A ``DELETE`` of what a subquery finds by several columns would search every row that shares the first of them.
    """
    return _deletion(table, tuple(key)).run(connection, rows)


def in_sizes(values: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """
    Yield the values in parts of a few sizes, each with its size; the last is filled up with its first value.

    As many marks as values would make a statement of its own for each number; those of a few sizes stay compiled.
    """
    for start in range(0, len(values), _WANTED_SIZES[-1]):
        part = values[start : start + _WANTED_SIZES[-1]]
        size = next(size for size in _WANTED_SIZES if size >= len(part))
        yield size, [*part, *[part[0]] * (size - len(part))]


def select_wanted(
    connection: Connection, keys: Sequence[tuple[Any, ...]], query: str, values: Sequence[object] = ()
) -> Iterator[Any]:
    """
    Yield the rows of a query that joins ``wanted``, a table of these keys with the columns ``column1`` and so on.

    The marks of the query are bound to ``values``. For SQLite it is run once for each part of the keys
    (:func:`in_sizes`).
    """
    if (in_sets := in_sets_of(connection)) is not None:
        if keys:
            yield from in_sets.execute_wanted(query, keys, values).fetchall()
        return
    for size, part in in_sizes(keys):
        marks = f"({', '.join('?' * len(part[0]))})"
        wanted = f"WITH wanted AS (VALUES {', '.join([marks] * size)})"
        yield from connection.execute(f"{wanted} {query}", (*chain.from_iterable(part), *values)).fetchall()
