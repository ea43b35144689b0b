"""
Copies of one file tree, each on the host of an instance (``replicas = "each"``): when they are the same.

A CDN may be sent to any of the hosts. So every instance has an index of its own tree, and each change of it makes or
re-arms a need, whatever the other trees hold: the CDN may have fetched the old copy from just this host. Whether the
copies agree decides only how long the need waits. Nothing is lost if it waits too short or too long, so the wait costs
no proof; a model of the rule is searched exhaustively in the tests.

In the database the index of a copy is that of a root of its own (:func:`copy_root`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple, Protocol

from listener.change import Change, ChangeKind, Fingerprint
from listener.refresh import NeedInput
from listener.store.connection import Connection

__all__ = [
    "CopiedSources",
    "Copies",
    "Copy",
    "Difference",
    "PendingCopy",
    "agree",
    "copy_root",
    "first_scan_change",
    "instance_of",
    "source_of",
]

_AT: Final = "@"
"""In the name of no source."""
ABSENCE_MARGIN_SECONDS: Final = 60.0
"""How much older than an absence a file must be that was surely not written during it: clocks of hosts differ."""


def copy_root(source: str, instance: str) -> str:
    """Return under which name the index keeps an instance's copy of the tree of a source."""
    return f"{source}{_AT}{instance}"


def instance_of(root: str) -> str:
    """Return the instance that a copy is on; empty for a root that is shared."""
    return root.partition(_AT)[2]


def source_of(root: str) -> str:
    """Return the source that a root belongs to."""
    return root.partition(_AT)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedSources:
    """Which sources have a copy of their tree on every instance."""

    names: frozenset[str]
    instance: str
    """The name of this instance."""
    wait_seconds: float
    """How long a change waits for the other copies."""
    route: Callable[[Change], Sequence[NeedInput]]
    """What a change makes stale, for what the first scan of a copy finds."""

    @property
    def roots(self) -> Mapping[str, str]:
        """The root of this instance's copy, by source."""
        return {name: copy_root(name, self.instance) for name in self.names}


class Copy(NamedTuple):
    """What one copy holds at a key."""

    fingerprint: Fingerprint | None
    """``None``: nothing."""
    is_changed: bool = False
    """Whether its instance recorded a change of the key while the need waits."""


def agree(copies: Iterable[Copy]) -> bool:
    """Return whether copies hold the same at a key, or nothing, as far as their indexes show."""
    copies = list(copies)
    if any(copy.fingerprint is None for copy in copies):
        return all(copy.fingerprint is None for copy in copies)
    return all(_is_same(one, other) for one, other in combinations(copies, 2))


def _is_same(one: Copy, other: Copy) -> bool:
    a, b = one.fingerprint, other.fingerprint
    assert a is not None
    assert b is not None
    if a.etag is not None and b.etag is not None:
        return a.etag == b.etag
    if a.size_bytes is None or a.size_bytes != b.size_bytes:
        return False
    # Some tools that copy a tree do not keep its times.
    return (a.mtime_ns is not None and a.mtime_ns == b.mtime_ns) or (one.is_changed and other.is_changed)


def first_scan_change(
    source: str,
    key: str,
    found: Fingerprint | None,
    known: Iterable[Fingerprint | None],
    *,
    absent_since: float | None,
) -> Change | None:
    """
    Return the change that the first scan of a copy proves or cannot exclude, ``None`` where nothing is stale.

    Args:
        source: whose copy it is.
        key: of the object.
        found: what this copy holds.
        known: what each other copy that was ever scanned holds, those of absent instances included.
        absent_since: since when, in seconds since the epoch, an instance is absent that may have returned under this
            name, and may have written its tree meanwhile; ``None``: none is.
    """
    is_old = absent_since is None or found is None or _written_at(found) < absent_since - ABSENCE_MARGIN_SECONDS
    if is_old and all(agree([Copy(found), Copy(one)]) for one in known):
        return None
    return Change(source, key, ChangeKind.DELETED if found is None else ChangeKind.CONTENT, found)


def _written_at(found: Fingerprint) -> float:
    times = [time for time in (found.mtime_ns, found.ctime_ns) if time is not None]
    return max(times) / 1e9 if times else float("inf")


PendingCopy = tuple[int, str, int, str, bytes, bytes]
"""A need (directory, name, scope) and the key it waits for: source, directory in the tree, name; empty: all below."""


class Difference(NamedTuple):
    """A key at which copies stayed different."""

    source: str
    key: str
    since: float
    """When the wait for it was over first, in seconds since the epoch."""
    instances: Sequence[str]
    """That have a copy."""


class Copies(Protocol):
    """What the database of a fleet keeps of copies, inside transactions of the store."""

    sources: CopiedSources

    def note(self, connection: Connection, rows: Sequence[PendingCopy]) -> None:
        """Note for which keys needs wait, and that this instance recorded a change of each."""

    def postpone(self, connection: Connection, *, now: float, limit: int) -> bool:
        """
        Let needs that are due wait on, as long as their copies differ and the wait is not over.

        Looks at up to ``limit`` needs, with their rows locked, and returns whether any may be left.
        """

    def first_scan(
        self, connection: Connection, source: str, *, after: bytes | None, limit: int
    ) -> tuple[list[Change], bytes | None]:
        """
        Return the changes that the first scan of this instance's copy leads to, in up to ``limit`` directories.

        Also where to go on, ``None`` at the end.
        """

    def note_use(self, connection: Connection, *, now: float) -> None:
        """Note that the copies of the living instances are in use, so that they are not retired."""

    def differences(self, connection: Connection, *, limit: int) -> list[Difference]:
        """Return the keys at which copies of living instances stayed different, the oldest first."""
