"""
Move a store to another database, in either direction, while nothing uses either of them.

Every row of every table is copied as it is, in slices, so that memory does not grow with the store. All or nothing: the
destination is seen by others only once its rows were counted and are as many as the origin's. The origin is left as it
is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

from listener.errors import StoreError
from listener.store.sqlite.migrations import tables

__all__ = ["SLICE_ROWS", "TABLES", "Counters", "Destination", "Origin", "move"]

TABLES: Final = tuple(name for name in tables() if name != "meta")
"""Every table with rows of its own, what others refer to first, as the schema has them."""
SLICE_ROWS: Final = 2_000
"""Rows in memory at a time: of the widest table, dead letters with their bodies, some 100 MB at most."""

Row = Sequence[Any]


class Counters(NamedTuple):
    """What was given out and may not be given out again."""

    sequence: int
    """The highest number of a change."""
    created_at: float
    ids: Mapping[str, int]
    """The highest id by table, where a later row must not have it again."""


class Origin(Protocol):
    """A store that is read, as it was at one instant."""

    def columns(self, table: str) -> Sequence[str]:
        """Return the names of a table's columns."""

    def count(self, table: str) -> int:
        """Return how many rows a table has."""

    def slices(self, table: str, columns: Sequence[str]) -> Iterator[Sequence[Row]]:
        """Yield a table's rows, in slices of :data:`SLICE_ROWS`."""

    def counters(self) -> Counters:
        """Return what was given out."""


class Destination(Protocol):
    """An empty store that nobody sees yet."""

    def columns(self, table: str) -> Sequence[str]:
        """Return the names of a table's columns."""

    def count(self, table: str) -> int:
        """Return how many rows a table has."""

    def write(self, table: str, columns: Sequence[str], slices: Iterable[Sequence[Row]]) -> None:
        """Write rows as they are: nothing is counted or derived from them."""

    def set_counters(self, counters: Counters) -> None:
        """Let the next numbers be above these."""


def move(origin: AbstractContextManager[Origin], destination: AbstractContextManager[Destination]) -> dict[str, int]:
    """
    Copy everything; return how many rows each table has. Leaving ``destination`` in order lets others see it.

    Raises:
        StoreError: one of the two cannot be used, or is in use; the destination is not empty, or was not written whole.
    """
    moved = {}
    with origin as source, destination as copy:
        for table in TABLES:
            columns = source.columns(table)
            if lacking := set(columns) - set(copy.columns(table)):
                raise StoreError(f"table {table}: the destination has no column {', '.join(sorted(lacking))}")
            copy.write(table, columns, source.slices(table, columns))
            moved[table] = copy.count(table)
            if moved[table] != (expected := source.count(table)):
                raise StoreError(f"table {table}: {moved[table]} of {expected} rows were written; nothing was moved")
        copy.set_counters(source.counters())
    return moved
