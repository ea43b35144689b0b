"""
Copies of file trees in a fleet: which needs wait for them, and which keys stay different (``listener.store.copies``).

The order in the question is what makes it right: the rows of the needs are locked first, and the copies are read by
later statements. A change is recorded in the order index, need, so whatever is not seen then re-arms the need after us.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from listener.change import Change, Fingerprint, key_to_text
from listener.refresh import NeedState, Scope
from listener.store.connection import Connection
from listener.store.copies import (
    CopiedSources,
    Copy,
    Difference,
    PendingCopy,
    agree,
    copy_root,
    first_scan_change,
    instance_of,
    source_of,
)
from listener.store.postgres.connection import PostgresConnection, quoted
from listener.store.postgres.migrations import SCHEMA

__all__ = ["ASK_SECONDS", "MOST_DIFFERENT", "MOST_WINDOWS", "PostgresCopies", "remove_retired"]

ASK_SECONDS: Final = 5.0
"""Between two questions of a need: the slots in which needs are due are as long."""
MOST_WINDOWS: Final = 3
"""After so many waits in vain in a directory no change of it waits any more, until copies of a key in it agree."""
MOST_DIFFERENT: Final = 10_000
"""Keys that are listed as different; what comes beyond is not kept."""

NeedKey = tuple[int, str, int]
Place = tuple[str, bytes, bytes]
"""A key: source, directory in the tree, name."""
Held = Fingerprint | None
"""What a copy holds at a key."""
Directory = tuple[str, bytes]
"""A directory of the tree of a source."""

_STATEMENTS: Final[Mapping[str, str]] = {
    "note": (
        "INSERT INTO {schema}.pending_copy (directory, name, scope, source, path, object, instance)"
        " SELECT *, $7 FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[])"
        " ON CONFLICT DO NOTHING"
    ),
    # What another leader looks at is left to it.
    "lock": (
        "SELECT directory, name, scope, window_first FROM {schema}.need AS n"
        " WHERE slot <= floor($1 / 5) AND due_at <= $1 AND EXISTS (SELECT 1 FROM {schema}.pending_copy AS p"
        " WHERE p.directory = n.directory AND p.name = n.name AND p.scope = n.scope)"
        " ORDER BY directory, name, scope LIMIT $2 FOR UPDATE OF n SKIP LOCKED"
    ),
    "pending": (
        "SELECT p.directory, p.name, p.scope, p.source, p.path, p.object, p.instance"
        " FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS due (directory, name, scope)"
        " JOIN {schema}.pending_copy AS p USING (directory, name, scope)"
    ),
    "living": (
        "SELECT r.id, r.name FROM {schema}.root AS r JOIN {schema}.instance AS i"
        " ON r.name = ANY (SELECT source || '@' || i.name FROM unnest($1::text[]) AS source)"
        " WHERE r.seeded = 1 AND i.until > clock_timestamp()"
    ),
    "held": (
        "SELECT t.root, t.path, o.name, o.size_bytes, o.mtime_ns, o.etag"
        " FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS asked (root, path, name)"
        " JOIN {schema}.tree AS t ON t.root = asked.root AND t.path = asked.path"
        " JOIN {schema}.object AS o ON o.tree = t.id AND o.name = asked.name"
    ),
    "wait on": (
        "UPDATE {schema}.need AS n SET due_at = later.due_at"
        " FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::double precision[])"
        " AS later (directory, name, scope, due_at)"
        " WHERE n.directory = later.directory AND n.name = later.name AND n.scope = later.scope"
        f" AND n.state = {NeedState.WAITING:d}"
    ),
    "waited": (
        "DELETE FROM {schema}.pending_copy AS p USING unnest($1::bigint[], $2::text[], $3::bigint[])"
        " AS ready (directory, name, scope)"
        " WHERE p.directory = ready.directory AND p.name = ready.name AND p.scope = ready.scope"
    ),
    "windows": (
        "SELECT w.source, w.path FROM unnest($1::text[], $2::bytea[]) AS asked (source, path)"
        " JOIN {schema}.copy_window AS w USING (source, path) WHERE w.number >= $3"
    ),
    "in vain": (
        "INSERT INTO {schema}.copy_window AS w (source, path, number)"
        " SELECT source, path, 1 FROM unnest($1::text[], $2::bytea[]) AS vain (source, path)"
        " ON CONFLICT (source, path) DO UPDATE SET number = least(w.number + 1, $3)"
    ),
    "in time": (
        "DELETE FROM {schema}.copy_window AS w USING unnest($1::text[], $2::bytea[]) AS agreed (source, path)"
        " WHERE w.source = agreed.source AND w.path = agreed.path"
    ),
    "differ": (
        "INSERT INTO {schema}.different_copy (source, path, object, since)"
        " SELECT source, path, object, $4 FROM unnest($1::text[], $2::bytea[], $3::bytea[])"
        " AS differing (source, path, object)"
        " WHERE (SELECT count(*) FROM {schema}.different_copy) < $5 ON CONFLICT DO NOTHING"
    ),
    "agree": (
        "DELETE FROM {schema}.different_copy AS d USING unnest($1::text[], $2::bytea[], $3::bytea[])"
        " AS agreed (source, path, object)"
        " WHERE d.source = agreed.source AND d.path = agreed.path AND d.object = agreed.object"
    ),
    "listed": (
        "SELECT source, path, object, since FROM {schema}.different_copy WHERE source = ANY ($1)"
        " ORDER BY since, source, path, object LIMIT $2"
    ),
    # A copy is in use while its instance lives. The shared root of the time before there were copies counts as absent.
    "known": (
        "SELECT r.id, r.name, r.used_at, EXISTS (SELECT 1 FROM {schema}.instance AS i"
        " WHERE r.name = $1 || '@' || i.name AND i.until > clock_timestamp()) FROM {schema}.root AS r"
        " WHERE r.seeded = 1 AND (r.name = $1 OR r.name >= $1 || '@' AND r.name < $1 || 'A')"
    ),
    "own": "SELECT id FROM {schema}.root WHERE name = $1",
    "directories": (
        "SELECT DISTINCT path FROM {schema}.tree WHERE root = ANY ($1) AND objects > 0"
        " AND ($2::bytea IS NULL OR path > $2) ORDER BY path LIMIT $3"
    ),
    "contents": (
        "SELECT t.root, t.path, o.name, o.size_bytes, o.mtime_ns, o.ctime_ns, o.inode, o.etag, o.access"
        " FROM {schema}.tree AS t JOIN {schema}.object AS o ON o.tree = t.id"
        " WHERE t.root = ANY ($1) AND t.path = ANY ($2) ORDER BY t.path, o.name"
    ),
    "use": (
        "UPDATE {schema}.root AS r SET used_at = $2 FROM {schema}.instance AS i"
        " WHERE r.name = ANY (SELECT source || '@' || i.name FROM unnest($1::text[]) AS source)"
        " AND i.until > clock_timestamp()"
    ),
    "forget": (
        "DELETE FROM {schema}.pending_copy AS p WHERE NOT EXISTS (SELECT 1 FROM {schema}.need AS n"
        " WHERE n.directory = p.directory AND n.name = p.name AND n.scope = p.scope)"
    ),
}

_OF_SOURCE: Final = "SELECT 1 FROM {schema}.root AS r WHERE r.name >= o.source || '@' AND r.name < o.source || 'A'"
_RETIRED: Final = (
    (
        "DELETE FROM {schema}.pending_copy AS o WHERE NOT EXISTS"
        " (SELECT 1 FROM {schema}.root AS r WHERE r.name = o.source || '@' || o.instance)"
    ),
    f"DELETE FROM {{schema}}.different_copy AS o WHERE NOT EXISTS ({_OF_SOURCE})",
    (
        f"DELETE FROM {{schema}}.copy_window AS o WHERE NOT EXISTS ({_OF_SOURCE}"
        " AND EXISTS (SELECT 1 FROM {schema}.tree AS t WHERE t.root = r.id AND t.path = o.path))"
    ),
)


def remove_retired(connection: Connection, *, schema: str = SCHEMA) -> None:
    """
    Remove what is kept of copies that were retired, and of directories that no copy has any more.

    Whether there is still a copy decides, and no configuration: that of another instance may have other sources.
    """
    for statement in _RETIRED:
        cast("PostgresConnection", connection).raw.execute(statement.replace("{schema}", quoted(schema)).encode())


class _Asked(NamedTuple):
    """A need that is due, and the keys that it waits for, each with the instances that recorded a change of it."""

    key: NeedKey
    window_first: float
    places: Mapping[Place, set[str]]


class PostgresCopies:
    """See :class:`listener.store.copies.Copies`."""

    def __init__(self, sources: CopiedSources, *, schema: str = SCHEMA) -> None:
        """Take which sources have copies, and the schema."""
        self.sources = sources
        self._statements = {name: text.replace("{schema}", quoted(schema)) for name, text in _STATEMENTS.items()}

    def note(self, connection: Connection, rows: Sequence[PendingCopy]) -> None:
        """Note for which keys needs wait, and that this instance recorded a change of each."""
        if rows:
            self._run(connection, "note", *_columns(sorted(set(rows)), 6), self.sources.instance)

    def postpone(self, connection: Connection, *, now: float, limit: int) -> bool:
        """Let needs that are due wait on, as long as their copies differ and the wait is not over."""
        locked = self._run(connection, "lock", now, limit)
        if not locked:
            return False
        asked = self._asked(connection, locked)
        differing = self._differing(connection, asked)
        impatient = self._impatient(connection, {place[:2] for places in differing for place in places})
        wait_on: list[tuple[int, str, int, float]] = []
        ready: list[NeedKey] = []
        vain: set[Place] = set()
        for one, places in zip(asked, differing, strict=True):
            until = one.window_first + self.sources.wait_seconds
            if now < until and any(place[:2] not in impatient for place in places):
                wait_on.append((*one.key, min(now + ASK_SECONDS, until)))
            else:
                ready.append(one.key)
                vain |= places
        self._change(connection, "wait on", wait_on, 4)
        self._change(connection, "waited", ready, 3)
        agreed = {place for one in asked for place in one.places}.difference(*differing)
        self._note_ends(connection, agreed, vain, now)
        return len(locked) == limit

    def first_scan(
        self, connection: Connection, source: str, *, after: bytes | None, limit: int
    ) -> tuple[list[Change], bytes | None]:
        """Return the changes that the first scan of this instance's copy leads to, in up to ``limit`` directories."""
        own_name = self.sources.roots[source]
        known = [row for row in self._run(connection, "known", source) if row[1] != own_name]
        if not known:
            return [], None
        # A copy whose use was never noted may have been absent for any time.
        absences = [used_at or 0.0 for _, _, used_at, is_used in known if not is_used]
        absent_since = min(absences, default=None)
        # The root of an empty tree is not there yet.
        own = next((number for (number,) in self._run(connection, "own", own_name)), 0)
        others = [row[0] for row in known]
        paths = [path for (path,) in self._run(connection, "directories", [own, *others], after, limit)]
        held: dict[Place, dict[int, Fingerprint]] = defaultdict(dict)
        for root, path, name, *fingerprint in self._run(connection, "contents", [own, *others], paths):
            held[source, path, name][root] = Fingerprint(*fingerprint)
        changes = (
            first_scan_change(
                source,
                key_to_text(path + name),
                copies.get(own),
                [copies.get(other) for other in others],
                absent_since=absent_since,
            )
            for (_, path, name), copies in held.items()
        )
        return [change for change in changes if change is not None], paths[-1] if len(paths) == limit else None

    def of_instance_only(
        self, connection: Connection, source: str, instance: str, *, after: bytes | None, limit: int
    ) -> tuple[list[Change], bytes | None] | None:
        """
        Return where an instance's copy differs from those of the living ones, in up to ``limit`` directories.

        Also where to go on, ``None`` at the end. ``None`` instead of both where no other copy is in use.
        """
        living = [root for root, name in self._run(connection, "living", [source]) if instance_of(name) != instance]
        if not living:
            return None
        (own,) = self._run(connection, "own", copy_root(source, instance))[0]
        paths = [path for (path,) in self._run(connection, "directories", [own, *living], after, limit)]
        held: dict[Place, dict[int, Fingerprint]] = defaultdict(dict)
        for root, path, name, *fingerprint in self._run(connection, "contents", [own, *living], paths):
            held[source, path, name][root] = Fingerprint(*fingerprint)
        changes = [
            Change(source, key_to_text(path + name))
            for (_, path, name), copies in held.items()
            if not all(agree([Copy(copies.get(own)), Copy(copies.get(root))]) for root in living)
        ]
        return changes, paths[-1] if len(paths) == limit else None

    def note_use(self, connection: Connection, *, now: float) -> None:
        """Note that the copies of the living instances are in use; forget what is of no more use."""
        self._run(connection, "use", sorted(self.sources.names), now)
        self._run(connection, "forget")
        agreed = [
            place for place, _, held in self._listed(connection, MOST_DIFFERENT) if agree(map(Copy, held.values()))
        ]
        self._change(connection, "agree", agreed, 3)

    def differences(self, connection: Connection, *, limit: int) -> list[Difference]:
        """Return the keys at which copies of living instances stayed different, the oldest first."""
        return [
            Difference(place[0], key_to_text(place[1] + place[2]), since, sorted(held))
            for place, since, held in self._listed(connection, limit)
            if not agree(map(Copy, held.values()))
        ]

    def _listed(self, connection: Connection, limit: int) -> list[tuple[Place, float, Mapping[str, Held]]]:
        """Return what is listed as different, since when, and what the copies hold now."""
        rows = self._run(connection, "listed", sorted(self.sources.names), limit)
        copies = self._copies(connection, [(source, path, name) for source, path, name, _ in rows])
        return [((*place,), since, copies[*place,]) for *place, since in rows]

    # -- the parts of a question -------------------------------------------------------------------

    def _asked(self, connection: Connection, locked: Sequence[Any]) -> list[_Asked]:
        """Return the needs that are locked, each with what it waits for."""
        asked = {(*key,): _Asked((*key,), first, defaultdict(set)) for *key, first in locked}
        for *key, source, path, name, instance in self._run(connection, "pending", *_columns(asked, 3)):
            asked[*key,].places[source, path, name].add(instance)
        return list(asked.values())

    def _differing(self, connection: Connection, asked: Sequence[_Asked]) -> list[set[Place]]:
        """Return of each need the keys at which the copies of the living instances differ."""
        copies = self._copies(connection, {place for one in asked for place in one.places})
        found: list[set[Place]] = []
        for one in asked:
            differing = set()
            for place, changed in one.places.items():
                if one.key[2] == Scope.SUBTREE:  # no index shows what may have changed below: each has to report it
                    is_same = copies[place].keys() <= changed
                else:
                    is_same = agree(Copy(held, instance in changed) for instance, held in copies[place].items())
                if not is_same:
                    differing.add(place)
            found.append(differing)
        return found

    def _copies(self, connection: Connection, places: Iterable[Place]) -> dict[Place, dict[str, Held]]:
        """Return what the copies of the living, scanned instances hold at each of these keys, by instance."""
        places = list(places)
        living: dict[str, dict[int, str]] = defaultdict(dict)
        for root, name in self._run(connection, "living", sorted({place[0] for place in places})):
            living[source_of(name)][root] = instance_of(name)
        wanted = [(root, path, name) for source, path, name in places for root in living[source]]
        held: dict[tuple[int, bytes, bytes], Fingerprint] = {
            (root, path, name): Fingerprint(size, mtime, None, None, etag)
            for root, path, name, size, mtime, etag in self._run(connection, "held", *_columns(wanted, 3))
        }
        return {
            (source, path, name): {instance: held.get((root, path, name)) for root, instance in living[source].items()}
            for source, path, name in places
        }

    def _impatient(self, connection: Connection, directories: Iterable[Directory]) -> set[Directory]:
        """Return those of these directories in which no change waits any more."""
        if not (wanted := list(directories)):
            return set()
        return set(self._run(connection, "windows", *_columns(wanted, 2), MOST_WINDOWS))

    def _note_ends(self, connection: Connection, agreed: set[Place], vain: set[Place], now: float) -> None:
        """Note at which keys copies agree, and at which the wait was over and they do not."""
        in_vain = {place[:2] for place in vain}
        self._change(connection, "in vain", sorted(in_vain), 2, MOST_WINDOWS)
        self._change(connection, "in time", sorted({place[:2] for place in agreed} - in_vain), 2)
        self._change(connection, "differ", sorted(vain), 3, now, MOST_DIFFERENT)
        self._change(connection, "agree", sorted(agreed), 3)

    def _change(
        self, connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]], width: int, *values: object
    ) -> None:
        if rows:
            self._run(connection, statement, *_columns(rows, width), *values)

    def _run(self, connection: Connection, statement: str, *values: object) -> list[Any]:
        raw = cast("PostgresConnection", connection).raw
        cursor = raw.execute(self._statements[statement].encode(), values)
        return cursor.fetchall() if cursor.description else []


def _columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Return rows as columns."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]
