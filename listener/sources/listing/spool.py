"""Keys in any order in, keys in byte order out, each once: on disk where they are many, gone when nobody needs them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.sources.listing.answers import Entry

__all__ = ["Spool"]

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

    def remove(self, keys: Iterable[str]) -> None:
        """Forget these."""
        self._rows.executemany("DELETE FROM entry WHERE key = ?", ((key_to_bytes(key),) for key in keys))

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
