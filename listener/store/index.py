"""
The index: what each storage is known to hold, directory by directory; and what every writer of rows shares.

Shared are the sequence, and ends of prefixes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, Final, TypeVar

from listener.change import Change, ChangeKind, Fingerprint, ObjectState, key_to_bytes, key_to_text
from listener.contracts import DirectoryComparison
from listener.store.bulk import RowStatement, Upsert, delete_rows, in_sets_of, in_sizes, select_wanted
from listener.store.connection import Connection
from listener.store.names import Names

__all__ = [
    "NEXT_SEQUENCE",
    "NOTE_REVISION",
    "REVISION",
    "IndexWriter",
    "above",
    "bounded_text",
    "compare_directories",
    "directories_below",
    "directory_objects",
    "directory_page",
    "directory_states",
    "in_sizes",
    "is_seeded",
    "mark_seeded",
    "next_sequence",
    "note_revision",
    "objects_beginning",
    "objects_named",
    "prefix_end",
    "prefix_end_bytes",
    "remove_pending",
    "revision",
    "select_wanted",
]


T = TypeVar("T")


def prefix_end(prefix: str) -> str:
    """Return the smallest text above everything that starts with ``prefix``, which ends with ``/``."""
    return prefix[:-1] + "0"


def prefix_end_bytes(prefix: bytes) -> bytes:
    """Return the smallest bytes above everything that starts with ``prefix``, which ends with ``/``; or is empty."""
    return prefix[:-1] + b"0" if prefix else b"\xff" * 256


def above(text: str) -> str:
    """Return a text above everything that starts with this one, of texts that are ASCII as URLs are."""
    return text + "\x7f"


_PUT = Upsert(
    "object",
    "tree, name, size_bytes, mtime_ns, ctime_ns, inode, etag, access, sequence",
    key=("tree", "name"),
    update="""
    size_bytes = {2}, mtime_ns = {3}, ctime_ns = {4}, inode = {5}, access = {7}, sequence = {8},
      -- what says nothing of the content leaves what is known of an untouched file
      etag = CASE WHEN {6} IS NULL AND object.size_bytes = {2} AND object.mtime_ns = {3} AND object.ctime_ns = {4}
        AND object.inode = {5} THEN object.etag ELSE {6} END
    """,
    where="object.sequence <= {8}",
)
_REMOVE = RowStatement(
    "DELETE FROM object {rows} WHERE tree = {0} AND name = {1} AND sequence <= {2}", columns=3, key=("tree", "name")
)
_COUNT = RowStatement("UPDATE tree SET objects = objects + {1} {rows} WHERE id = {0}", columns=2, key=("id",))
_TOMBSTONE = (
    "INSERT INTO tombstone (root, key, below, sequence, at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (root, key, below) DO UPDATE"
    " SET sequence = max(tombstone.sequence, excluded.sequence), at = excluded.at"
)
_CONTENT = ChangeKind.CONTENT
_UNKNOWN = Fingerprint()
_TREE = itemgetter(0)
_PLACE = itemgetter(0, 1)
_Place = tuple[int, bytes]
"""A directory of a storage, by id, and a name in it."""
ObjectRow = tuple[int, bytes, int | None, int | None, int | None, int | None, str | None, int | None, int]


class IndexWriter:
    """The index as batches change it; rows are gathered and written by :meth:`flush`. Lives in the writing thread."""

    def __init__(self, names: Names) -> None:
        """Take the id cache of the writing thread."""
        self._names = names
        self._puts: list[ObjectRow] = []
        self._removed: dict[_Place, tuple[int, bytes, bool, int, float]] = {}

    def begin(self, connection: Connection) -> None:
        """Take the connection, in a transaction; what an undone batch left is forgotten."""
        self._connection = connection
        self._puts = []
        self._removed = {}

    def _place(self, root: str, key: str) -> _Place:
        at = key.rfind("/") + 1
        return self._names.tree(self._connection, root, key[:at]), key_to_bytes(key[at:])

    def put(self, root: str, key: str, fingerprint: Fingerprint | None, sequence: int) -> None:
        """Note that the storage holds this object."""
        at = key.rfind("/") + 1
        tree, name = self._names.tree(self._connection, root, key[:at]), key[at:].encode("utf-8", "surrogateescape")
        self.put_in(tree, name, fingerprint, sequence)

    def put_in(self, tree: int, name: bytes, fingerprint: Fingerprint | None, sequence: int) -> None:
        """Note that a directory of the storage, given by its id, holds an object of this name."""
        if self._removed and (tree, name) in self._removed:
            self.flush()
        self._puts.append((tree, name, *(fingerprint or _UNKNOWN), sequence))

    def flush(self) -> None:
        """Write what was put and removed; each directory's count follows from what was new in it."""
        if self._puts:
            self._flush_puts()
        if self._removed:
            self._flush_removed()

    def learn(self, changes: Sequence[Change], *, known_to: int, sequence: int) -> int | None:
        """
        Have the index follow what a listing found there; return of how many objects it learned after ``known_to``.

        Those stay as they are. ``None``, and nothing is done, where each object must be looked up by itself: where
        anything was deleted lately, or a change has more to it than that the object is there.
        """
        rows: list[ObjectRow] = []
        root = folder = ""
        tree = 0
        for change in changes:
            key, fingerprint = change[1], change[3] or _UNKNOWN
            if change[2] is not _CONTENT or fingerprint[4] is not None:
                return None
            cut = key.rfind("/") + 1
            if not tree or key[:cut] != folder or change[0] != root:
                if change[0] != root and self._has_tombstones(change[0]):
                    return None
                root, folder = change[0], key[:cut]
                tree = self._names.tree(self._connection, root, folder)
            rows.append((tree, key[cut:].encode("utf-8", "surrogateescape"), *fingerprint, sequence))
        self.flush()
        return self._write(rows, known_to=known_to)

    def _flush_puts(self) -> None:
        rows, self._puts = self._puts, []
        if (in_sets := in_sets_of(self._connection)) is None:
            self._write(rows)
            return
        rows.sort(key=_PLACE)  # rows are locked in this order by all instances
        self._count(Counter(map(_TREE, _PUT.write(in_sets, rows))))

    def _write(self, rows: list[ObjectRow], *, known_to: int | None = None) -> int:
        """Write these rows, but not over those that came after a sequence; return how many of those there are."""
        rows.sort(key=_PLACE)
        known = {
            row[:2]: row[2]
            for row in self._known(list(map(_PLACE, rows)), "tree, name, sequence", locked=known_to is not None)
        }
        newer = {place for place, sequence in known.items() if known_to is not None and sequence > known_to}
        again = [row for row in rows if row[:2] in known and row[:2] not in newer] if known else []
        new = [row for row in rows if row[:2] not in known] if known else rows
        if len(set(map(_PLACE, new))) < len(new):  # put more than once in this batch: the last of them counts
            first = {row[:2]: row for row in reversed(new)}
            again += [row for row in new if row is not first[row[:2]]]
            new = [*first.values()][::-1]
        late = _PUT.insert.write(self._connection, new)  # another process made these meanwhile
        if known_to is not None:
            newer.update(row[:2] for row in late)
        else:
            again += late
        _PUT.update.run(self._connection, again)
        more = Counter(map(_TREE, new))
        more.subtract(map(_TREE, late))
        self._count(more)
        return sum(row[:2] in newer for row in rows) if newer else 0

    def _flush_removed(self) -> None:
        rows = sorted((*place, values[3]) for place, values in self._removed.items())
        missed = _REMOVE.missed(self._connection, rows)
        less = Counter(map(_TREE, missed))
        less.subtract(map(_TREE, rows))
        self._count(less)
        self._connection.executemany(_TOMBSTONE, list(self._removed.values()))
        self._removed = {}

    def _count(self, more: Counter[int]) -> None:
        _COUNT.run(self._connection, sorted(item for item in more.items() if item[1]))

    def remove(self, root: str, key: str, sequence: int, now: float) -> None:
        """Note that the storage no longer holds this object."""
        root_id = self._names.root(self._connection, root)
        self._removed[self._place(root, key)] = (root_id, key_to_bytes(key), False, sequence, now)

    def latest(self, changes: Sequence[Change], *, after: int = -1) -> dict[tuple[str, str], int]:
        """
        Return with which sequence the index learned of each of these objects, by root and key, if that is above one.

        What waits to be flushed is not looked at. The number of statements does not depend on that of the changes:
        one for each 512 objects in directories that hold any, and for each 512 keys where anything was deleted lately.
        """
        found: dict[tuple[str, str], int] = {}
        for root, keys in _by_root(changes).items():
            learned = chain(
                ((key, row[0]) for key, row in self._rows(root, keys, after)), self._deleted(root, keys, after)
            )
            for key, sequence in learned:
                found[root, key] = max(sequence, found.get((root, key), -1))
        return found

    def fingerprints(self, changes: Sequence[Change]) -> dict[tuple[str, str], Fingerprint]:
        """Return what was last known of these objects, as root and key; those that are not known are left out."""
        return {
            (root, key): Fingerprint(*row[1:])
            for root, keys in _by_root(changes).items()
            for key, row in self._rows(root, keys, -1)
        }

    def fingerprint(self, root: str, key: str) -> Fingerprint | None:
        """Return what was last known of an object, ``None`` where it is not known."""
        return next((Fingerprint(*row[1:]) for _, row in self._rows(root, [key], -1)), None)

    def _rows(self, root: str, keys: Sequence[str], after: int) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield those of these keys that have rows above a sequence, with their sequences and fingerprints."""
        key_of = {self._place(root, key): key for key in keys}
        for tree, name, *row in self._known(
            list(key_of), f"tree, name, sequence, {_FINGERPRINT}", after=after, locked=True
        ):
            yield key_of[tree, name], row

    def _known(self, places: Sequence[_Place], columns: str, *, locked: bool, after: int = -1) -> Iterator[Any]:
        """
        Yield these columns, of which the third is the sequence, of the objects here that were learned above a sequence.

        What decides that a change is left out is read ``locked``: no other instance changes it before the commit.
        """
        # Locked whatever its sequence: that may be another one once the lock is there.
        lock = " /*! OR true ORDER BY tree, name FOR UPDATE OF object */" if locked else ""
        trees = json.dumps(list({tree for tree, _ in places}))
        filled = "SELECT id FROM tree WHERE id IN (SELECT value FROM json_each(?)) AND objects > 0"
        held = {row[0] for row in self._connection.execute(filled, (trees,))}
        found = select_wanted(
            self._connection,
            [place for place in places if place[0] in held],
            f"SELECT {columns} FROM wanted CROSS JOIN object ON tree = column1 AND name = column2"
            f" WHERE sequence > ?{lock}",
            (after,),
        )
        yield from (row for row in found if row[2] > after)

    def _deleted(self, root: str, keys: Sequence[str], after: int) -> Iterator[tuple[str, int]]:
        """Yield those of these keys that were deleted above a sequence, alone or with a directory, and with which."""
        if not self._has_tombstones(root):
            return
        root_id = self._names.root(self._connection, root)
        raws = {key_to_bytes(key): key for key in keys}
        above = {directory: _above(directory) for directory in map(_directory, raws)}
        rows = select_wanted(
            self._connection,
            [(path,) for path in {*raws, *chain.from_iterable(above.values())}],
            "SELECT key, below, sequence FROM wanted"
            " CROSS JOIN tombstone ON root = ? AND key = column1 WHERE sequence > ?",
            (root_id, after),
        )
        found = {(path, below): sequence for path, below, sequence in rows}
        if not found:
            return
        with_it = {directory: max(found.get((one, 1), -1) for one in above[directory]) for directory in above}
        for raw, key in raws.items():
            sequence = max(found.get((raw, 0), -1), with_it[_directory(raw)])
            if sequence > after:
                yield key, sequence

    def _has_tombstones(self, root: str) -> bool:
        """Return whether anything of a storage was deleted lately."""
        query = "SELECT 1 FROM tombstone WHERE root = ? LIMIT 1"
        return self._connection.execute(query, (self._names.root(self._connection, root),)).fetchone() is not None

    def seeded(self, root: str) -> bool:
        """Return whether a first listing of this root was finished."""
        root_id = self._names.root(self._connection, root)
        return bool(self._connection.execute("SELECT seeded FROM root WHERE id = ?", (root_id,)).fetchone()[0])

    def keys_below(self, root: str, prefix: str, *, most: int) -> list[str] | None:
        """Return the keys known below a prefix, ``None`` when they are more than ``most``."""
        raw = key_to_bytes(prefix)
        rows = self._connection.execute(
            "SELECT path, object.name FROM tree JOIN object ON object.tree = tree.id"
            " WHERE root = ? AND path >= ? AND path < ? AND objects > 0 ORDER BY path, object.name LIMIT ?",
            (self._names.root(self._connection, root), raw, prefix_end_bytes(raw), most + 1),
        ).fetchall()
        return None if len(rows) > most else [key_to_text(path + name) for path, name in rows]

    def delete_below(self, root: str, prefix: str, *, known_to: int, sequence: int, now: float) -> None:
        """Have everything below a prefix that was known up to ``known_to`` removed, later and in slices."""
        root_id, raw = self._names.root(self._connection, root), key_to_bytes(prefix)
        self._connection.execute(
            "INSERT INTO pending_delete (root, prefix, sequence) VALUES (?, ?, ?)"
            " ON CONFLICT (root, prefix) DO UPDATE SET"
            " sequence = max(pending_delete.sequence, excluded.sequence), after = x''",
            (root_id, raw, known_to),
        )
        self._connection.execute(_TOMBSTONE, (root_id, raw, True, sequence, now))


def _by_root(changes: Sequence[Change]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for root, key, *_ in changes:
        keys.setdefault(root, []).append(key)
    return keys


def _directory(key: bytes) -> bytes:
    return key[: key.rfind(b"/") + 1]


def _above(key: bytes) -> list[bytes]:
    """Return the directories that hold a key, the storage itself first."""
    parts = key.split(b"/")[:-1]
    return [b"".join(part + b"/" for part in parts[:depth]) for depth in range(len(parts) + 1)]


LOOKED_ROWS = 10_000
"""Rows of deleted subtrees that one slice reads, at most; a directory is always read as a whole."""
LOOKED_DIRECTORIES = 500
"""Directories of deleted subtrees that one slice reads, at most."""


def remove_pending(connection: Connection, limit: int) -> bool:
    """Remove up to ``limit`` index rows of deleted subtrees; return whether any may be left."""
    pending = connection.execute("SELECT root, prefix, after, sequence FROM pending_delete LIMIT 1").fetchone()
    if pending is None:
        return False
    root, prefix, after, sequence = pending
    directories = connection.execute(
        "SELECT id, path, objects FROM tree WHERE root = ? AND path >= ? AND path < ? AND objects > 0"
        " ORDER BY path LIMIT ?",
        (root, max(prefix, after), prefix_end_bytes(prefix), LOOKED_DIRECTORIES),
    ).fetchall()
    until = [*accumulate((row[2] for row in directories), initial=0)]
    looked = [row for row, before in zip(directories, until, strict=False) if before < LOOKED_ROWS]
    rows = connection.execute(
        "SELECT tree, name FROM object WHERE tree IN (SELECT value FROM json_each(?)) AND sequence <= ? LIMIT ?"
        " /*! FOR UPDATE */",
        (json.dumps([row[0] for row in looked]), sequence, limit),
    ).fetchall()
    delete_rows(connection, "object", ("tree", "name"), rows)
    _COUNT.run(connection, sorted((tree, -count) for tree, count in Counter(map(_TREE, rows)).items()))
    if len(rows) < limit and len(looked) == len(directories) < LOOKED_DIRECTORIES:
        connection.execute("DELETE FROM pending_delete WHERE root = ? AND prefix = ?", (root, prefix))
    elif len(rows) < limit:
        after = looked[-1][1] + b"\0"  # the next directory
        connection.execute("UPDATE pending_delete SET after = ? WHERE root = ? AND prefix = ?", (after, root, prefix))
    return True


_PENDING_DELETE = """
SELECT coalesce(max(sequence), -1) FROM pending_delete WHERE root = (SELECT id FROM root WHERE name = ?1)
  AND (prefix = x'' OR prefix = substr({path}, 1, length(prefix)))
"""
"""Rows up to this sequence are gone, although they still stand."""
_FINGERPRINT = "size_bytes, mtime_ns, ctime_ns, inode, etag, access"
_IN_DIRECTORY = (
    "FROM object WHERE tree ="
    " (SELECT id FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1) AND path = ?2)"
    f" AND sequence > ({_PENDING_DELETE.format(path='?2')})"
)
_KNOWN_IN = f"SELECT name, {_FINGERPRINT} {_IN_DIRECTORY}"
"""The objects known directly in a directory."""
_STATES_IN = f"SELECT name, size_bytes, mtime_ns, ctime_ns, inode, access {_IN_DIRECTORY} ORDER BY name"


def directory_objects(connection: Connection, root: str, directory: str) -> dict[str, Fingerprint]:
    """Return the objects known directly in a directory: name to fingerprint."""
    rows = connection.execute(_KNOWN_IN, (root, key_to_bytes(directory)))
    # Twice as fast as the class's own constructor, which counts at a million objects.
    new = tuple.__new__
    return {row[0].decode("utf-8", "surrogateescape"): new(Fingerprint, row[1:]) for row in rows}


def directory_states(connection: Connection, root: str, directory: str) -> list[ObjectState]:
    """Return the states of the objects known directly in a directory, in order of their names."""
    return connection.execute(_STATES_IN, (root, key_to_bytes(directory))).fetchall()


def compare_directories(
    connection: Connection, root: str, listed: Mapping[str, Sequence[ObjectState]]
) -> dict[str, DirectoryComparison]:
    """Compare the states listed directly in each of these directories, in order of their names, with the known ones."""
    found: dict[str, DirectoryComparison] = {}
    for directory, states in listed.items():
        known = directory_states(connection, root, directory)
        found[directory] = DirectoryComparison(len(known), known == states)
    return found


_BEGINNING = """
    SELECT (SELECT count(*) FROM object WHERE name >= ? AND name < ?
            AND tree = (SELECT id FROM tree WHERE path = ? AND root = (SELECT id FROM root WHERE name = ?)))
         + (SELECT coalesce(sum(objects), 0) FROM tree WHERE path >= ? AND path < ?
            AND root = (SELECT id FROM root WHERE name = ?))
"""


def objects_beginning(connection: Connection, root: str, beginning: str) -> int:
    """Return how many objects are known whose key begins so, in folders that begin so included."""
    raw = key_to_bytes(beginning)
    folder = _directory(raw)
    name = raw[len(folder) :]
    end = b"\xff" * 256
    # Without a name the folder itself begins so, with all that it holds.
    values = (name or end, name + end, folder, root, raw, raw + end, root)
    return int(connection.execute(_BEGINNING, values).fetchone()[0])


def objects_named(connection: Connection, root: str, keys: Sequence[str]) -> dict[str, Fingerprint]:
    """Return those of these objects that are known: key to fingerprint."""
    by_directory: dict[str, list[bytes]] = {}
    for key in keys:
        cut = key.rfind("/") + 1
        by_directory.setdefault(key[:cut], []).append(key_to_bytes(key[cut:]))
    found: dict[str, Fingerprint] = {}
    for directory, names in by_directory.items():
        for size, wanted in in_sizes(names):
            rows = connection.execute(
                f"{_KNOWN_IN} AND name IN ({', '.join('?' * size)})", (root, key_to_bytes(directory), *wanted)
            )
            found.update((directory + key_to_text(name), Fingerprint(*rest)) for name, *rest in rows)
    return found


def directory_page(
    connection: Connection, root: str, directory: str, after: str | None, *, limit: int
) -> list[tuple[str, Fingerprint]]:
    """
    Return up to ``limit`` of the objects known directly in a directory, in order, from behind a name on.

    ``None`` is the beginning: an object whose key ends with ``/`` has the empty name, which comes first.
    """
    above, values = ("", ()) if after is None else (" AND name > ?4", (key_to_bytes(after),))
    rows = connection.execute(
        f"{_KNOWN_IN}{above} ORDER BY name LIMIT ?3", (root, key_to_bytes(directory), limit, *values)
    )
    return [(key_to_text(name), Fingerprint(*rest)) for name, *rest in rows]


def directories_below(connection: Connection, root: str, prefix: str) -> list[str]:
    """Return every directory at or below ``prefix`` that holds known objects, in order."""
    raw = key_to_bytes(prefix)
    rows = connection.execute(
        "SELECT path FROM tree WHERE root = (SELECT id FROM root WHERE name = ?1)"
        " AND path >= ?2 AND path < ?3 AND objects > 0"
        " AND (NOT EXISTS (SELECT 1 FROM pending_delete) OR EXISTS (SELECT 1 FROM object WHERE tree = tree.id"
        f" AND sequence > ({_PENDING_DELETE.format(path='path')}))) ORDER BY path",
        (root, raw, prefix_end_bytes(raw)),
    )
    return [key_to_text(path) for (path,) in rows]


def is_seeded(connection: Connection, root: str) -> bool:
    """Return whether a first listing of this root was finished."""
    row = connection.execute("SELECT seeded FROM root WHERE name = ?", (root,)).fetchone()
    return bool(row and row[0])


def mark_seeded(connection: Connection, names: Names, root: str) -> None:
    """Note that the first listing of this root is finished."""
    connection.execute("UPDATE root SET seeded = 1 WHERE id = ?", (names.root(connection, root),))


NEXT_SEQUENCE: Final = "UPDATE meta SET sequence = sequence + 1 RETURNING sequence"


def next_sequence(connection: Connection) -> int:
    """Take the next number of the store-wide sequence."""
    return int(connection.execute(NEXT_SEQUENCE).fetchone()[0])


REVISION: Final = "SELECT sequence AS revision FROM meta"
NOTE_REVISION: Final = "UPDATE meta SET sequence = sequence + 1"


def revision(connection: Connection) -> int:
    """
    Return a number that is another one after :func:`note_revision`, in whichever process, was committed.

    It is no number of a change: of two that are taken at once the lower may be committed after a reader saw the higher.
    """
    return int(connection.execute(REVISION).fetchone()[0])


def note_revision(connection: Connection) -> None:
    """Let whoever plans and sends look again once this transaction is committed."""
    connection.execute(NOTE_REVISION)


MAX_TEXT_CHARACTERS: Final = 1_000
"""Of a reason or a detail that quotes what others sent; a sentence of ours is far shorter."""


def bounded_text(text: str) -> str:
    """Return a text as a database can hold it, at most 1,000 characters."""
    plain = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return plain if len(plain) <= MAX_TEXT_CHARACTERS else f"{plain[: MAX_TEXT_CHARACTERS - 1]}…"
