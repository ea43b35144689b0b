"""A trace, replayed in virtual time under one policy."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

from bench.planning.traces import QUIET_SECONDS, Window
from bench.planning.world import World, median
from listener.allowances import DAY_SECONDS
from listener.allowances import Window as Span


class Policy(Protocol):
    """Decides what to refresh whenever a window closes, the day's tokens come back, or it asked to be woken."""

    def seen(self, at: float, changes: int) -> None:
        """Learn that so many paths became due."""
        ...

    def act(self, world: World, at: float) -> float | None:
        """Refresh what should be refreshed now; return when to be asked again by itself."""
        ...


DRAIN_DAYS = 60
"""How long after the last change a policy may take; what still waits then counts until then."""


def replay(windows: Sequence[Window], world: World, policy: Policy) -> dict[str, float]:
    """Replay all windows, and the days after them until nothing is stale."""
    clock, spent = _Clock(windows, world.window), 0.0
    ends = windows[-1].at + DRAIN_DAYS * DAY_SECONDS
    while (event := clock.next(waiting=world.stale_paths > 0)) is not None:
        at, window = event
        if at > ends:
            world.give_up(ends)
            break
        if clock.new_day(at):
            world.reset()
        if window is not None:
            world.change(at, window.changes)
            policy.seen(at, len(window.changes))
        if world.stale_paths:
            began = time.perf_counter()
            clock.wake = policy.act(world, at)
            spent += time.perf_counter() - began
    return result(world, spent)


def result(world: World, planning_seconds: float) -> dict[str, float]:
    """Return the figures of a finished replay."""
    return {
        "score": round(world.score, 3),
        "collateral": world.collateral,
        "stale_object_hours": round(world.stale_hours, 3),
        "late": world.late,
        "unsettled": world.unsettled,
        "file_units": world.units[0],
        "directory_units": world.units[1],
        "planning_seconds": round(planning_seconds, 3),
        "changes": sum(world.waits.values()),
        "at_once": world.waits[0.0],
        "median_wait_seconds": QUIET_SECONDS + median(world.waits),
    }


class _Clock:
    """The next of: a window closes, a day begins while something waits, a policy wants to be woken."""

    def __init__(self, windows: Sequence[Window], span: Span) -> None:
        self._windows = windows
        self._span = span
        self._next = 0
        self._now = -math.inf
        self._day: int | None = None
        self.wake: float | None = None

    def next(self, *, waiting: bool) -> tuple[float, Window | None] | None:
        window = self._windows[self._next] if self._next < len(self._windows) else None
        closes = window.at if window else math.inf
        wake = min(self.wake or math.inf, self._span.end(self._now)) if waiting else math.inf
        if wake < closes:
            self._now, self.wake = wake, None
            return wake, None
        if window is None:
            return None
        self._next += 1
        self._now, self.wake = closes, None
        return closes, window

    def new_day(self, at: float) -> bool:
        day = self._span.start(at)
        changed = day != self._day
        self._day = day
        return changed
