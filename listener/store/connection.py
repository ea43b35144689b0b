"""
What the operations of the store need of a database: the few calls that both drivers have in common.

``sqlite3.Connection`` is one as it is. Each operation is written once, in the SQL that SQLite understands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["Connection", "Cursor", "SetConnection"]


class Cursor(Protocol):
    """What a statement came to."""

    @property
    def rowcount(self) -> int:
        """How many rows were written."""

    @property
    def description(self) -> Any:
        """A sequence with one item for each column, which begins with its name."""

    def fetchone(self) -> Any:
        """Return the next row, ``None`` at the end."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows that are left."""


class Connection(Protocol):
    """A connection in a transaction that somebody else began and will end."""

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ..., /) -> Cursor:
        """Run a statement."""

    def executemany(self, statement: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]], /) -> Cursor:
        """Run a statement that returns nothing once for each row of values."""


class SetConnection(Connection, Protocol):
    """A connection for which a statement about many rows costs little more than one about a row."""

    def execute_wanted(
        self, statement: str, rows: Sequence[tuple[Any, ...]], values: Sequence[Any] | Mapping[str, Any] = ..., /
    ) -> Cursor:
        """Run a statement that names ``wanted``, a table of these rows with the columns ``column1`` and so on."""
