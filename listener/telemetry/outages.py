"""When to log a failure that lasts: at once, then at growing distances, and once at its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["FIRST_SECONDS", "MOST_SECONDS", "Outage"]

FIRST_SECONDS: Final = 60.0
"""Between the first two lines about a failure that does not change; each further distance is twice the one before."""
MOST_SECONDS: Final = 3600.0
MOST_REASONS: Final = 20
"""Different reasons of one outage that are logged at once: a server that comes up says several."""


class Outage:
    """What failed, as long as it does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without a failure; the clock gives seconds and never goes back."""
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._since: float | None = None
        self._reasons: set[str] = set()
        self._distance_seconds = FIRST_SECONDS
        self._next = 0.0

    def is_to_be_logged(self, reason: str) -> bool:
        """Note that it failed; return whether to log that: a new reason at once, the same at growing distances."""
        now = self._clock()
        if self._since is None:
            self._since = now
        if reason not in self._reasons and len(self._reasons) < MOST_REASONS:
            self._reasons.add(reason)
            self._next = max(self._next, now + self._distance_seconds)
            return True
        if now < self._next:
            return False
        self._distance_seconds = min(MOST_SECONDS, 2 * self._distance_seconds)
        self._next = now + self._distance_seconds
        return True

    def end(self) -> float | None:
        """Note that it works; return for how many seconds it had not, None where it had."""
        lasted = None if self._since is None else self._clock() - self._since
        self._forget()
        return lasted
