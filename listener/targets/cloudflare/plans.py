"""What each plan of Cloudflare allows; no input or output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

__all__ = ["MOST_OPERATIONS", "PLANS", "Plan", "PlanName"]

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
