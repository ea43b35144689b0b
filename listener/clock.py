"""Time: the wall clock behind one protocol, and waits between attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

__all__ = [
    "Clock",
    "ReportsSteps",
    "SystemClock",
    "back_off_seconds",
]


class Clock(Protocol):
    """A source of the current time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...


@runtime_checkable
class ReportsSteps(Protocol):
    """A clock that reports when it is set."""

    def follow_steps(self, stepped: Callable[[], None]) -> Callable[[], None]:
        """Call ``stepped`` whenever the clock was set; return what ends that."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()


FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 60.0


def back_off_seconds(
    failures: int,
    *,
    first: float | None = None,
    longest: float = LONGEST_SECONDS,
    randomness: random.Random | None = None,
) -> float:
    """Return a random wait with full jitter: between 0 and a bound that doubles with each failure up to ``longest``."""
    bound = min(longest, (FIRST_SECONDS if first is None else first) * 2.0 ** min(failures, 32))
    return (randomness or random).uniform(0, bound)
