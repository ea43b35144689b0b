"""Hours of the wall clock of a time zone, and when they end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from listener.settings import Hours

__all__ = ["LOOK_AHEAD_SECONDS", "closed_until"]

DAY_MINUTES = 24 * 60
LOOK_AHEAD_SECONDS = 48 * 3600.0
"""Spans that together fill the day never end: it is looked again then, instead of for ever."""


def closed_until(spans: Sequence[Hours], zone: str, now: float) -> float | None:
    """
    Return when the wall clock of the zone next shows a time outside all spans, in seconds since the epoch.

    None where it does now. What the clock shows decides, also where it is put on or back: a span that ends
    within an hour that is left out ends as that hour would have begun; one that ends within an hour that comes
    twice ends twice. Where the spans leave no minute of the day, a time two days ahead is returned.
    """
    place, at = ZoneInfo(zone), now
    while (end := _end(spans, datetime.fromtimestamp(at, place))) is not None:
        at = _turn(place, at, round(at + end.total_seconds()))
        if at - now > LOOK_AHEAD_SECONDS:
            break
    return at if at > now else None


def _end(spans: Sequence[Hours], local: datetime) -> timedelta | None:
    """Return how long the spans that hold this time go on by a clock that nobody touches; None outside of them."""
    minute = local.hour * 60 + local.minute
    left = [(span.to_minute - minute) % DAY_MINUTES or DAY_MINUTES for span in spans if span.holds(minute)]
    if not left:
        return None
    return timedelta(minutes=max(left), seconds=-local.second, microseconds=-local.microsecond)


def _turn(place: ZoneInfo, start: float, end: int) -> int:
    """Return the end, or the second before it from which on the clock is put on or back."""
    before, low, high = _offset(place, start), math.floor(start), end
    if _offset(place, end) == before:
        return end
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(place, middle) == before else (low, middle)
    return high


def _offset(place: ZoneInfo, at: float) -> timedelta | None:
    return datetime.fromtimestamp(at, place).utcoffset()
