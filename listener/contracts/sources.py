"""What a source must provide, and what it may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel

from listener.change import Change, Fingerprint, ObjectState
from listener.contracts.checks import Check
from listener.refresh import Priority

__all__ = [
    "WAITING_SINCE",
    "ConfirmsDeletions",
    "Delivery",
    "DirectoryComparison",
    "Ignoring",
    "IndexView",
    "ProvidesSetup",
    "Rescans",
    "Source",
    "SourceBase",
    "SourceHealth",
    "SourceState",
    "Unreadable",
    "no_ack",
    "parts_of",
]


async def no_ack() -> None:
    """Acknowledge nothing, for storages that need no acknowledgement."""


class Unreadable(NamedTuple):
    """A message that cannot be parsed. It is kept as a dead letter, so the storage need not keep it."""

    subject: bytes
    """Its name: a message id, or a digest of the body. One subject of one source is kept once."""
    body: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """The changes of one message or scan step, with the callback that acknowledges them."""

    changes: Sequence[Change]
    ack: Callable[[], Awaitable[None]] = no_ack
    """Called once, by the pipeline, after the changes and unreadable messages are durable."""
    scan_sequence: int | None = None
    """Set by a scan: :meth:`IndexView.sequence` when it began. Newer index rows are not overwritten."""
    seed: bool = False
    """True for the first listing of a storage: it fills the index and refreshes nothing."""
    priority: Priority = Priority.LIVE
    """What only a backfill requests waits behind every live change."""
    unreadable: Sequence[Unreadable] = ()
    """Messages that came with the changes and cannot be parsed."""
    message_ids: Sequence[str] = ()
    """For each change the id of its message, equal in every redelivery of that message; or empty."""


class DirectoryComparison(NamedTuple):
    """How a listing of one directory compares with the index."""

    known: int
    """How many objects the index contains directly in it."""
    is_same: bool
    """Whether they are the objects that were listed, and none of them was touched."""


class IndexView(Protocol):
    """
    Read access to the index: what the storage was last known to contain.

    A source that reports events does not need it. One that can list its storage compares with it.
    """

    async def sequence(self) -> int:
        """Return the store's highest sequence, for :attr:`Delivery.scan_sequence` of a scan that starts now."""
        ...

    async def directory(self, root: str, directory: str) -> Mapping[str, Fingerprint]:
        """Return the objects directly in a directory (``""`` or ending with ``/``), by name."""
        ...

    async def directory_page(
        self, root: str, directory: str, after: str | None, *, limit: int
    ) -> Sequence[tuple[str, Fingerprint]]:
        """
        Return the next objects directly in a directory, in byte order of their names, after a name.

        ``None`` begins. An object whose key ends with ``/`` has the empty name.
        """
        ...

    async def contents(self, root: str, directories: Sequence[str]) -> Mapping[str, Mapping[str, Fingerprint]]:
        """Return :meth:`directory` of each of these directories, in one consistent read."""
        ...

    async def compare(
        self, root: str, listed: Mapping[str, Sequence[ObjectState]]
    ) -> Mapping[str, DirectoryComparison]:
        """
        Compare what was listed directly in each of these directories with the index, in one consistent read.

        The states of each are in byte order of the names.
        """
        ...

    async def objects(self, root: str, keys: Sequence[str]) -> Mapping[str, Fingerprint]:
        """Return those of these objects that are in the index, by key."""
        ...

    async def directories(self, root: str, prefix: str = "") -> Sequence[str]:
        """Return every directory at or below ``prefix`` that contains objects, each ``""`` or ending with ``/``."""
        ...

    async def seeded(self, root: str) -> bool:
        """Return whether the first listing of this root is complete."""
        ...

    async def mark_seeded(self, root: str) -> None:
        """Record that the first listing of this root is complete; call it once all its deliveries are durable."""
        ...


class SourceState(StrEnum):
    """What a source is doing."""

    STARTING = "starting"
    SCANNING = "scanning"
    LISTENING = "listening"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"
    STANDBY = "standby"
    """Another instance watches the storage; this one takes over when that ends."""


WAITING_SINCE = "waiting_since_timestamp_seconds"
"""A figure of a source: since when possible changes wait for a comparison; 0 or absent: none waits."""


HELD_DELETIONS = "held_deletions"
"""A figure of a source: how many deletions its guard holds back until a person confirms them; 0 or absent: none."""


class _Announced:
    """Holds the callback of a health apart from the fields of the data class, which are compared and copied."""

    __slots__ = ("_changed",)
    _changed: Callable[[], None]


_SILENT_FIELDS = frozenset({"last_event_at", "_progressed_at"})
"""What may change with each event or key: too often to be announced."""


@dataclass(slots=True)
class SourceHealth(_Announced):
    """The health of a source. The source writes it; status, metrics and readiness read it."""

    state: SourceState = SourceState.STARTING
    ready: bool = False
    """True once the source listens and its first scan is done: every later change is noticed."""
    last_event_at: float | None = None
    """Seconds since the epoch."""
    lost_events: int = 0
    """Events known or estimated to have been lost and recovered by a scan."""
    rescans: int = 0
    detail: str = ""
    """For the operator: what is wrong and what to do; empty when nothing is."""
    figures: dict[str, float] = field(default_factory=dict)
    """Further numbers by name, with units in the names; call :meth:`changed` after writing some."""
    _progressed_at: float | None = field(default=None, init=False, repr=False, compare=False)

    def announce_to(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever a field changed, in the thread of whoever wrote it."""
        object.__setattr__(self, "_changed", changed)

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field, and announce it where it differs."""
        is_announced = name not in _SILENT_FIELDS and getattr(self, name, None) != value
        object.__setattr__(self, name, value)
        if is_announced:
            self.changed()

    def changed(self) -> None:
        """Announce that something changed: of figures, which are written in place, nothing else shows it."""
        call = getattr(self, "_changed", None)
        if call is not None:
            call()

    def progressed(self, now: float) -> None:
        """
        Report that the worker is not stuck; ``now`` is the event loop's clock in seconds.

        After the first call a source must call this at least every 30 s, or :meth:`rests`: after 60 s of silence it
        is reported as degraded. A source that never calls it is not watched.
        """
        self._progressed_at = now

    def rests(self) -> None:
        """Report that the worker waits on purpose: it is not watched until it progresses."""
        self._progressed_at = None

    def silent_seconds(self, now: float) -> float | None:
        """Return for how long there was no progress; ``None`` for a source that is not watched."""
        return None if self._progressed_at is None else now - self._progressed_at


class Source(Protocol):
    """A storage that reports changes. It knows nothing of URLs or CDNs."""

    Settings: ClassVar[type[BaseModel]]
    name: str
    roots: Sequence[str]
    """The values of ``Change.root`` in its deliveries."""
    health: SourceHealth

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; open nothing."""
        ...

    def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """
        Yield deliveries until the source is exhausted (a listing) or its task is cancelled; iterated once.

        Raise :class:`~listener.errors.SourceUnavailable` for what may pass, :class:`~listener.errors.SourceError` or
        :class:`~listener.errors.ConfigurationError` for what a person must fix. The pipeline then makes a new source,
        with growing waits. Release resources in ``finally``.
        """
        ...

    async def check(self) -> Sequence[Check]:
        """Check everything that the settings name, without changing anything."""
        ...


class SourceBase:
    """What sources have in common: one root, named like the source."""

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; open nothing."""
        self.name = name
        self.settings = settings
        self.roots: Sequence[str] = (name,)
        self.health = SourceHealth()


@runtime_checkable
class ProvidesSetup(Protocol):
    """A source whose events must be configured at the other side."""

    def setup(self) -> str:
        """
        Return text to paste at the other side: notification rules, policies, commands.

        Blocks of text, each under a line that starts with ``#`` and says where it goes. Made from the settings alone,
        without any call and without secrets; unknown values stand as ``<…>``.
        """
        ...


@runtime_checkable
class Ignoring(Protocol):
    """A source that leaves out part of its storage, and can list what."""

    def ignored(self) -> Iterator[tuple[str, str]]:
        """Yield every path that is left out, with the pattern that leaves it out. Blocking."""
        ...


@runtime_checkable
class ConfirmsDeletions(Protocol):
    """A source with a deletion guard: it stops at an implausible mass deletion until a person confirms it."""

    def confirm_deletions(self) -> None:
        """Accept the deletions that the guard stopped."""
        ...


@runtime_checkable
class Rescans(Protocol):
    """A source that can compare its whole storage with the index: what the store lost, it finds there."""

    def rescan(self, reason: str) -> None:
        """Compare soon; ``reason`` is for the log."""
        ...


def parts_of(source: Source) -> Sequence[Source]:
    """Return the sources that one is made of (``parts``), or else itself."""
    found: Sequence[Source] = getattr(source, "parts", (source,))
    return found
