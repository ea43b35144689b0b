"""How long changes took to become fresh, from the attempts that ended."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from listener.clock import Clock
from listener.refresh import AttemptState, RefreshKind
from listener.store import Store
from listener.store.report import Ended

__all__ = ["BOUNDS_SECONDS", "Freshness", "Histogram", "PeriodFreshness"]

BOUNDS_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0, 86400.0)
"""Upper bounds of the histogram's buckets: a refresh itself takes five to six minutes."""
SPAN_SECONDS = {"hour": 3600.0, "day": 86400.0}
LATE_SECONDS = 120.0
"""An attempt's end may become readable so long after its time, on a stalled disk."""
REST_SECONDS = 1.0
MOST_KEPT = 100_000


class Histogram(NamedTuple):
    """A cumulative histogram as Prometheus defines it."""

    buckets: Sequence[int]
    """The count within each bound of :data:`BOUNDS_SECONDS`, and beyond the last."""
    sum_seconds: float


class PeriodFreshness(NamedTuple):
    """How long refreshes took in the last hour or day."""

    refreshes: int
    p50_seconds: float | None
    p99_seconds: float | None
    buckets: Sequence[int]


class Freshness:
    """
    Counts attempts that ended.

    The latency of an attempt is that of the *oldest* change that it covers: a directory refresh counts once.
    """

    def __init__(self, clock: Clock) -> None:
        """Count from now on; the first update reads the last day."""
        self._clock = clock
        self._started_at = clock.now()
        self._read_to: float | None = None
        self._seen: dict[int, float] = {}
        self._recent: list[tuple[float, float]] = []
        """Attempts of the last day: end and latency, by end."""
        self._updating = asyncio.Lock()
        self._updated_at = -math.inf
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        """Attempts that ended since the start, by target, kind and state."""
        self._histograms: dict[tuple[str, str], tuple[list[int], float]] = {}

    async def update(self, store: Store) -> None:
        """Read what ended since the last update; at most once a second, and one at a time."""
        async with self._updating:
            now = asyncio.get_running_loop().time()
            if now - self._updated_at < REST_SECONDS:
                return
            clock_now = self._clock.now()
            day_ago = clock_now - SPAN_SECONDS["day"]
            self._started_at = min(self._started_at, clock_now)  # the clock may have been ahead
            if self._read_to is not None:
                self._read_to = min(self._read_to, clock_now)
            since = day_ago if self._read_to is None else max(day_ago, self._read_to - LATE_SECONDS)
            for one in await store.ended(since=since):
                if one.id not in self._seen:
                    self._take(one)
            self._updated_at = now
            self._forget(day_ago)

    def _take(self, one: Ended) -> None:
        self._seen[one.id] = one.finished_at
        self._read_to = max(one.finished_at, self._read_to or 0.0)
        is_new = one.finished_at >= self._started_at
        if is_new:
            self.outcomes[one.target, one.kind, one.state] += 1
        if one.state != AttemptState.COMPLETE or one.latency_seconds is None or one.kind == RefreshKind.PREFETCH:
            return
        latency = max(0.0, one.latency_seconds)
        insort(self._recent, (one.finished_at, latency))
        if is_new:
            buckets, total = self._histograms.get((one.target, one.kind), ([0] * (len(BOUNDS_SECONDS) + 1), 0.0))
            buckets[bisect_left(BOUNDS_SECONDS, latency)] += 1
            self._histograms[one.target, one.kind] = buckets, total + latency

    def _forget(self, day_ago: float) -> None:
        del self._recent[: max(bisect_right(self._recent, (day_ago, math.inf)), len(self._recent) - MOST_KEPT)]
        if self._read_to is not None and len(self._seen) > MOST_KEPT // 50:
            keep_from = self._read_to - 2 * LATE_SECONDS
            self._seen = {id_: at for id_, at in self._seen.items() if at >= keep_from}

    def histograms(self) -> dict[tuple[str, str], Histogram]:
        """Return the histograms since the start by target and kind."""
        return {key: Histogram(tuple(buckets), total) for key, (buckets, total) in self._histograms.items()}

    def spans(self) -> dict[str, PeriodFreshness]:
        """Return the figures of the last hour and the last day."""
        now = self._clock.now()
        return {name: self._span(now - seconds) for name, seconds in SPAN_SECONDS.items()}

    def _span(self, since: float) -> PeriodFreshness:
        values = sorted(latency for _, latency in self._recent[bisect_left(self._recent, (since, -1.0)) :])
        buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        for value in values:
            buckets[bisect_left(BOUNDS_SECONDS, value)] += 1
        return PeriodFreshness(len(values), _quantile(values, 0.5), _quantile(values, 0.99), tuple(buckets))


def _quantile(values: Sequence[float], part: float) -> float | None:
    """Return the quantile of sorted values by nearest rank."""
    return values[math.ceil(part * len(values)) - 1] if values else None
