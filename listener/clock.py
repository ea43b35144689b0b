"""Wall-clock time behind one small protocol, and the day by which CDN quotas are counted."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["QUOTA_DAY_SECONDS", "QUOTA_RESET_OFFSET_SECONDS", "Clock", "SystemClock", "window_end", "window_start"]

QUOTA_DAY_SECONDS = 24 * 60 * 60
QUOTA_RESET_OFFSET_SECONDS = 8 * 60 * 60
"""Alibaba Cloud resets URL, directory and prefetch quotas at 00:00:00 UTC+8 (its page "Quota management")."""


class Clock(Protocol):
    """A source of the current time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()


def window_start(now: float) -> int:
    """Return when the quota day that holds ``now`` began, in seconds since the epoch."""
    shifted = int(now) + QUOTA_RESET_OFFSET_SECONDS
    return shifted - shifted % QUOTA_DAY_SECONDS - QUOTA_RESET_OFFSET_SECONDS


def window_end(now: float) -> int:
    """Return when the quota day that holds ``now`` ends, in seconds since the epoch."""
    return window_start(now) + QUOTA_DAY_SECONDS
