"""
Writing many rows by few statements, and deleting rows by their keys.

Running a statement costs more than the row that it writes, the more so for a table with triggers. So rows are written
by statements of many rows, of a few sizes: those stay compiled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TypeVar

from listener.store.connection import Connection

__all__ = ["NEED_KEY", "Bulk", "delete_rows", "missed_rows"]

Row = TypeVar("Row", bound=tuple[object, ...])
_SIZES = (64, 8, 1)
NEED_KEY = ("directory", "name", "scope")


class Bulk:
    """A statement that writes rows into one table."""

    def __init__(self, statement: str, row: str, *, columns: int, constants: int = 0) -> None:
        """
        Prepare it.

        Args:
            statement: SQL with ``{}`` in place of ``VALUES`` and the rows.
            row: one row in SQL: its values are ``{0}`` and so on, those that all rows share ``?1`` and so on.
            columns: how many values of its own a row has.
            constants: how many are shared.
        """
        marks = iter(f"?{number}" for number in range(constants + 1, constants + 1 + columns * _SIZES[0]))
        rows = [row.format(*(next(marks) for _ in range(columns))) for _ in range(_SIZES[0])]
        self._statements = {size: statement.format(f"VALUES {', '.join(rows[:size])}") for size in _SIZES}

    def write(self, connection: Connection, rows: Sequence[Row], constants: Sequence[object] = ()) -> list[Row]:
        """Write the rows; return those of statements that wrote fewer than all, since rows are there already."""
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


def delete_rows(connection: Connection, table: str, key: Sequence[str], rows: Sequence[Row]) -> int:
    """
    Delete the rows with these values of the key's columns; return how many there were.

    A ``DELETE`` of what a subquery finds by several columns would search every row that shares the first of them.
    """
    where = " AND ".join(f"{column} = ?" for column in key)
    return connection.executemany(f"DELETE FROM {table} WHERE {where}", rows).rowcount if rows else 0


def missed_rows(connection: Connection, statement: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Run the statement for each row; return the rows for which it changed nothing."""
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

    if rows:
        connection.executemany(statement, reported())
    return missed
