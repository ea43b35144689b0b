"""What is known of arrivals, by the hour of the day, and how much to expect of the rest of it."""

from __future__ import annotations

import math
from typing import NamedTuple

from listener.planner.constants import (
    ARRIVAL_SECONDS,
    HISTORY_DAYS,
    PRESENT_HOURS,
    PRESENT_WEIGHT,
    PRIOR_ARRIVALS_PER_HOUR,
    PRIOR_OBJECTS_PER_ARRIVAL,
)

__all__ = ["Arrivals"]

_DAY_SECONDS = 86_400.0
_HOUR_SECONDS = 3_600.0
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

    def expected(self, now: float, hours: float) -> float:
        """
        Return how many needs are expected to become due within the next hours; at least one.

        The usual rate of arrivals (with one day of prior belief) is corrected by the present one as a
        gamma prior is by a count: :data:`~listener.planner.constants.PRESENT_WEIGHT` is its shape. Both are taken
        relative to how busy the hours in question usually are. Of all that, as much is believed as days are known
        against that one of prior belief: a first day, with its imports and trials, says little of the days to
        come, and tokens are not kept for fear of more of it.
        """
        faded = self.until(now)
        trust = faded.days / (faded.days + 1.0)
        usual = (faded.arrivals + 1.0) / (faded.days + 1.0)
        objects = (faded.objects + PRIOR_OBJECTS_PER_ARRIVAL) / (faded.arrivals + 1.0)
        past = faded.busyness(now - PRESENT_HOURS * _HOUR_SECONDS, now)
        rate = (PRESENT_WEIGHT + faded.present) / (PRESENT_WEIGHT / usual + _PRESENT_DAYS * past)
        rate *= faded.busyness(now, now + hours * _HOUR_SECONDS)
        a_day = trust * rate * objects + (1.0 - trust) * PRIOR_OBJECTS_PER_ARRIVAL
        return max(1.0, a_day * hours / 24.0)
