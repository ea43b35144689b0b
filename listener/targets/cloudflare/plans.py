"""What each plan of Cloudflare allows, and the buckets that keep to it; no input or output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

__all__ = ["MOST_OPERATIONS", "PLANS", "Bucket", "Plan", "PlanName"]

PlanName = Literal["free", "pro", "business", "enterprise"]
MOST_OPERATIONS: Final = 100
"""Prefixes, hosts or tags in one request, on every plan."""


class Plan(NamedTuple):
    """The limits of a plan. All zones of an account that have this plan share them."""

    requests_per_second: float
    """Requests by prefix, host or tag, however many of these one names."""
    bucket_requests: int
    """How many of them may be made at once."""
    files_per_second: int
    """URLs of single files; as many may be sent at once."""
    batch_files: int
    """URLs in one request."""


PLANS: Final[Mapping[PlanName, Plan]] = {
    "free": Plan(5 / 60, 25, 800, 100),
    "pro": Plan(5, 25, 1_500, 100),
    "business": Plan(10, 50, 1_500, 100),
    "enterprise": Plan(50, 500, 3_000, 500),
}
"""The vendor's page on the limits of a purge, July 2026; older pages have other figures."""


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
