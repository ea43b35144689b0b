"""
What the store keeps of names and URLs that the configuration no longer has, and how it is given to others.

A renamed source leaves an index, a renamed target needs, a changed base URL needs that no site serves. A need is given
another address in one transaction: the new one is made before the old one goes, with its age, so that nothing is lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from listener.errors import ConfigurationError
from listener.refresh import NeedState, Scope, directory_of
from listener.store.access import Access
from listener.store.bulk import NEED_KEY, delete_rows
from listener.store.connection import Connection
from listener.store.controls import note
from listener.store.copies import source_of
from listener.store.index import above, next_sequence, note_revision
from listener.store.names import Names
from listener.store.need_rows import DueNeed, make_due
from listener.store.retention import retire_root

__all__ = ["Move", "NamedRows", "Orphans", "UnservedNeed"]


class NamedRows(NamedTuple):
    """A name that is not configured, and how much is kept of it."""

    name: str
    rows: int
    """Objects of a source, needs of a target."""


def unknown_sources(connection: Connection, configured: Collection[str]) -> list[NamedRows]:
    """Return the sources that have an index and are not configured."""
    rows = connection.execute(
        "SELECT root.name, coalesce(sum(objects), 0) FROM root LEFT JOIN tree ON tree.root = root.id"
        " WHERE root.name NOT IN (SELECT value FROM json_each(?)) GROUP BY root.name ORDER BY root.name",
        (json.dumps(sorted(configured)),),
    ).fetchall()
    found: Counter[str] = Counter()
    for root, objects in rows:
        if (name := source_of(root)) not in configured:
            found[name] += objects
    return [NamedRows(name, objects) for name, objects in found.items() if objects]


def unknown_targets(connection: Connection, configured: Collection[str]) -> list[NamedRows]:
    """Return the targets that have needs and are not configured."""
    rows = connection.execute(
        "SELECT t.name, count(*) FROM target t JOIN directory d ON d.target = t.id JOIN need n ON n.directory = d.id"
        " WHERE t.name NOT IN (SELECT value FROM json_each(?)) GROUP BY t.name ORDER BY t.name",
        (json.dumps(sorted(configured)),),
    )
    return [NamedRows(*row) for row in rows.fetchall()]


class UnservedNeed(NamedTuple):
    """A need, with what stays the same when it gets another address."""

    directory: int
    name: str
    scope: int
    url: str
    """The whole URL."""
    stale_since: float
    asked: bool
    urgent: bool
    priority: int

    @property
    def key(self) -> tuple[int, str, int]:
        """The key of its row."""
        return self.directory, self.name, self.scope


Move = tuple[UnservedNeed, Sequence[tuple[str, str]]]
"""A need, and the target and URL of each of its new addresses."""
SLICE_NEEDS = 250
"""Needs, or rows of an index, that one commit changes: each may touch pages of its own."""
_COLUMNS = "n.directory, n.name, n.scope, d.url || n.name, n.stale_since, n.asked, n.urgent, n.priority"


def unserved(connection: Connection, target: str, bases: Sequence[str], *, limit: int) -> list[UnservedNeed]:
    """
    Return needs of a target in directories below none of these base URLs.

    Only the gaps between the base URLs are read, however many directories lie below them. What the CDN has is left out:
    it is settled by its answer.
    """
    found: list[UnservedNeed] = []
    start = ""
    for end, following in [*((base, above(base)) for base in sorted(set(bases))), (above(""), "")]:
        if start < end and len(found) < limit:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM target t JOIN directory d ON d.target = t.id"
                " JOIN need n ON n.directory = d.id WHERE t.name = ? AND d.url >= ? AND d.url < ?"
                f" AND n.state <> {NeedState.ATTEMPTED:d} LIMIT ?",
                (target, start, end, limit - len(found)),
            )
            found += [UnservedNeed(*row) for row in rows.fetchall()]
        start = max(start, following)
    return found


def needs_of_target(connection: Connection, target: str, *, limit: int) -> list[UnservedNeed]:
    """Return needs of a target, in flight or not."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM target t JOIN directory d ON d.target = t.id JOIN need n ON n.directory = d.id"
        " WHERE t.name = ? LIMIT ?",
        (target, limit),
    )
    return [UnservedNeed(*row) for row in rows.fetchall()]


def move_needs(connection: Connection, names: Names, moves: Sequence[Move]) -> None:
    """Give needs other addresses, each a target and a URL: due at once, as old as before; then remove the old ones."""
    note_revision(connection)
    sequence = next_sequence(connection)
    made = []
    for need, addresses in moves:
        for target, url in addresses:
            place = directory_of(url) if need.scope != Scope.SUBTREE else url
            directory = names.directory(connection, names.target(connection, target), place)
            made.append(
                DueNeed(
                    directory,
                    url[len(place) :],
                    need.scope,
                    sequence,
                    need.stale_since,
                    need.urgent,
                    None,
                    need.asked,
                    need.priority,
                )
            )
    make_due(connection, made, sequence)
    forget_needs(connection, [need for need, _ in moves])


def forget_needs(connection: Connection, needs: Sequence[UnservedNeed]) -> int:
    """Remove needs without a refresh; return how many there were."""
    return delete_rows(connection, "need", NEED_KEY, [need.key for need in needs])


def _roots(connection: Connection, source: str) -> Mapping[str, int]:
    """Return the ids of a source's roots by name: of a tree with copies there are several."""
    return {name: id_ for id_, name in connection.execute("SELECT id, name FROM root") if source_of(name) == source}


def remove_root(connection: Connection, names: Names, source: str, *, limit: int) -> bool:
    """Remove a slice of what the index has of a source; return whether to go on."""
    for root in _roots(connection, source).values():
        if retire_root(connection, root, limit):
            return True
        connection.execute(_EMPTY_TREES, (root,))
        if retire_root(connection, root, limit):
            return True
    names.clear()
    connection.execute("DELETE FROM source WHERE name = ?", (source,))
    return False


_EMPTY_TREES = """
DELETE FROM tree WHERE root = ? AND NOT EXISTS (SELECT 1 FROM object WHERE object.tree = tree.id)
"""


def rename_root(connection: Connection, names: Names, old: str, new: str) -> None:
    """Give the index of one source to another, of which there must be none."""
    for name, id_ in _roots(connection, old).items():
        connection.execute("UPDATE root SET name = ? WHERE id = ?", (new + name[len(old) :], id_))
    connection.execute("DELETE FROM source WHERE name = ?", (old,))
    names.clear()


class Orphans:
    """What one store keeps that the configuration does not name."""

    def __init__(self, store: Access) -> None:
        """Take an open store."""
        self._store = store

    async def sources(self, configured: Collection[str]) -> list[NamedRows]:
        """Return the sources that have an index and are not configured."""
        return await self._store._read(unknown_sources, configured)

    async def targets(self, configured: Collection[str]) -> list[NamedRows]:
        """Return the targets that have needs and are not configured."""
        return await self._store._read(unknown_targets, configured)

    async def unserved(self, target: str, bases: Sequence[str], *, limit: int) -> list[UnservedNeed]:
        """Return needs of a target below none of these base URLs, but for what the CDN has."""
        return await self._store._read(unserved, target, bases, limit=limit)

    async def move(self, moves: Sequence[Move]) -> None:
        """Give needs other addresses."""
        for start in range(0, len(moves), SLICE_NEEDS):
            await self._store._write(move_needs, self._store._names, moves[start : start + SLICE_NEEDS])

    async def rename_target(self, old: str, new: str) -> int:
        """Give the needs of a target to another one; return how many. What the CDN has is sent again."""
        count = 0
        while some := await self._store._read(needs_of_target, old, limit=SLICE_NEEDS):
            await self.move([(need, [(new, need.url)]) for need in some])
            count += len(some)
        await self._note("rename target", f"{old} {new}", count)
        return count

    async def forget_target(self, name: str) -> int:
        """Settle, without a refresh, every need of a target; return how many there were."""
        count = 0
        while some := await self._store._read(needs_of_target, name, limit=SLICE_NEEDS):
            count += await self._store._write(forget_needs, some)
        await self._note("forget target", name, count)
        return count

    async def rename_source(self, old: str, new: str) -> None:
        """
        Give the index of a source to another one, whose own is dropped: the next scan finds what changed meanwhile.

        Raises :class:`~listener.errors.ConfigurationError` where there is no index of the old name.
        """
        if not await self._store._read(_roots, old):
            raise ConfigurationError(f"the store has no source {old!r}", hint="see cdn-listener check")
        await self._remove(new)
        await self._store._write(rename_root, self._store._names, old, new)
        await self._note("rename source", f"{old} {new}", 0)

    async def forget_source(self, name: str) -> None:
        """Remove the index of a source; its needs stay."""
        await self._remove(name)
        await self._note("forget source", name, 0)

    async def _remove(self, source: str) -> None:
        names = self._store._names
        while await self._store._write(lambda connection: remove_root(connection, names, source, limit=SLICE_NEEDS)):
            pass

    async def _note(self, action: str, subject: str, count: int) -> None:
        await self._store._write(note, self._store.clock.now(), action, subject, count, "")
