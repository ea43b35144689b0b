"""What is stale and what is requested of a CDN: needs, attempts, and which covers which."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = [
    "COVERAGE",
    "KIND_OF_SCOPE",
    "NUMBERS",
    "SCOPE_OF_KIND",
    "UNLIMITED",
    "Attempt",
    "AttemptState",
    "CoverageRule",
    "FolderInputs",
    "Need",
    "NeedInput",
    "NeedState",
    "Priority",
    "QuotaReading",
    "Receipt",
    "RefreshKind",
    "Scope",
    "Task",
    "TaskState",
    "covers",
    "directories_above",
    "directory_of",
    "reserved_units",
    "split_reason",
    "strip_query",
]


class Scope(IntEnum):
    """How much of a URL a need is about."""

    EXACT = 0
    """The URL itself, query included."""
    ALL_PARAMS = 1
    """The URL's path with any query."""
    SUBTREE = 2
    """Everything whose URL starts with this one, which ends with ``/``."""
    PREFETCH = 3
    """Not stale: to be fetched into the cache once no refresh need covers it."""


class Priority(IntEnum):
    """Who waits for whom: a need has the lowest of those that it was requested with, an attempt that of its need."""

    LIVE = 0
    """Something changed now, or a person requested it."""
    BACKFILL = 1
    """Only a backfill requests it: planned, reserved and sent behind everything live."""
    ADMITTED = 2
    """As before, and planned already against a share of the quota: sent as it is, never as part of a directory."""


class RefreshKind(StrEnum):
    """The kinds of request; each has a quota of its own."""

    FILE = "file"
    DIRECTORY = "directory"
    IGNORE_PARAMS = "ignore-params"
    PREFETCH = "prefetch"


KIND_OF_SCOPE: Final[Mapping[Scope, RefreshKind]] = MappingProxyType(
    {
        Scope.EXACT: RefreshKind.FILE,
        Scope.ALL_PARAMS: RefreshKind.IGNORE_PARAMS,
        Scope.SUBTREE: RefreshKind.DIRECTORY,
        Scope.PREFETCH: RefreshKind.PREFETCH,
    }
)
"""By which kind of request a need of each scope is settled, unless a directory refresh covers it."""
SCOPE_OF_KIND: Final[Mapping[RefreshKind, Scope]] = MappingProxyType(
    {kind: scope for scope, kind in KIND_OF_SCOPE.items()}
)
"""The scope of the need that a request of each kind is made for."""


def reserved_units(kind: RefreshKind, limit: int, reserve: float) -> int:
    """Return how many units of a day's limit are left alone for urgent refreshes; no prefetch regards that part."""
    return 0 if kind is RefreshKind.PREFETCH else math.ceil(limit * reserve)


class NeedState(IntEnum):
    """The state in a need's own row; :func:`covers` adds directory attempts."""

    WAITING = 0
    """Its quiet period or back-off lasts until ``due_at``."""
    READY = 1
    """Due; waits for the planner."""
    ATTEMPTED = 2
    """A file or prefetch attempt that covers it is in flight."""
    PARKED = 3
    """The CDN rejected this URL; an operator decides."""
    UNCONFIRMED = 4
    """Sent, but its task did not finish in time; never re-sent merely because it is old."""


class AttemptState(StrEnum):
    """The life of an attempt; the store's page draws it."""

    HELD = "held"
    SENDING = "sending"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    UNCONFIRMED = "unconfirmed"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Need(NamedTuple):
    """A URL of one target that is stale, with all its changes merged."""

    target: str
    url: str
    scope: Scope
    sequence: int
    """Raised, store-wide, by every new change."""
    stale_since: float
    """Seconds since the epoch of the first unsettled change."""
    open: bool = False
    """True while the write is unfinished or has not reached the origin: nothing covers it yet."""
    needs_force: bool = False
    """True when its validator did not advance, so that a revalidation would keep the old copy."""


class NeedInput(NamedTuple):
    """What the router makes of a change: one URL of one target."""

    target: str
    url: str
    scope: Scope = Scope.EXACT
    delay_seconds: float = 0.0
    """How much later than us the origin has the change."""
    ignore_rewrites: bool = False
    """Whether the same content once more makes no need, by the word of whoever answers for changed headers."""


class FolderInputs(NamedTuple):
    """What the router makes of the keys of one folder whose names no rule changes: the same for each, but its name."""

    names: re.Pattern[str]
    """Matches these names; any other is routed by itself."""
    longest: int
    """So is a longer one."""
    inputs: tuple[NeedInput, ...]
    """Those of a key with the empty name: the name of any other follows the URL."""


class Attempt(NamedTuple):
    """One request to a CDN for one URL."""

    id: int
    target: str
    kind: RefreshKind
    url: str
    force: bool
    """Whether it evicts, instead of letting caches ask the origin."""
    watermark: int
    """The highest sequence that it covers."""
    state: AttemptState = AttemptState.HELD
    task_id: str | None = None
    created_at: float = 0.0
    sent_at: float | None = None
    accepted_at: float | None = None
    looks: int = 0
    """How often its task was checked."""
    tries: int = 1
    """Which try at this URL in a row this is; 1 for the first."""
    stale_since: float | None = None
    """The oldest change that it covered when it was made, in seconds since the epoch."""
    reason: str = ""
    next_look_at: float | None = None
    """When its task, or its unknown outcome, is checked next, in seconds since the epoch."""


def strip_query(url: str) -> str:
    """Return the URL without its query."""
    return url.partition("?")[0]


def directory_of(url: str) -> str:
    """Return the directory URL that holds this URL: up to the last ``/`` of its path."""
    query = url.find("?")
    return url[: url.rindex("/", 0, query if query >= 0 else None) + 1]


def directories_above(directory: str) -> list[str]:
    """Return the directory URLs at and above one, that of the host last."""
    found, end = [], len(directory)
    while (end := directory.rfind("/", 0, end)) > directory.find("://") + 2:
        found.append(directory[: end + 1])
    return found


class CoverageRule(NamedTuple):
    """What a complete attempt of one kind covers, among the needs that its URL reaches."""

    scopes: frozenset[Scope]

    def covers(
        self, *, watermark: int, force: bool, scope: Scope, sequence: int, is_open: bool, needs_force: bool
    ) -> bool:
        """Return whether an attempt with this watermark and force covers a need, given that its URL reaches it."""
        return scope in self.scopes and sequence <= watermark and not is_open and (force or not needs_force)


COVERAGE: Mapping[RefreshKind, CoverageRule] = MappingProxyType(
    {
        RefreshKind.FILE: CoverageRule(frozenset({Scope.EXACT})),
        RefreshKind.IGNORE_PARAMS: CoverageRule(frozenset({Scope.EXACT, Scope.ALL_PARAMS})),
        RefreshKind.DIRECTORY: CoverageRule(frozenset({Scope.EXACT, Scope.ALL_PARAMS, Scope.SUBTREE})),
        RefreshKind.PREFETCH: CoverageRule(frozenset({Scope.PREFETCH})),
    }
)
"""The rule by kind. :func:`covers` reads it, and ``listener.store.needs`` generates its SQL from it."""


def covers(attempt: Attempt, need: Need) -> bool:
    """
    Return whether the attempt, once complete, settles the need.

    ============== =========== ============== ===================== =========
    attempt        exact       all-params     subtree               prefetch
    ============== =========== ============== ===================== =========
    file           same URL    never          never                 never
    ignore-params  same path   same path      never                 never
    directory      below it    below it       it, or one below it   never
    prefetch       never       never          never                 same URL
    ============== =========== ============== ===================== =========

    Never a need of another target, with a sequence above the watermark, or with an
    unfinished write; a need that needs force only by a forced attempt.
    """
    return (
        attempt.target == need.target
        and _reaches(attempt.kind, attempt.url, need.url)
        and COVERAGE[attempt.kind].covers(
            watermark=attempt.watermark,
            force=attempt.force,
            scope=need.scope,
            sequence=need.sequence,
            is_open=need.open,
            needs_force=need.needs_force,
        )
    )


def _reaches(kind: RefreshKind, attempt: str, need: str) -> bool:
    if kind is RefreshKind.DIRECTORY:
        return need.startswith(attempt)
    if kind is RefreshKind.IGNORE_PARAMS:
        return strip_query(need) == strip_query(attempt)
    return need == attempt


class Receipt(NamedTuple):
    """A CDN's answer to a request that it accepted, as a whole or in part."""

    task_ids: tuple[str, ...] = ()
    """
    The tasks to follow, without commas in their ids, which may be shared by requests of the same second and domain.
    Without one nothing more can be learned: the refresh counts as done after ``settles_after_seconds``.
    """
    request_id: str = ""
    settles_after_seconds: float = 0.0
    """Without task ids: how long after the answer every cache has dropped its copy; 0: the answer is final."""
    refused: Mapping[str, str] = MappingProxyType({})
    """URLs of the request that were not accepted and never will be, with the reason; a person decides about them."""
    unfinished: Mapping[str, str] = MappingProxyType({})
    """
    URLs of the request that some of several caches did not drop, with the reason; they are sent again, those that are
    ``refused`` by others, too.
    """


class TaskState(StrEnum):
    """The progress of a task, as reported by the CDN."""

    PENDING = "pending"
    REFRESHING = "refreshing"
    COMPLETE = "complete"
    FAILED = "failed"


class Task(NamedTuple):
    """One URL of one task, as a CDN reports it; joined to an attempt by task id and URL."""

    task_id: str
    url: str | None
    """``None``: the task is about every URL of the request that it was made for."""
    kind: RefreshKind
    state: TaskState
    created_at: float | None = None
    """Seconds since the epoch."""
    progress: str = ""
    description: str = ""


class QuotaReading(NamedTuple):
    """A CDN's own figures for one kind of refresh in the present window."""

    limit: int
    remaining: int


UNLIMITED: Final = 1_000_000_000
"""The limit in a reading of an allowance that the CDN says has none."""
NUMBERS: Final = " [planner: "
"""Begins the numbers at the end of a reason."""


def split_reason(reason: str) -> tuple[str, str]:
    """Return the decision, and the numbers behind it (empty where a reason has none)."""
    decision, _, numbers = reason.partition(NUMBERS)
    return (decision, numbers.removesuffix("]")) if reason.endswith("]") else (reason, "")
