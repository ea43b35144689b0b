"""A clock that tests move."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["MovableClock"]


class MovableClock:
    """The machine's clock, moved on by a test; reports that as the kernel does."""

    def __init__(self, ahead: float = 0.0) -> None:
        """Start so many seconds ahead of the machine's time."""
        self._followers: list[Callable[[], None]] = []
        self._ahead = ahead

    @property
    def ahead(self) -> float:
        """By how much it is ahead of the machine's, in seconds."""
        return self._ahead

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        self._ahead = seconds
        for stepped in self._followers:
            stepped()

    def follow_steps(self, stepped: Callable[[], None]) -> Callable[[], None]:
        """Call ``stepped`` whenever it is moved."""
        self._followers.append(stepped)
        return lambda: self._followers.remove(stepped)

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self._ahead
