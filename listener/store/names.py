"""Names to row ids, cached in the writing thread: targets, storage roots, directory URLs, storage directories."""

from __future__ import annotations

import sqlite3

from listener.change import key_to_bytes

__all__ = ["Names", "above", "prefix_end", "prefix_end_bytes", "prefix_end_of"]

CACHED_DIRECTORIES = 200_000
"""Above this many the cache is cleared; some 150 bytes each."""


def prefix_end(prefix: str) -> str:
    """Return the smallest text above everything that starts with ``prefix``, which ends with ``/``."""
    return prefix[:-1] + "0"


def prefix_end_of(column: str) -> str:
    """Return :func:`prefix_end` as an SQL expression over a column."""
    return f"(substr({column}, 1, length({column}) - 1) || '0')"


def prefix_end_bytes(prefix: bytes) -> bytes:
    """Return the smallest bytes above everything that starts with ``prefix``, which ends with ``/``; or is empty."""
    return prefix[:-1] + b"0" if prefix else b"\xff" * 256


def above(text: str) -> str:
    """Return a text above everything that starts with this one, of texts that are ASCII as URLs are."""
    return text + "\x7f"


class Names:
    """
    Ids by name, made at first use.

    The cache must be cleared when a transaction is taken back, and is not kept at all by a process
    that does not own the store, since the owner may remove empty directories.
    """

    def __init__(self) -> None:
        """Start with nothing cached."""
        self._targets: dict[str, int] = {}
        self._roots: dict[str, int] = {}
        self._directories: dict[tuple[int, str], int] = {}
        self._trees: dict[tuple[str, str], int] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._targets.clear()
        self._roots.clear()
        self._directories.clear()
        self._trees.clear()

    def target(self, connection: sqlite3.Connection, name: str) -> int:
        """Return the id of a target."""
        if (found := self._targets.get(name)) is None:
            found = self._targets[name] = _id(connection, "target", "name", (name,))
        return found

    def root(self, connection: sqlite3.Connection, name: str) -> int:
        """Return the id of a storage root."""
        if (found := self._roots.get(name)) is None:
            found = self._roots[name] = _id(connection, "root", "name", (name,))
        return found

    def directory(self, connection: sqlite3.Connection, target: int, url: str) -> int:
        """Return the id of a directory URL of a target."""
        key = (target, url)
        if (found := self._directories.get(key)) is None:
            if len(self._directories) >= CACHED_DIRECTORIES:
                self._directories.clear()
            found = self._directories[key] = _id(connection, "directory", "target, url", key)
        return found

    def tree(self, connection: sqlite3.Connection, root: str, folder: str) -> int:
        """Return the id of a directory of a storage (``""`` or ending with ``/``)."""
        key = (root, folder)
        if (found := self._trees.get(key)) is None:
            if len(self._trees) >= CACHED_DIRECTORIES:
                self._trees.clear()
            values = (self.root(connection, root), key_to_bytes(folder))
            found = self._trees[key] = _id(connection, "tree", "root, path", values)
        return found


def _id(connection: sqlite3.Connection, table: str, columns: str, values: tuple[object, ...]) -> int:
    """Return the id of the row with these values, made if need be; table and columns are our own words."""
    marks = ", ".join("?" * len(values))
    select = f"SELECT id FROM {table} WHERE ({columns}) = ({marks})"
    if (row := connection.execute(select, values).fetchone()) is not None:
        return int(row[0])
    cursor = connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)
    assert cursor.lastrowid is not None
    return cursor.lastrowid
