"""When a need is due."""

from __future__ import annotations

from listener.settings import CoalescerSettings

__all__ = ["due_at"]


def due_at(*, first: float, last: float, finished: bool, settings: CoalescerSettings) -> float:
    """
    Return when a need is due, in the seconds that ``first`` and ``last`` are given in.

    ``first`` is the first change of its window, ``last`` the newest: quiet time after the last,
    but no later than the cap after the first, so that what never rests is refreshed all the same.
    """
    if finished:
        return min(last + settings.quiet_seconds, first + settings.cap_seconds)
    return min(last + settings.unfinished_quiet_seconds, first + settings.unfinished_cap_seconds)
