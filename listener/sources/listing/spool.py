"""
Keys in any order in, keys in byte order out, each once: the spool, and a listing of the keys of a list.

The spool is on disk where keys are many, and removed when it is closed.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes, key_to_text
from listener.sources.filesystem.names import fingerprint_of
from listener.sources.listing.pages import Entry
from listener.sources.listing.tree import status_of

__all__ = ["KeyList", "Spool"]

_BATCH = 10_000


class Spool:
    """
    A table of its own that SQLite keeps in memory as long as it is small, and in a file that it removes otherwise.

    Used by one thread at a time, and closed by whoever made it. Where a key comes twice the later one stays.
    """

    def __init__(self) -> None:
        """Open it, empty."""
        self._rows = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "PRAGMA cache_size = -16384",
            "CREATE TABLE entry (key BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, etag TEXT) WITHOUT ROWID",
        ):
            self._rows.execute(statement)

    def close(self) -> None:
        """Let go of the table and its file; safe to call twice."""
        self._rows.close()

    def __len__(self) -> int:
        """How many keys there are."""
        return int(self._rows.execute("SELECT count(*) FROM entry").fetchone()[0])

    def add(self, entries: Iterable[Entry]) -> None:
        """Take these, in any order."""
        rows = ((key_to_bytes(key), of.size_bytes, of.mtime_ns, of.etag) for key, of in entries)
        self._rows.execute("BEGIN")
        while batch := list(islice(rows, _BATCH)):
            self._rows.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)", batch)
        self._rows.execute("COMMIT")

    def entries(self, after: str = "") -> Iterator[Entry]:
        """Yield what comes after a key, in byte order; what is added meanwhile may be left out."""
        start = key_to_bytes(after)
        while rows := self._rows.execute(
            "SELECT key, size, mtime, etag FROM entry WHERE key > ? ORDER BY key LIMIT ?", (start, _BATCH)
        ).fetchall():
            start = rows[-1][0]
            for key, size, mtime, etag in rows:
                yield Entry(key_to_text(key), Fingerprint(size, mtime, etag=etag))

    def digest(self, *words: str) -> str:
        """Return a text that is the same for the same words and keys, whatever order they came in."""
        found = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape"))
        for (key,) in self._rows.execute("SELECT key FROM entry ORDER BY key"):
            found.update(b"\0" + key)
        return found.hexdigest()[:32]


class KeyList:
    """Named keys; as many as the disk holds."""

    complete = False

    def __init__(self, root: str, keys: Iterable[bytes], *, prefix: str = "", tree: Path | None = None) -> None:
        """Take the keys; with ``tree``, the directory that holds the files, they are looked up there."""
        self.root = root
        self.prefix = prefix
        raw, unknown = key_to_bytes(prefix), Fingerprint()
        self._keys = Spool()
        try:
            self._keys.add(Entry(key_to_text(key), unknown) for key in keys if key and key.startswith(raw))
        except BaseException:
            self._keys.close()
            raise
        self._tree = None if tree is None else os.fsencode(tree).rstrip(b"/") + b"/"

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return f"{len(self)} keys"

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        return self._keys.digest("keys", self.root)

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield a change for each key above ``after``, in byte order; a key that ends with ``/`` is a subtree."""
        return (self._change(entry.key) for entry in self._keys.entries(after))

    def close(self) -> None:
        """Release the table of keys."""
        self._keys.close()

    def _change(self, text: str) -> Change:
        key = key_to_bytes(text)
        if key.endswith(b"/"):
            return Change(self.root, text, ChangeKind.SUBTREE)
        if self._tree is None or b"\0" in key:
            return Change(self.root, text)
        status = status_of(self._tree + key)
        if status is None:
            return Change(self.root, text, ChangeKind.DELETED)
        return Change(self.root, text, ChangeKind.CONTENT, fingerprint_of(status))
