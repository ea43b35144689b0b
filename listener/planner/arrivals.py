"""What is known of arrivals, in six numbers, and how much to expect of the rest of the day."""

from __future__ import annotations

import math
from typing import NamedTuple

from listener.planner.constants import (
    ARRIVAL_SECONDS,
    HISTORY_DAYS,
    PRESENT_HOURS,
    PRESENT_WEIGHT,
    PRIOR_OBJECTS_PER_ARRIVAL,
)

__all__ = ["Arrivals"]

_DAY_SECONDS = 86_400.0
_PRESENT_DAYS = PRESENT_HOURS / 24.0


class Arrivals(NamedTuple):
    """
    A memory of what became due, fading exponentially; six numbers that can be made anew from a history.

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
        )

    def seen(self, now: float, objects: int) -> Arrivals:
        """Return the memory with this many needs having become due at ``now``."""
        faded = self.until(now)
        if self.began is not None and 0 <= now - self.began < ARRIVAL_SECONDS:
            return faded._replace(objects=faded.objects + objects)
        return faded._replace(
            arrivals=faded.arrivals + 1.0, objects=faded.objects + objects, present=faded.present + 1.0, began=now
        )

    def expected(self, now: float, hours: float) -> float:
        """
        Return how many needs are expected to become due within the next hours; at least one.

        The usual rate of arrivals (with one day of prior belief) is corrected by the present one as a
        gamma prior is by a count: :data:`~listener.planner.constants.PRESENT_WEIGHT` is its shape. Of all that, as
        much is believed as days are known against that one of prior belief: a first day, with its imports and
        trials, says little of the days to come, and tokens are not kept for fear of more of it.
        """
        faded = self.until(now)
        trust = faded.days / (faded.days + 1.0)
        usual = (faded.arrivals + 1.0) / (faded.days + 1.0)
        objects = (faded.objects + PRIOR_OBJECTS_PER_ARRIVAL) / (faded.arrivals + 1.0)
        rate = (PRESENT_WEIGHT + faded.present) / (PRESENT_WEIGHT / usual + _PRESENT_DAYS)
        a_day = trust * rate * objects + (1.0 - trust) * PRIOR_OBJECTS_PER_ARRIVAL
        return max(1.0, a_day * hours / 24.0)
