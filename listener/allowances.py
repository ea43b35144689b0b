"""What a CDN lets an account spend: allowances, each with a limit, a window of time, and what a refresh takes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from listener.refresh import RefreshKind

__all__ = [
    "ALIBABA_DAY",
    "DAY_SECONDS",
    "Allowance",
    "Day",
    "Month",
    "Rolling",
    "Total",
    "Window",
    "costs_of",
    "for_each_kind",
    "is_reset_near",
    "length_days",
]

DAY_SECONDS: Final = 24 * 60 * 60


class Window(Protocol):
    """
    The span of time in which the units of an allowance are counted; all times in seconds since the epoch.

    What is spent is kept in a row for each :meth:`start`. The rows from :meth:`first` to :meth:`start` count.
    """

    @property
    def words(self) -> str:
        """How the span reads behind a number of units: ``a day``."""
        ...

    def start(self, now: float) -> int:
        """Return the start of the row in which a unit that is spent now is counted."""
        ...

    def first(self, now: float) -> int:
        """Return the start of the oldest row that counts."""
        ...

    def end(self, now: float) -> float:
        """Return when spent units come back, all of them or some; :data:`math.inf` where none ever do."""
        ...


@dataclass(frozen=True, slots=True)
class Day:
    """A calendar day; with 8 hours of offset it begins at 00:00 UTC+8. A day of a fixed offset has no summer time."""

    offset_seconds: int = 0

    @property
    def words(self) -> str:
        """As in :class:`Window`."""
        return "a day"

    def start(self, now: float) -> int:
        """Return when the day began."""
        shifted = math.floor(now) + self.offset_seconds
        return shifted - shifted % DAY_SECONDS - self.offset_seconds

    def first(self, now: float) -> int:
        """Return the start: only the present day counts."""
        return self.start(now)

    def end(self, now: float) -> float:
        """Return when the next day begins."""
        return self.start(now) + DAY_SECONDS


ALIBABA_DAY: Final = Day(8 * 60 * 60)
"""Alibaba Cloud resets URL, directory and prefetch quotas at 00:00:00 UTC+8 (its page "Quota management")."""


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month, UTC."""

    @property
    def words(self) -> str:
        """As in :class:`Window`."""
        return "a month"

    def start(self, now: float) -> int:
        """Return when the month began."""
        return int(_month(now).timestamp())

    def first(self, now: float) -> int:
        """Return the start: only the present month counts."""
        return self.start(now)

    def end(self, now: float) -> float:
        """Return when the next month begins."""
        began = _month(now)
        return began.replace(year=began.year + began.month // 12, month=began.month % 12 + 1).timestamp()


def _month(now: float) -> datetime:
    return datetime.fromtimestamp(math.floor(now), UTC).replace(day=1, hour=0, minute=0, second=0)


@dataclass(frozen=True, slots=True)
class Rolling:
    """
    The last so many days, up to now.

    It is counted by calendar days of an offset. The day that is ``days`` ago counts whole: what was spent in its last
    second leaves a window that the CDN counts by seconds only when that day ends.
    """

    days: int
    offset_seconds: int = 0

    def __post_init__(self) -> None:
        """Require a span."""
        if self.days < 1:
            raise ValueError(f"a rolling window of {self.days} days: give one day or more")

    @property
    def words(self) -> str:
        """As in :class:`Window`."""
        return "a rolling day" if self.days == 1 else f"{self.days} days"

    def start(self, now: float) -> int:
        """Return when the present day began."""
        return Day(self.offset_seconds).start(now)

    def first(self, now: float) -> int:
        """Return when the oldest day began of which something may count."""
        return self.start(now) - self.days * DAY_SECONDS

    def end(self, now: float) -> float:
        """Return when the oldest day leaves."""
        return self.start(now) + DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Total:
    """All that is ever spent, as of a prepaid package: nothing comes back by itself."""

    @property
    def words(self) -> str:
        """As in :class:`Window`."""
        return "in all"

    def start(self, now: float) -> int:
        """Return the epoch: there is one row."""
        del now
        return 0

    def first(self, now: float) -> int:
        """Return the start."""
        return self.start(now)

    def end(self, now: float) -> float:
        """Return that there is none."""
        del now
        return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """
    So many units within a window, spent by requests of one or several kinds.

    Kinds may share an allowance, and one kind may spend several: then a request takes its units of each, or is not
    sent. A kind that spends none is unlimited.
    """

    name: str
    """Unique within an account, and the same for good: the ledger is kept by it. Views show it."""
    limit: int
    """In units; assumed until a live limit is read, where the CDN reports one."""
    window: Window
    costs: Mapping[RefreshKind, int]
    """The units that one URL of each kind takes."""
    free: int | None = None
    """How many units of a window cost nothing; None: all of them."""
    unit_dollars: float = 0.0
    """The price of each unit beyond these."""

    def __post_init__(self) -> None:
        """Refuse what would let anything be spent without being counted."""
        if not self.name:
            raise ValueError("an allowance without a name")
        if self.limit < 0 or (self.free or 0) < 0 or not 0 <= self.unit_dollars < math.inf:
            raise ValueError(f"allowance {self.name}: limit, free units and price must not be negative")
        if not self.costs or min(self.costs.values()) < 1:
            raise ValueError(f"allowance {self.name}: give each of its kinds a cost of one unit or more")
        if self.unit_dollars and self.free is None:
            raise ValueError(f"allowance {self.name}: a price needs the number of free units, which may be 0")

    @property
    def is_paid(self) -> bool:
        """Whether units may cost money."""
        return self.free is not None and self.unit_dollars > 0

    def dollars(self, units: int) -> float:
        """Return what so many units of one window cost."""
        return 0.0 if self.free is None else max(0, units - self.free) * self.unit_dollars


def for_each_kind(limits: Mapping[RefreshKind, int], window: Window) -> tuple[Allowance, ...]:
    """Return an allowance of its own for each of these kinds, called as the kind: one unit for one URL."""
    return tuple(
        Allowance(name=kind.value, limit=limit, window=window, costs={kind: 1}) for kind, limit in limits.items()
    )


def costs_of(allowances: Iterable[Allowance], kind: RefreshKind) -> dict[str, int]:
    """Return the units that one URL of this kind takes, by the name of the allowance; empty: it is unlimited."""
    return {one.name: one.costs[kind] for one in allowances if kind in one.costs}


def length_days(window: Window, now: float) -> float:
    """Return how many days the present window has; infinite where it has no end."""
    return (window.end(now) - window.first(now)) / DAY_SECONDS


def is_reset_near(window: Window, now: float, guard_seconds: float, *, before_seconds: float | None = None) -> bool:
    """
    Return whether a unit that is spent now might be counted by the CDN in another row than here.

    The guard is as long behind a reset as before it, unless ``before_seconds`` are given.
    """
    before = guard_seconds if before_seconds is None else before_seconds
    return window.start(now - guard_seconds) != window.start(now + before)
