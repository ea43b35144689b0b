"""
What a third party may implement: a source of changes, and a target that refreshes.

Both are found by entry point (``listener.sources``, ``listener.targets``) under the name that a
configuration gives as ``type``. A plugin is a class with a nested pydantic model ``Settings``
(unknown keys are refused), made by ``Plugin(name, settings)`` without side effects; ``check``
probes without changing anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel

from listener.change import Change, Fingerprint
from listener.refresh import QuotaReading, Receipt, RefreshKind, Task

__all__ = [
    "WAITING_SINCE",
    "Braked",
    "Check",
    "CheckState",
    "Delivery",
    "Ignoring",
    "IndexView",
    "Instructive",
    "KindLimits",
    "NeedsCredentials",
    "Source",
    "SourceHealth",
    "SourceState",
    "Target",
    "Unreadable",
    "no_ack",
]


async def no_ack() -> None:
    """Acknowledge nothing: for origins that need no word back."""


class Unreadable(NamedTuple):
    """A message that is in no known form: kept as a dead letter, so that its origin need not keep it."""

    subject: bytes
    """What names it: a message id, or a digest of the body. The same subject of one source is kept once."""
    body: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """Changes that came together, with the way to tell their origin that they are safe."""

    changes: Sequence[Change]
    ack: Callable[[], Awaitable[None]] = no_ack
    """Called once, after the commit that made the changes durable, by the pipeline alone."""
    scan_sequence: int | None = None
    """For what a scan found: the store's sequence when the scan began. Index rows newer than that stay."""
    seed: bool = False
    """True for a first listing: it fills the index and makes no needs."""
    backfill: bool = False
    """True for what only a backfill asks for: it waits behind every live change."""
    unreadable: Sequence[Unreadable] = ()
    """Messages that came with the changes and cannot be read; made durable before ``ack`` is called."""
    message_ids: Sequence[str] = ()
    """For each change the id of the message that brought it, the same whenever that is delivered again; or empty."""


class IndexView(Protocol):
    """What a source may ask of the index: what the storage was last known to hold."""

    async def sequence(self) -> int:
        """Return the store's highest sequence: the mark to give to what a scan starting now will find."""
        ...

    async def directory(self, root: str, directory: str) -> Mapping[str, Fingerprint]:
        """Return the objects directly in a directory (``""`` or ending with ``/``): name to fingerprint."""
        ...

    async def directory_page(
        self, root: str, directory: str, after: str | None, *, limit: int
    ) -> Sequence[tuple[str, Fingerprint]]:
        """
        Return the next objects directly in a directory, by the bytes of their names: those after a name.

        ``None`` begins: an object whose key ends with ``/`` has the empty name.
        """
        ...

    async def contents(self, root: str, directories: Sequence[str]) -> Mapping[str, Mapping[str, Fingerprint]]:
        """Return what :meth:`directory` does of each of these, in one question, as of one instant."""
        ...

    async def objects(self, root: str, keys: Sequence[str]) -> Mapping[str, Fingerprint]:
        """Return those of these objects that are known, by key."""
        ...

    async def directories(self, root: str, prefix: str = "") -> Sequence[str]:
        """Return every directory at or below ``prefix`` that holds objects, each ``""`` or ending with ``/``."""
        ...

    async def seeded(self, root: str) -> bool:
        """Return whether a first listing of this root was finished."""
        ...

    async def mark_seeded(self, root: str) -> None:
        """Note, once all its deliveries are durable, that the first listing of this root is finished."""
        ...


class SourceState(StrEnum):
    """What a source is doing."""

    STARTING = "starting"
    SCANNING = "scanning"
    LISTENING = "listening"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"


WAITING_SINCE = "waiting_since_timestamp_seconds"
"""The figure of a source that says since when what may have changed waits to be compared; 0 or absent: nothing does."""


class _Progress:
    """When a worker last made progress; beside the fields that status shows."""

    __slots__ = ("_progressed_at",)

    def progressed(self, now: float) -> None:
        """
        Say that the worker is not stuck, by the event loop's clock in seconds.

        A source that says so must do it at least every 30 s, also while there is nothing to do, or say that it
        :meth:`rests`; when it says nothing for a minute it is reported as degraded. One that never says it is not
        judged.
        """
        self._progressed_at: float | None = now

    def rests(self) -> None:
        """Say that the worker waits on purpose, for requests, room or a time: it is not judged until it progresses."""
        self._progressed_at = None

    def silent_seconds(self, now: float) -> float | None:
        """Return for how long there was no progress; ``None`` where it rests, or never says it."""
        at: float | None = getattr(self, "_progressed_at", None)
        return None if at is None else now - at


@dataclass(slots=True)
class SourceHealth(_Progress):
    """What a source says of itself; it writes, status and readiness read."""

    state: SourceState = SourceState.STARTING
    ready: bool = False
    """True once it listens and its first scan is done: whatever changes from then on is seen."""
    last_event_at: float | None = None
    """Seconds since the epoch."""
    lost_events: int = 0
    """How many events are known or estimated to have been lost; a scan made up for them."""
    rescans: int = 0
    detail: str = ""
    """For the operator: what is wrong and what to do; empty when nothing is."""
    figures: dict[str, float] = field(default_factory=dict)
    """Further numbers by name, units in the names."""


class CheckState(StrEnum):
    """How a probe ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One probe of ``cdn-listener check``."""

    subject: str
    state: CheckState
    message: str
    hint: str = ""


class Source(Protocol):
    """
    Where changes come from: it knows nothing of URLs or CDNs.

    ``deliveries`` may be iterated once. It ends when the source is exhausted (a listing) or when
    its task is cancelled; its ``finally`` cleans up also after a failed start.
    """

    Settings: ClassVar[type[BaseModel]]
    name: str
    roots: Sequence[str]
    """The names under which its changes come (``Change.root``)."""
    health: SourceHealth

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; touch nothing."""
        ...

    def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """Yield deliveries as they come; raise :class:`~listener.errors.SourceError` when it cannot go on."""
        ...

    async def check(self) -> Sequence[Check]:
        """Probe everything that the settings name, without changing anything."""
        ...


@runtime_checkable
class Instructive(Protocol):
    """What a source may be besides: one whose events must be ordered elsewhere, and that can say how."""

    def setup(self) -> str:
        """
        Return what to paste where its events come from: notification rules, policies, commands.

        Blocks of text, each under a line that starts with ``#`` and says where it goes; made from the settings
        alone, without a look at anything, and free of secrets. What the settings do not tell stands in ``<…>``.
        """
        ...


@runtime_checkable
class Ignoring(Protocol):
    """A source that leaves out some of what its storage holds, and can list it."""

    def ignored(self) -> Iterator[tuple[str, str]]:
        """Yield every path that is left out, with the pattern that leaves it out; blocking, as long as a walk takes."""
        ...


@runtime_checkable
class Braked(Protocol):
    """A source that stops at a mass of deletions until a person says that they are meant."""

    def confirm_deletions(self) -> None:
        """Take the deletions that it stopped at for true."""
        ...


@runtime_checkable
class NeedsCredentials(Protocol):
    """What a source or a target may be besides: one that can do nothing without credentials."""

    async def require_credentials(self) -> None:
        """
        Return when credentials are configured, without a call over the network.

        Raise :class:`~listener.errors.ConfigurationError` when they are missing or malformed: the daemon refuses to
        start. A service that hands them out and does not answer yet is no reason to.
        """
        ...


@dataclass(frozen=True, slots=True)
class KindLimits:
    """What one kind of request may hold."""

    batch_urls: int
    """URLs in one request."""
    batch_domains: int = 10
    batch_bytes: int | None = None
    """Encoded length of all URLs of one request, where the CDN or its transport sets one."""
    slots: int | None = None
    """How many may be under way at once, where the CDN sets a bound; more wait for one to end."""


class Target(Protocol):
    """
    A CDN account.

    ``submit`` puts one request on the wire (again after a definite throttle, within a bound) and
    raises by remedy: see :mod:`listener.errors`. Everything but ``submit`` retries by itself.
    """

    Settings: ClassVar[type[BaseModel]]
    name: str
    account: str
    """Targets of one account share its ledger."""
    limits: Mapping[RefreshKind, KindLimits]
    """The kinds that it can do, each with its limits."""
    forces: bool
    """True when its directory refreshes evict whatever is below, unchanged objects too."""
    can_force: bool
    """Whether a refresh that is not by itself forced can be, as an urgent one is."""
    quota: Mapping[RefreshKind, int]
    """The daily quota to assume until the live one is known."""

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; touch nothing."""
        ...

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, backfill: bool = False) -> None:
        """
        Wait until a request of these URLs keeps the rate limits; called before the attempt turns ``sending``.

        One of a backfill lets all others go first, and leaves them part of each limit.
        """
        ...

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool) -> Receipt:
        """Ask for one batch. Raise a :class:`~listener.errors.TargetError` by remedy."""
        ...

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return what is known of these tasks; one that is not known (yet) is simply absent."""
        ...

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """Return the tasks of exactly this URL created in the span (seconds since the epoch), newest first."""
        ...

    async def read_quota(self) -> Mapping[RefreshKind, QuotaReading]:
        """Return the live quota of each kind that the CDN tells."""
        ...

    async def check(self) -> Sequence[Check]:
        """Probe credentials, clock skew, permissions and quota without changing anything."""
        ...

    async def close(self) -> None:
        """Release connections; safe to call twice."""
        ...
