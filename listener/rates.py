"""Rate limits that refill evenly; pure."""

from __future__ import annotations

__all__ = ["Bucket"]


class Bucket:
    """Tokens that flow in evenly, up to a capacity. Time is an argument, in seconds of any one clock."""

    def __init__(self, capacity: float, per_second: float) -> None:
        """Begin full."""
        self.capacity = capacity
        self._per_second = per_second
        self._left = capacity
        self._at = 0.0

    def left(self, now: float) -> float:
        """Return how many tokens are there; changes nothing, so that any thread may call it."""
        return min(self.capacity, self._left + max(0.0, now - self._at) * self._per_second)

    def wait_seconds(self, amount: float, now: float, *, part: float = 1.0) -> float:
        """
        Return how long until the amount may be taken; one above the capacity, once it is full.

        With ``part`` the rest of the capacity is left to others.
        """
        spared = self.capacity * (1 - part)
        lacking = min(amount + spared, self.capacity) - self.left(now)
        return lacking / self._per_second if lacking > 1e-9 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take the amount, though it may not be there."""
        self._left, self._at = self.left(now) - amount, max(now, self._at)

    def give_back(self, amount: float) -> None:
        """Put back what was taken for a request that was not accepted."""
        self._left = min(self.capacity, self._left + amount)

    def drain(self, now: float) -> None:
        """Take all that is there: the CDN says that none is."""
        self._left, self._at = min(self.left(now), 0.0), max(now, self._at)
