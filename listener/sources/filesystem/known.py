"""
What is known of files: by the index, by changes on their way to it, and by their bytes.

- :class:`Acks` makes deliveries and knows which are not durable yet.
- :class:`Standing` combines that with the index and with the first events of names: which names are new.
- :func:`with_digest` and :func:`is_proved_same` compare bytes: read with bounds, and never what is no file.
- :class:`Digests` reads files for the index in spare time, so that what is replaced later can be compared. After
  each full scan every known file without a digest is read once; after a change, the changed files.
  The work takes a quarter of the time at most, and none while events come.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import NamedTuple

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes
from listener.contracts import Delivery, IndexView
from listener.files import is_guarded
from listener.sources.filesystem.names import has_access_list
from listener.sources.filesystem.settings import Root

__all__ = [
    "SETTLE_SECONDS",
    "Acks",
    "Digests",
    "Lives",
    "Standing",
    "is_proved_same",
    "keys_below",
    "same_state",
    "with_digest",
]


class Lives(NamedTuple):
    """How far events prove that a name which the index does not hold is new."""

    is_complete: bool = False
    """False while the index still learns what was there before anybody watched."""
    births: AbstractSet[str] = frozenset()
    """Names that did not exist just before their first event."""
    unseen: tuple[str, ...] = ()
    """Directories (as key prefixes) of which events were lost: names may have come there without an event."""

    @property
    def is_sure(self) -> bool:
        """Whether that is proved of every name."""
        return self.is_complete and not self.unseen

    def proves_new(self, key: str) -> bool:
        """Return whether the whole life of this name, if the index does not hold it, was reported by events."""
        return key in self.births or (self.is_complete and not key.startswith(self.unseen))


class Standing(NamedTuple):
    """The answer for the names that were asked for."""

    known: Mapping[str, Fingerprint]
    """Names that are in the index, which was not asked for those under way."""
    under_way: AbstractSet[str]
    """Names of which a change may not be in the index yet: the index proves nothing of them."""
    lives: Lives

    def new(self, keys: Iterable[str]) -> set[str]:
        """Return those of these names that are proved to be new, and of which no change was reported yet."""
        unknown = set(keys).difference(self.known, self.under_way)
        return unknown if self.lives.is_sure else {key for key in unknown if self.lives.proves_new(key)}

    def before(self) -> Mapping[str, Fingerprint]:
        """Return what was reported last of the names of which that is sure, and an object."""
        return self.known if self.lives.is_complete else {}


async def standing_of(index: IndexView, acks: Acks, root: str, keys: Collection[str], lives: Lives) -> Standing:
    """Look these names up; those under way first: what is committed between the two is in the index."""
    under_way = acks.keys_under_way(keys)
    useful = keys if lives.is_complete else lives.births & set(keys)
    asked = [key for key in useful if key not in under_way] if under_way else list(useful)
    known = await index.objects(root, asked) if asked else {}
    return Standing(known, under_way, lives)


def keys_below(keys: Iterable[str], directories: AbstractSet[str]) -> set[str]:
    """Return those of these keys that are one of these directories (``""`` or ending with ``/``) or below one."""
    return {key for key in keys if any(above in directories for above in _directories_above(key))}


def _directories_above(key: str) -> Iterator[str]:
    """Yield the directories that hold a key, the root first; a key that ends with ``/`` is the last of them."""
    end = 0
    yield ""
    while end := key.find("/", end) + 1:
        yield key[:end]


SETTLE_SECONDS = 30.0
"""How long to wait for what is under way before going on without."""


class Acks:
    """Makes deliveries and knows which were acknowledged."""

    def __init__(self, *, on_ack: Callable[[], None]) -> None:
        """Call ``on_ack`` at each acknowledgement."""
        self._on_ack = on_ack
        self._open: dict[int, frozenset[str]] = {}
        self._directories: dict[int, list[str]] = {}
        """By delivery: the directories that it reports as gone, with all below them."""
        self._next = 0
        self._settled = asyncio.Event()
        self._settled.set()
        self._acked = asyncio.Event()

    def __len__(self) -> int:
        """How many deliveries are under way."""
        return len(self._open)

    def deliver(self, changes: Sequence[Change], *, scan_sequence: int | None = None, seed: bool = False) -> Delivery:
        """Make a delivery that counts as under way until its ``ack`` was called."""
        number = self._next
        self._next += 1
        self._open[number] = frozenset([change.key for change in changes])
        subtree_deleted = ChangeKind.SUBTREE_DELETED  # a member of an enumeration is slow to look up
        if directories := [change.key for change in changes if change.kind is subtree_deleted]:
            self._directories[number] = directories
        self._settled.clear()

        async def ack() -> None:
            self._open.pop(number, None)
            self._directories.pop(number, None)
            if not self._open:
                self._settled.set()
            self._acked.set()
            self._on_ack()

        return Delivery(changes, ack, scan_sequence, seed)

    def under_way(self) -> frozenset[int]:
        """Return which deliveries are under way, to be asked for later."""
        return frozenset(self._open)

    def is_any_under_way(self, numbers: frozenset[int]) -> bool:
        """Return whether any of these deliveries is still under way."""
        return not numbers.isdisjoint(self._open)

    def keys_under_way(self, keys: Collection[str]) -> frozenset[str]:
        """Return those of these keys of which a change, or one of a directory above, may not be in the index yet."""
        if not self._open:
            return frozenset()
        asked = frozenset(keys)
        found = frozenset[str]().union(*(asked & open_ for open_ in self._open.values()))
        directories = {key for each in self._directories.values() for key in each}
        return found | keys_below(asked, directories) if directories else found

    async def room(self, most: int, timeout_seconds: float) -> None:
        """Wait until at most so many deliveries are under way, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while len(self._open) > most:
                    self._acked.clear()
                    await self._acked.wait()

    async def settled(self, timeout_seconds: float) -> None:
        """Wait until nothing is under way, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._settled.wait()


_CHUNK_BYTES = 1 << 20
_LONGEST_READ_SECONDS = 10.0
"""For one file: what takes longer counts as changed rather than hold up everything that comes after it."""


def same_state(known: Fingerprint, now: Fingerprint) -> bool:
    """Return whether a file was not touched: its size, times and inode are as they were."""
    return known[:4] == now[:4]


def same_readers(known: Fingerprint, now: Fingerprint) -> bool:
    """Return whether the same may read a file as before, or it is not known who might."""
    return known.access is None or now.access is None or known.access == now.access


def digest_of(path: bytes, expected: Fingerprint, *, most_bytes: int) -> str | None:
    """
    Return a digest of all bytes of a file; blocking, for some ten seconds at most.

    ``None``, so that nothing is proved, unless it is a regular file in the expected state before and after,
    not larger than ``most_bytes``, none of our own state files, and read to its end in time. Devices, pipes
    and state files are not even opened.
    """
    try:
        # Such a descriptor reads nothing, and closing it drops no lock.
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        if not _is_expected(status, expected) or status.st_size > most_bytes or is_guarded(status):
            return None
        return _read(handle, expected)
    except OSError:
        return None
    finally:
        os.close(handle)


def is_proved_same(known: Fingerprint, now: Fingerprint) -> bool:
    """
    Return whether it is proved that what is served did not change.

    That takes the same readers, and either a file that nobody touched or the same digest. The same size
    and time prove nothing: archives and reproducible builds restore times.
    """
    if not same_readers(known, now):
        return False
    return same_state(known, now) or (known.etag is not None and known.etag == now.etag)


def with_digest(root: bytes, key: str, now: Fingerprint, known: Fingerprint | None, *, most_bytes: int) -> Fingerprint:
    """Return the fingerprint with its digest, read only where it may prove that a known file is the same; blocking."""
    if most_bytes < 0 or known is None or known.etag is None:
        return now
    if known.size_bytes != now.size_bytes or same_state(known, now):
        return now
    path = root + key_to_bytes(key)
    if not same_readers(known, now) or (now.inode == known.inode and has_access_list(path)):
        return now
    return now._replace(etag=digest_of(path, now, most_bytes=most_bytes))


def _is_expected(status: os.stat_result, expected: Fingerprint) -> bool:
    found = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return stat.S_ISREG(status.st_mode) and found == expected[:4]


def _read(handle: int, expected: Fingerprint) -> str | None:
    digest, left, end = hashlib.sha256(), expected.size_bytes or 0, time.monotonic() + _LONGEST_READ_SECONDS
    descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        while left > 0 and (chunk := os.read(descriptor, min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
            if time.monotonic() > end:
                return None
        is_whole = left == 0 and _is_expected(os.fstat(descriptor), expected)
    finally:
        os.close(descriptor)
    # 160 bits: nobody finds two files of one digest, and a million rows stay small.
    return f"sha256/160:{base64.b64encode(digest.digest()[:20]).decode().rstrip('=')}" if is_whole else None


_WORK_SECONDS = 0.05
_REST_FACTOR = 3.0
_CALM_SECONDS = 1.0
_MOST_WANTED = 100_000
"""Beyond so many files the index is asked for all that lack a digest."""
_KEYS_AT_ONCE = 2_000
_DIRECTORIES_AT_ONCE = 16


class Digests:
    """What is still to be read, and the reading of it."""

    def __init__(self, root: Root, acks: Acks) -> None:
        """Read files below ``root`` that are not too large to be compared."""
        self.made = 0
        self._name = root.name
        self._root = root.path
        self._index = root.index
        self._acks = acks
        self._most_bytes = root.settings.most_compared_bytes
        self._wanted: list[str] = []
        """Keys of files to read, in the order of their changes, some several times."""
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
        self._wanted += [
            change.key
            for change in changes
            if change.finished and (found := change.fingerprint) is not None and found.etag is None
        ]
        if len(self._wanted) > 2 * _MOST_WANTED:
            self._wanted = list(dict.fromkeys(self._wanted))
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
            keys = list(dict.fromkeys(self._wanted[:_KEYS_AT_ONCE]))
            del self._wanted[:_KEYS_AT_ONCE]
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
