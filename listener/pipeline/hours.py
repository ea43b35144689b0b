"""Hours of the day in which a site wants no directory refreshed: when its origin can bear no wave of fetches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from listener.settings import Hours

__all__ = ["closed_until"]


def closed_until(spans: Sequence[Hours], zone: str, now: float) -> float | None:
    """
    Return when the span that holds ``now`` ends, in seconds since the epoch; None outside all of them.

    Spans are by the wall clock of the zone, those over midnight included; one that a change to or from
    daylight saving time falls into is as much shorter or longer as that day is.
    """
    local = datetime.fromtimestamp(now, ZoneInfo(zone))
    minute = local.hour * 60 + local.minute
    ends = [_end(local, span, minute) for span in spans if span.holds(minute)]
    return max(ends, default=None)


def _end(local: datetime, span: Hours, minute: int) -> float:
    day = local.date() + timedelta(days=1 if span.to_minute <= minute else 0)
    hour, rest = divmod(span.to_minute, 60)
    return datetime(day.year, day.month, day.day, hour, rest, tzinfo=local.tzinfo).timestamp()
