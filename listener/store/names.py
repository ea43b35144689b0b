"""Ids of names: of targets, directories, storages and their folders. They are made at first use and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from zlib import crc32

from listener.change import Change, ChangeKind, key_to_bytes
from listener.errors import KeyRejected
from listener.refresh import NeedInput
from listener.store.bulk import Bulk, select_wanted
from listener.store.connection import Connection

__all__ = ["Names", "folder_mark", "name_start", "object_mark", "split_key"]

CACHED_DIRECTORIES = 200_000
"""Above this many the cache is cleared; some 150 bytes each."""


def name_start(url: str) -> int:
    """Return where the name begins in a URL, behind that of its directory; a query belongs to the name."""
    return url.rfind("/", 0, url.find("?") if "?" in url else None) + 1


def split_key(key: str) -> tuple[bytes, bytes]:
    """Return the folder and the name of an object."""
    raw = key_to_bytes(key)
    cut = raw.rfind(b"/") + 1
    return raw[:cut], raw[cut:]


def object_mark(change: Change) -> int:
    """Return a number that stands for the object, the same in every process."""
    cut = change.key.rfind("/") + 1
    return crc32(key_to_bytes(change.key[cut:]), folder_mark(change.root, change.key[:cut]))


def folder_mark(root: str, folder: str) -> int:
    """Return what the marks of a folder's objects begin with."""
    return crc32(f"{root}\0{folder}".encode("utf-8", "surrogateescape"))


class _Table:
    """A table of names, which two columns say."""

    def __init__(self, name: str, first: str, second: str) -> None:
        found = f"{first} = column1 AND {second} = column2"
        self._select = f"SELECT {first}, {second}, id FROM wanted CROSS JOIN {name} ON {found}"
        insert = f"INSERT INTO {name} ({first}, {second}) {{}} ON CONFLICT DO NOTHING"
        self._insert = Bulk(insert, "({0}, {1})", columns=2)

    def ids(self, connection: Connection, names: Sequence[tuple[int, Any]]) -> dict[tuple[int, Any], int]:
        """Return the ids of these names, made if need be in this order."""
        found = {row[:2]: row[2] for row in select_wanted(connection, names, self._select)}
        if new := [name for name in names if name not in found]:
            self._insert.write(connection, new)
            found |= {row[:2]: row[2] for row in select_wanted(connection, new, self._select)}
        return found


_TREES = _Table("tree", "root", "path")
_DIRECTORIES = _Table("directory", "target", "url")


class Names:
    """
    Ids by name, made at first use.

    The cache must be cleared when a transaction is taken back, and is not kept at all by a process
    that does not own the store, since the owner may remove empty directories.
    """

    def __init__(self, own_roots: Mapping[str, str] | None = None) -> None:
        """Start with nothing cached; roots that are this instance's own copies have other names in the database."""
        self.own_roots = own_roots or {}
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

    def target(self, connection: Connection, name: str) -> int:
        """Return the id of a target."""
        if (found := self._targets.get(name)) is None:
            found = self._targets[name] = _id(connection, "target", "name", (name,))
        return found

    def learn(
        self, connection: Connection, changes: Iterable[Change], route: Callable[[Change], Sequence[NeedInput]] | None
    ) -> None:
        """
        Look up what names these changes are likely to need, or make them, by a few statements for all.

        Args:
            connection: of a transaction.
            changes: in whose folders the names are.
            route: what a change makes stale: one of each folder stands for all; None where nothing is made stale.
        """
        first: dict[tuple[str, str], Change] = {}
        for change in changes:
            if change.kind not in (ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED):
                first.setdefault((change.root, change.key[: change.key.rfind("/") + 1]), change)
        new = first.keys() - self._trees.keys()
        if not new:
            return
        for cache in (self._trees, self._directories):
            if len(cache) >= CACHED_DIRECTORIES:
                cache.clear()
        folders = {(self.root(connection, root), key_to_bytes(folder)): (root, folder) for root, folder in new}
        for names, found in _TREES.ids(connection, sorted(folders)).items():
            self._trees[folders[names]] = found
        needs: list[NeedInput] = []
        for place in new:
            with suppress(KeyRejected):
                needs += route(first[place]) if route else ()
        urls = {(self.target(connection, one.target), one.url[: name_start(one.url)]) for one in needs}
        self._directories |= _DIRECTORIES.ids(connection, sorted(urls - self._directories.keys()))

    def root(self, connection: Connection, name: str) -> int:
        """Return the id of a storage root."""
        if (found := self._roots.get(name)) is None:
            found = self._roots[name] = _id(connection, "root", "name", (self.own_roots.get(name, name),))
        return found

    def directory(self, connection: Connection, target: int, url: str) -> int:
        """Return the id of a directory URL of a target."""
        key = (target, url)
        if (found := self._directories.get(key)) is None:
            if len(self._directories) >= CACHED_DIRECTORIES:
                self._directories.clear()
            found = self._directories[key] = _id(connection, "directory", "target, url", key)
        return found

    def tree(self, connection: Connection, root: str, folder: str) -> int:
        """Return the id of a directory of a storage (``""`` or ending with ``/``)."""
        key = (root, folder)
        if (found := self._trees.get(key)) is None:
            if len(self._trees) >= CACHED_DIRECTORIES:
                self._trees.clear()
            values = (self.root(connection, root), key_to_bytes(folder))
            found = self._trees[key] = _id(connection, "tree", "root, path", values)
        return found


def _id(connection: Connection, table: str, columns: str, values: tuple[object, ...]) -> int:
    """Return the id of the row with these values, made if need be; table and columns are our own words."""
    marks = ", ".join("?" * len(values))
    select = f"SELECT id FROM {table} WHERE ({columns}) = ({marks})"
    insert = f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING RETURNING id"
    for statement in (select, insert, select):  # another process may make it between the two
        if (row := connection.execute(statement, values).fetchone()) is not None:
            return int(row[0])
    raise AssertionError(f"the row of {table} is neither there nor can be made")
