"""
Compares a listing with the index: what is new, changed or gone, found in one pass through both.

Both are read in the order of keys, the index one directory at a time, so that memory grows with the depth of the
tree and not with its size. What is gone is only said once the whole listing was read without an error: what was
not read is not missing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes
from listener.contracts import IndexView
from listener.sources.listing.listing import Listing
from listener.sources.listing.pages import Entry
from listener.sources.listing.spool import Spool

__all__ = ["Comparison", "Drift", "same_content"]

PORTION_KEYS: Final = 2_000
INDEX_ROWS: Final = 1_000
EXAMPLES: Final = 20


@dataclass(slots=True)
class Drift:
    """How a listing differs from the index."""

    same: int = 0
    changed: int = 0
    """Keys whose size, time or tag the index has otherwise."""
    unknown: int = 0
    """Keys that the index does not have."""
    gone: int = 0
    """Keys that only the index has; 0 while the listing is not read to its end, or tells nothing of them."""
    examples: list[str] = field(default_factory=list)
    """Some of those that differ."""

    @property
    def listed(self) -> int:
        """How many keys the listing had."""
        return self.same + self.changed + self.unknown

    @property
    def known(self) -> int:
        """How many keys the index had."""
        return self.same + self.changed + self.gone

    @property
    def found(self) -> int:
        """How many keys differ."""
        return self.changed + self.unknown + self.gone

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def refusal(self, *, share: float, minimum: int) -> str:
        """Return why so many missing keys are not taken for deleted, or an empty string."""
        if self.gone and not self.listed:
            return f"nothing is listed, and {self.known} keys are known"
        if self.gone > minimum and self.gone > share * self.known:
            return f"{self.gone} of {self.known} known keys are missing at once"
        return ""


def same_content(before: Fingerprint, now: Fingerprint | None) -> bool:
    """Return whether two fingerprints speak of the same object, by what both of them say; size, time and tag count."""
    if now is None:
        return True
    pairs = ((before.size_bytes, now.size_bytes), (before.mtime_ns, now.mtime_ns), (before.etag, now.etag))
    return all(old is None or new is None or old == new for old, new in pairs)


def _is_marker(name: str, known: Fingerprint) -> bool:
    """Return whether an index row is a folder marker, which events name and listings leave out."""
    return not name and not known.size_bytes


class _Folder:
    """The rest of what the index knows directly in one directory."""

    def __init__(self, index: IndexView, root: str, path: str) -> None:
        self.path = path
        self.raw = key_to_bytes(path)
        self._index = index
        self._root = root
        self._rows: deque[tuple[str, Fingerprint]] = deque()
        self._after: str | None = None
        self._more = True

    async def first(self) -> tuple[str, Fingerprint] | None:
        """Return the next name, without taking it."""
        while not self._rows and self._more:
            page = await self._index.directory_page(self._root, self.path, self._after, limit=INDEX_ROWS)
            self._more = len(page) == INDEX_ROWS
            if page:
                self._after = page[-1][0]
                self._rows.extend(row for row in page if not _is_marker(*row))
        return self._rows[0] if self._rows else None

    def take(self) -> None:
        """Take the first name."""
        self._rows.popleft()


class Comparison:
    """One pass; whoever makes it closes it."""

    def __init__(self, listing: Listing, index: IndexView) -> None:
        """Take both; nothing is read yet."""
        self.drift = Drift()
        self.gone = Spool()
        """The keys that only the index has, once all was read."""
        self.finished = False
        self._listing = listing
        self._index = index
        self._open: list[_Folder] = []
        self._seen: set[str] = set()

    async def findings(self, changes: Iterator[Change] | None = None) -> AsyncIterator[list[Change]]:
        """
        Yield what is new or changed, a list for each portion listed, also an empty one; then :attr:`gone` is known.

        ``changes`` are those of the listing, if they are already being read. Raises what the listing raises: then
        nothing is taken for gone.
        """
        changes = self._listing.changes() if changes is None else changes
        while portion := await asyncio.to_thread(lambda: list(islice(changes, PORTION_KEYS))):
            yield [change for change in portion if not await self._is_known(change)]
        if self._listing.complete:
            await self._the_rest()
        self.drift.gone = len(self.gone)
        self._example(entry.key for entry in islice(self.gone.entries(), EXAMPLES))
        self.finished = True

    def close(self) -> None:
        """Release the table of keys that are gone; the listing is closed by whoever made it."""
        self.gone.close()

    def deletions(self) -> Iterator[list[Change]]:
        """Yield a deletion for each key that is gone, in lists."""
        entries = self.gone.entries()
        while keys := list(islice(entries, PORTION_KEYS)):
            yield [Change(self._listing.root, entry.key, ChangeKind.DELETED) for entry in keys]

    async def _is_known(self, change: Change) -> bool:
        cut = change.key.rfind("/") + 1
        folder, name = await self._folder(change.key[:cut]), key_to_bytes(change.key[cut:])
        before = await self._find(folder, name)
        if before is None:
            self.drift.unknown += 1
        elif same_content(before, change.fingerprint):
            self.drift.same += 1
            return True
        else:
            self.drift.changed += 1
        self._example([change.key])
        return False

    async def _find(self, folder: _Folder, name: bytes) -> Fingerprint | None:
        """Return what the index knows of a name; names before it are gone."""
        while (first := await folder.first()) is not None:
            known = key_to_bytes(first[0])
            if known > name:
                return None
            folder.take()
            if known == name:
                return first[1]
            self._miss([folder.path + first[0]])
        return None

    async def _folder(self, path: str) -> _Folder:
        """Return the directory of the next key; those that the listing has left behind are finished."""
        raw = key_to_bytes(path)
        while self._open and not raw.startswith(self._open[-1].raw):
            await self._drain(self._open.pop())
        if not self._open or self._open[-1].raw != raw:
            self._open.append(_Folder(self._index, self._listing.root, path))
            self._seen.add(path)
        return self._open[-1]

    async def _drain(self, folder: _Folder) -> None:
        if not self._listing.complete:
            return
        missed: list[str] = []
        while (first := await folder.first()) is not None:
            folder.take()
            missed.append(folder.path + first[0])
            if len(missed) >= INDEX_ROWS:
                self._miss(missed)
                missed = []
        self._miss(missed)

    async def _the_rest(self) -> None:
        while self._open:
            await self._drain(self._open.pop())
        base = self._listing.prefix[: self._listing.prefix.rfind("/") + 1]
        for path in await self._index.directories(self._listing.root, base):
            if path not in self._seen:
                await self._drain(_Folder(self._index, self._listing.root, path))

    def _miss(self, keys: Sequence[str]) -> None:
        wanted = [key for key in keys if key.startswith(self._listing.prefix)]
        if self._listing.complete and wanted:
            self.gone.add(Entry(key, Fingerprint()) for key in wanted)

    def _example(self, keys: Any) -> None:
        self.drift.examples.extend(islice(keys, EXAMPLES - len(self.drift.examples)))
