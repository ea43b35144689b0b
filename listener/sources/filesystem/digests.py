"""
Digests of files for the index, made in spare time: so that what is replaced later can be compared.

After the first scan, and after each later one, every known file without a digest is read once; after a
change, the changed files. Work takes a quarter of the time at most, and none while events come.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from itertools import islice

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes
from listener.contracts import Delivery, IndexView
from listener.sources.filesystem.acks import Acks
from listener.sources.filesystem.content import digest_of

__all__ = ["Digests"]

_WORK_SECONDS = 0.05
_REST_FACTOR = 3.0
_CALM_SECONDS = 1.0
_MOST_WANTED = 100_000
_KEYS_AT_ONCE = 2_000
_DIRECTORIES_AT_ONCE = 16


class Digests:
    """What is still to be read, and the reading of it."""

    def __init__(self, *, name: str, root: bytes, index: IndexView, acks: Acks, most_bytes: int) -> None:
        """Read files below ``root`` of at most so many bytes; none where that is negative."""
        self.made = 0
        self._name = name
        self._root = root
        self._index = index
        self._acks = acks
        self._most_bytes = most_bytes
        self._wanted: dict[str, None] = {}
        self._directories: deque[str] = deque()
        self._again = False
        self._rows: deque[tuple[str, Fingerprint, int]] = deque()
        """Key, what the index knows, and the sequence before it was asked."""
        self._due = 0.0

    def want_all(self) -> None:
        """Have every known file looked at that has no digest."""
        self._again = self._most_bytes >= 0

    def note(self, changes: Iterable[Change], now: float) -> None:
        """Have changed files read once no more changes come."""
        if self._most_bytes < 0:
            return
        self._due = max(self._due, now + _CALM_SECONDS)
        self._wanted.update(
            dict.fromkeys(
                change.key
                for change in changes
                if (found := change.fingerprint) is not None and found.etag is None and change.finished
            )
        )
        if len(self._wanted) > _MOST_WANTED:
            self._wanted.clear()
            self._again = True

    def next_due(self, now: float) -> float:
        """Return in how many seconds there is something to do (infinity: nothing)."""
        return max(0.0, self._due - now) if self._rows or self._is_busy else float("inf")

    @property
    def _is_busy(self) -> bool:
        """Whether there is more to ask the index for."""
        return bool(self._again or self._wanted or self._directories)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Yield what was read in one portion of work, for the index alone."""
        began = time.monotonic()
        if self.next_due(began) > 0:
            return
        while not self._rows and self._is_busy and time.monotonic() < began + _WORK_SECONDS:
            await self._ask()
        by_sequence = await asyncio.to_thread(self._work, began + _WORK_SECONDS) if self._rows else {}
        for sequence, learnt in by_sequence.items():
            self.made += len(learnt)
            yield self._acks.deliver(learnt, scan_sequence=sequence, seed=True)
        now = time.monotonic()
        self._due = max(self._due, now + _REST_FACTOR * (now - began))

    async def _ask(self) -> None:
        """Get the next rows of the index that lack a digest."""
        sequence = await self._index.sequence()
        if self._wanted:
            keys = list(islice(self._wanted, _KEYS_AT_ONCE))
            for key in keys:
                del self._wanted[key]
            self._take((await self._index.objects(self._name, keys)).items(), sequence)
            return
        if self._again and not self._directories:
            self._again = False
            self._directories.extend(await self._index.directories(self._name))
        some = [self._directories.popleft() for _ in range(min(len(self._directories), _DIRECTORIES_AT_ONCE))]
        for directory, rows in (await self._index.contents(self._name, some)).items() if some else ():
            self._take(((directory + name, row) for name, row in rows.items()), sequence)

    def _take(self, rows: Iterable[tuple[str, Fingerprint]], sequence: int) -> None:
        for key, row in rows:
            if row.etag is None and row.ctime_ns is not None and (row.size_bytes or 0) <= self._most_bytes:
                self._rows.append((key, row, sequence))

    def _work(self, end: float) -> dict[int, list[Change]]:
        """Read files until it is time to rest; blocking."""
        learnt: dict[int, list[Change]] = {}
        while self._rows and time.monotonic() < end:
            key, row, sequence = self._rows.popleft()
            digest = digest_of(self._root + key_to_bytes(key), row, most_bytes=self._most_bytes)
            if digest is not None:
                change = Change(self._name, key, ChangeKind.CONTENT, row._replace(etag=digest))
                learnt.setdefault(sequence, []).append(change)
        return learnt
