"""
Move a store to another database, in either direction, while nothing uses either of them.

Every row of every table is copied as it is, in slices, so that memory does not grow with the store. All or nothing: the
destination is seen by others only once its rows were counted and are as many as the origin's. The origin is left as it
is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from listener.errors import StoreError
from listener.store.sqlite.migrations import tables
from listener.text import printable

__all__ = ["SLICE_ROWS", "TABLES", "Counters", "Destination", "Origin", "RowTooLong", "move"]

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
        """
        Write rows as they are: nothing is counted or derived from them.

        Raises:
            RowTooLong: an index of the destination cannot hold one of them.
        """

    def set_counters(self, counters: Counters) -> None:
        """Let the next numbers be above these."""


class RowTooLong(Exception):
    """An index of the destination cannot hold a row."""

    def __init__(self, number: int) -> None:
        """Keep which row of its table it is, from 0."""
        super().__init__(f"row {number}")
        self.number = number


_REFRESHED: Final = "let the daemon refresh it first, or drop it: cdn-listener cancel --prefix URL"
_RENAMED: Final = "rename or remove it in the storage, start the daemon until status shows no such key, and move again"
_AGED: Final = (
    "start the daemon until it is forgotten (an hour for a deleted key, else store.keep_days), and move again"
)
_KEYS: Final[Mapping[str, tuple[str, tuple[str, str, str] | None, str]]] = {
    "directory": ("url", None, _REFRESHED),
    "need": ("name", ("directory", "directory", "url"), _REFRESHED),
    "tree": ("path", None, _RENAMED),
    "object": ("name", ("tree", "tree", "path"), _RENAMED),
}
"""Of tables with keys: the column; where the first part of the key is (own column, table, its column); what to do."""


def _too_long(source: Origin, table: str, columns: Sequence[str], number: int) -> StoreError:
    """Return the error that names the key of a row that an index of the destination cannot hold."""
    row = dict(zip(columns, _row(source, table, columns, number), strict=True))
    column, parent, hint = _KEYS.get(
        table, (next((one for one in ("key", "url", "prefix") if one in row), ""), None, _AGED)
    )
    key = _as_bytes(row.get(column, b""))
    if parent is not None:
        own, other, part = parent
        key = _as_bytes(_value_of(source, other, part, row[own])) + key
    text = printable(key.decode("utf-8", "replace"))
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return StoreError(
        f"table {table}: no index of PostgreSQL can hold the key {shown} of {len(key)} bytes; nothing was moved",
        hint=hint,
    )


MOST_SHOWN: Final = 200
"""Characters of a key in an error."""


def _row(source: Origin, table: str, columns: Sequence[str], number: int) -> Row:
    rows = (row for rows in source.slices(table, columns) for row in rows)
    return next(islice(rows, number, None))


def _value_of(source: Origin, table: str, column: str, id_: int) -> Any:
    rows = (row for rows in source.slices(table, ["id", column]) for row in rows)
    return next(value for one, value in rows if one == id_)


def _as_bytes(value: Any) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)


def move(origin: AbstractContextManager[Origin], destination: AbstractContextManager[Destination]) -> dict[str, int]:
    """
    Copy everything; return how many rows each table has. Leaving ``destination`` in order lets others see it.

    Raises:
        StoreError: one of the two cannot be used, or is in use; the destination is not empty, cannot hold a key, or was
            not written whole.
    """
    moved = {}
    with origin as source, destination as copy:
        for table in TABLES:
            columns = source.columns(table)
            if lacking := set(columns) - set(copy.columns(table)):
                raise StoreError(f"table {table}: the destination has no column {', '.join(sorted(lacking))}")
            try:
                copy.write(table, columns, source.slices(table, columns))
            except RowTooLong as long:
                raise _too_long(source, table, columns, long.number) from None
            moved[table] = copy.count(table)
            if moved[table] != (expected := source.count(table)):
                raise StoreError(f"table {table}: {moved[table]} of {expected} rows were written; nothing was moved")
        copy.set_counters(source.counters())
    return moved
