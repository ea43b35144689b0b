"""How long changes took to become fresh: from the audit in the store, kept up to date by small reads."""

from __future__ import annotations

import asyncio
import functools
import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from listener.clock import Clock
from listener.refresh import AttemptState, RefreshKind
from listener.store import Store
from listener.store.overview import Ended, ended

__all__ = ["BOUNDS_SECONDS", "Freshness", "Span", "Spread"]

BOUNDS_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0, 86400.0)
"""Upper bounds of the histogram's buckets: a refresh itself takes five to six minutes."""
SPAN_SECONDS = {"hour": 3600.0, "day": 86400.0}
LATE_SECONDS = 120.0
"""An attempt's end may become readable so long after the time that is noted for it: a stalled disk."""
REST_SECONDS = 1.0
MOST_KEPT = 100_000


class Spread(NamedTuple):
    """A histogram that only grows, in Prometheus' sense."""

    buckets: Sequence[int]
    """How many were within each bound of :data:`BOUNDS_SECONDS`, and how many beyond the last."""
    sum_seconds: float


class Span(NamedTuple):
    """How fresh the refreshes of the last hour or day made things."""

    refreshes: int
    p50_seconds: float | None
    p99_seconds: float | None
    buckets: Sequence[int]


class Freshness:
    """
    Follows attempts to their end.

    The latency of an attempt is that of the *oldest* change which it covered: a directory refresh counts once.
    """

    def __init__(self, clock: Clock) -> None:
        """Count from now on; the last day is read with the first look."""
        self._clock = clock
        self._started_at = clock.now()
        self._read_to: float | None = None
        self._seen: dict[int, float] = {}
        self._recent: list[tuple[float, float]] = []
        """Of the last day: end and latency, by end."""
        self._looking = asyncio.Lock()
        self._looked_at = -math.inf
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        """Attempts that ended since the start, by target, kind and state."""
        self._spreads: dict[tuple[str, str], tuple[list[int], float]] = {}

    async def look(self, store: Store) -> None:
        """Read what ended since the last look; at most once a second, and never twice at a time."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._looked_at < REST_SECONDS:
                return
            clock_now = self._clock.now()
            day_ago = clock_now - SPAN_SECONDS["day"]
            self._started_at = min(self._started_at, clock_now)  # a clock that was ahead must not hide what comes
            if self._read_to is not None:
                self._read_to = min(self._read_to, clock_now)
            since = day_ago if self._read_to is None else max(day_ago, self._read_to - LATE_SECONDS)
            for one in await store.read(functools.partial(ended, since=since)):
                if one.id not in self._seen:
                    self._take(one)
            self._looked_at = now
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
            buckets, total = self._spreads.get((one.target, one.kind), ([0] * (len(BOUNDS_SECONDS) + 1), 0.0))
            buckets[bisect_left(BOUNDS_SECONDS, latency)] += 1
            self._spreads[one.target, one.kind] = buckets, total + latency

    def _forget(self, day_ago: float) -> None:
        del self._recent[: max(bisect_right(self._recent, (day_ago, math.inf)), len(self._recent) - MOST_KEPT)]
        if self._read_to is not None and len(self._seen) > MOST_KEPT // 50:
            keep_from = self._read_to - 2 * LATE_SECONDS
            self._seen = {id_: at for id_, at in self._seen.items() if at >= keep_from}

    def spreads(self) -> dict[tuple[str, str], Spread]:
        """Return the histograms since the start by target and kind."""
        return {key: Spread(tuple(buckets), total) for key, (buckets, total) in self._spreads.items()}

    def spans(self) -> dict[str, Span]:
        """Return what the last hour and the last day were like."""
        now = self._clock.now()
        return {name: self._span(now - seconds) for name, seconds in SPAN_SECONDS.items()}

    def _span(self, since: float) -> Span:
        values = sorted(latency for _, latency in self._recent[bisect_left(self._recent, (since, -1.0)) :])
        buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        for value in values:
            buckets[bisect_left(BOUNDS_SECONDS, value)] += 1
        return Span(len(values), _quantile(values, 0.5), _quantile(values, 0.99), tuple(buckets))


def _quantile(values: Sequence[float], part: float) -> float | None:
    """Return the smallest value that this part of them does not exceed."""
    return values[math.ceil(part * len(values)) - 1] if values else None
