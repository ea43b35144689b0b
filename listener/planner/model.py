"""
What goes into a plan and what comes out: counts by directory in, decisions out.

The planner never sees a need. It sees, for each directory URL that has due needs, how many there
are; it answers how many of them to send as files and which directories to refresh. Rows are
loaded afterwards, by whoever carries the plan out, and only those that are sent as files.

What has arrived by the hour of the day (:class:`Arrivals`) goes in too: how much to expect of the rest of the day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from listener.allowances import Allowance
from listener.planner.constants import (
    ARRIVAL_SECONDS,
    HISTORY_DAYS,
    OBJECT_DOLLARS,
    PRESENT_HOURS,
    PRESENT_WEIGHT,
    PRIOR_ARRIVALS_PER_HOUR,
    PRIOR_OBJECTS_PER_ARRIVAL,
)
from listener.refresh import RefreshKind

__all__ = [
    "Arrivals",
    "Budget",
    "Deferral",
    "DirectoryLoad",
    "Limit",
    "Plan",
    "PlanInput",
    "PlannedDirectory",
    "PlannedFiles",
    "QuotaShare",
]

_DAY_SECONDS = 86_400.0
_HOUR_SECONDS = 3_600.0
_DAY_HOURS = 24.0
_PRESENT_DAYS = PRESENT_HOURS / 24.0


def _hour(at: float) -> int:
    return int(at // _HOUR_SECONDS) % 24


class Arrivals(NamedTuple):
    """
    A memory of what became due, fading exponentially; a few numbers that can be rebuilt from a history.

    An *arrival* is what became due at one moment, however many needs that were: bulk work makes a few
    large arrivals, editors make many small ones, and only the number of arrivals says how busy a day is.
    """

    at: float | None = None
    """When the numbers were last brought up to date, in seconds since the epoch."""
    days: float = 0.0
    """Days remembered, those long ago counting less."""
    arrivals: float = 0.0
    objects: float = 0.0
    present: float = 0.0
    """Arrivals of the last hours."""
    began: float | None = None
    """When the latest arrival began, in seconds since the epoch."""
    by_hour: tuple[float, ...] = (0.0,) * 24
    """Arrivals by the hour of the day, in UTC: people publish at some hours, and machines at others."""

    def until(self, now: float) -> Arrivals:
        """Return the memory as it has faded by ``now``; a clock that jumps back fades nothing."""
        if self.at is None:
            return self._replace(at=now)
        days = max(0.0, now - self.at) / _DAY_SECONDS
        keep = math.exp(-days / HISTORY_DAYS)
        return self._replace(
            at=now,
            days=self.days * keep + HISTORY_DAYS * (1.0 - keep),
            arrivals=self.arrivals * keep,
            objects=self.objects * keep,
            present=self.present * math.exp(-days / _PRESENT_DAYS),
            by_hour=tuple([hour * keep for hour in self.by_hour]),
        )

    def seen(self, now: float, objects: int) -> Arrivals:
        """Return the memory with this many needs having become due at ``now``."""
        faded = self.until(now)
        if self.began is not None and 0 <= now - self.began < ARRIVAL_SECONDS:
            return faded._replace(objects=faded.objects + objects)
        hour = _hour(now)
        return faded._replace(
            arrivals=faded.arrivals + 1.0,
            objects=faded.objects + objects,
            present=faded.present + 1.0,
            began=now,
            by_hour=(*faded.by_hour[:hour], faded.by_hour[hour] + 1.0, *faded.by_hour[hour + 1 :]),
        )

    def busyness(self, start: float, end: float) -> float:
        """Return how busy a span usually is, 1 being the mean of the day; evenness is the prior belief."""
        even = sum(self.by_hour) / 24.0 + PRIOR_ARRIVALS_PER_HOUR
        total, at = 0.0, start
        while at < end:
            until = min(end, (math.floor(at / _HOUR_SECONDS) + 1.0) * _HOUR_SECONDS)
            total += (until - at) * (self.by_hour[_hour(at)] + PRIOR_ARRIVALS_PER_HOUR) / even
            at = until
        return total / (end - start) if end > start else 1.0

    def _usual(self, now: float) -> float:
        """Return how many needs become due on a usual day."""
        faded = self.until(now)
        trust = faded.days / (faded.days + 1.0)
        a_day = (faded.objects + PRIOR_OBJECTS_PER_ARRIVAL) / (faded.days + 1.0)
        return trust * a_day + (1.0 - trust) * PRIOR_OBJECTS_PER_ARRIVAL

    def expected(self, now: float, hours: float) -> float:
        """
        Return how many needs are expected to become due within the next hours; at least one.

        The usual rate of arrivals (with one day of prior belief) is corrected by the present one as a
        gamma prior is by a count: :data:`~listener.planner.constants.PRESENT_WEIGHT` is its shape. Both are taken
        relative to how busy the hours in question usually are. Of all that, as much is believed as days are known
        against that one of prior belief: a first day, with its imports and trials, says little of the days to
        come, and tokens are not kept for fear of more of it. What is beyond a day is expected at the usual rate: a
        busy morning says nothing of next week.
        """
        if hours > _DAY_HOURS:
            return self.expected(now, _DAY_HOURS) + self._usual(now) * (hours / _DAY_HOURS - 1.0)
        faded = self.until(now)
        trust = faded.days / (faded.days + 1.0)
        usual = (faded.arrivals + 1.0) / (faded.days + 1.0)
        objects = (faded.objects + PRIOR_OBJECTS_PER_ARRIVAL) / (faded.arrivals + 1.0)
        past = faded.busyness(now - PRESENT_HOURS * _HOUR_SECONDS, now)
        rate = (PRESENT_WEIGHT + faded.present) / (PRESENT_WEIGHT / usual + _PRESENT_DAYS * past)
        rate *= faded.busyness(now, now + hours * _HOUR_SECONDS)
        a_day = trust * rate * objects + (1.0 - trust) * PRIOR_OBJECTS_PER_ARRIVAL
        return max(1.0, a_day * hours / 24.0)


class DirectoryLoad(NamedTuple):
    """One directory URL that has due needs which are in no attempt."""

    target: str
    url: str
    """The directory's URL; ends with ``/``."""
    due: int
    """Due needs of scope exact directly in it."""
    subtree_due: bool = False
    """A due need of scope subtree for this very URL: only a directory refresh of it, or above it, heals it."""
    oldest: float = 0.0
    """``stale_since`` of the oldest of them, in seconds since the epoch."""
    forced_only: bool = False
    """Some need force: where directories are refreshed without it, these needs go as files."""
    due_all_params: int = 0
    """Due needs of scope all-params directly in it; they cost ignore-params tokens, not file tokens."""
    objects: int | None = None
    """How many objects that the storage still holds the due needs stand for: none for deletions, one for an
    object with several URLs. ``None``: as many as there are due needs."""
    site: str = ""
    """Whose share of the quota it spends."""
    priority: float = 1.0
    """How much its staleness weighs; 1 is usual."""
    ttl_seconds: float = 0.0
    """How long a cache keeps these objects at most; 0: unknown. They heal by themselves so long after they became
    stale."""


class Budget(NamedTuple):
    """What the ledger says of one allowance of an account."""

    allowance: Allowance
    """With the limit that holds now."""
    left: int
    """Units of the limit that are neither spent nor held."""
    resets_at: float
    """When units come back, in seconds since the epoch; infinite where none do."""

    @property
    def name(self) -> str:
        """Unique within the account."""
        return self.allowance.name

    @property
    def limit(self) -> int:
        """Units of a whole window."""
        return self.allowance.limit

    def cost(self, kind: RefreshKind) -> int:
        """Return the units that one refresh of a kind takes; 0 where it takes none."""
        return self.allowance.costs.get(kind, 0)


class QuotaShare(NamedTuple):
    """What a site may have of the allowances that a kind spends, as parts of their limits."""

    guaranteed: float = 0.0
    """Kept for it until shortly before the reset."""
    greatest: float = 1.0
    """Never exceeded."""
    used_up: str = "its site has used up its share of the quota"
    """Says to the operator that nothing of it is left."""


class Limit(NamedTuple):
    """
    A limit other than the daily quota: per minute, per second, slots in flight, evictions, money.

    Whatever the window, at most ``left`` may be spent of it now; what exceeds it waits for ``resets_at``.
    """

    name: str
    """For the operator, in the reason of what waits for it."""
    left: float
    costs: Mapping[RefreshKind, float] = {}
    """What one refresh of each kind takes of it."""
    eviction_cost: float = 0.0
    """What each unchanged object that a directory refresh evicts takes of it."""
    host: str | tuple[str, ...] = ""
    """How the URLs start that it holds for (``https://www.example.com/``), or one of several ways; empty for all."""
    target: str = ""
    """The target that it holds for; empty for all of the account."""
    resets_at: float | None = None
    """Seconds since the epoch; ``None`` where a slot comes free when a task ends."""
    whole: bool = False
    """True while nothing of it is spent: then one directory may exceed it, as it else could never be refreshed."""


def nothing_known(_directory_url: str) -> int | None:
    """Know no weight of any directory."""
    return None


def everything_allowed(_directory_url: str) -> bool:
    """Allow any directory."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """
    All that a plan depends on, for the targets of one account.

    ``weights`` is asked only for directories that might be refreshed: how many known objects lie
    below, at any depth; ``None`` where nothing is known, 0 where it is known that there are none.
    ``allowed`` returns whether a directory is within its site's blast radius; whatever lies below an
    allowed directory must be allowed too. A kind that ``budgets`` does not name cannot be asked for.
    """

    now: float
    loads: Sequence[DirectoryLoad]
    budgets: Sequence[Budget]
    kinds: Collection[RefreshKind] = frozenset(RefreshKind)
    """What the targets can be asked for."""
    weights: Callable[[str], int | None] = nothing_known
    allowed: Callable[[str], bool] = everything_allowed
    reserve: float = 0.0
    """Part of each limit, 0 to 1, that only urgent work may spend."""
    urgent: bool = False
    force: bool = True
    """Whether directory refreshes evict what did not change, too."""
    object_dollars: float = OBJECT_DOLLARS
    """What an evicted object is worth, for prices in money."""
    cover_all: bool = False
    """Whether nothing may wait that the budgets can cover at all, however much that evicts."""
    arrivals: Arrivals = field(default_factory=Arrivals)
    """What is known of the account's arrivals, this moment's included."""
    shares: Mapping[tuple[str, RefreshKind], QuotaShare] = field(default_factory=dict)
    """By site and kind; a site that is not named has no guarantee and no bound."""
    spent: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By site and allowance: units that it spent or holds, of those that count now."""
    limits: Sequence[Limit] = ()
    """Limits other than the budgets."""

    def costs(self, kind: RefreshKind) -> dict[str, int]:
        """Return the units that one refresh of a kind takes, by the name of the allowance."""
        return {one.name: units for one in self.budgets if (units := one.cost(kind))}

    @property
    def params_are_files(self) -> bool:
        """Whether an all-params need takes the same units as a file."""
        files = self.costs(RefreshKind.FILE)
        return bool(files) and files == self.costs(RefreshKind.IGNORE_PARAMS)


class PlannedDirectory(NamedTuple):
    """One directory to refresh now."""

    target: str
    url: str
    covers: int
    """Due needs below it, a subtree need counting as one."""
    collateral: int
    """Unchanged objects below it; with ``collateral_known`` false, an assumption."""
    collateral_known: bool
    reason: str
    oldest: float = 0.0
    """``stale_since`` of the oldest need that it covers, in seconds since the epoch."""


class PlannedFiles(NamedTuple):
    """Due needs of one directory to send one by one now."""

    target: str
    directory_url: str
    take: int
    """How many of its due needs of this kind to send, oldest first."""
    kind: RefreshKind
    reason: str


class Deferral(NamedTuple):
    """Due needs of one directory that wait."""

    target: str
    directory_url: str
    needs: int
    """How many of its due needs wait."""
    reason: str
    oldest: float
    """``stale_since`` of the oldest, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send now and what to leave, with the reasons."""

    directories: list[PlannedDirectory] = field(default_factory=list)
    files: list[PlannedFiles] = field(default_factory=list)
    deferred: list[Deferral] = field(default_factory=list)
    spent: dict[RefreshKind, int] = field(default_factory=dict)
    collateral: int = 0
    dollars: float = 0.0
    """What it costs in money."""
    gap: float = 0.0
    """By how much the chosen cover may cost more than the cheapest; 0 when it is exact."""
    file_price: float = 0.0
    """What the next file token is worth, in evicted objects or stale object-hours; 0 while there are plenty."""
    wake_at: float | None = None
    """When to plan again though nothing new is due; ``None``: not before something is."""
