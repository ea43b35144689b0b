"""When to compare the tree with the index again: on request, merged and backed off, and on a schedule."""

from __future__ import annotations

import random

__all__ = ["LOSSES", "OVERFLOWED", "OVERRAN", "SCHEDULE", "START", "TOO_MANY", "UNWATCHED", "WAITING", "Rescans"]

START = "start"
SCHEDULE = ""
UNWATCHED = "not watched"
WAITING = "waiting for files that are gone"
"""Reasons of scans that are no answer to a loss."""

OVERFLOWED = "the kernel's event queue overflowed"
OVERRAN = "events came faster than they could be worked through"
TOO_MANY = "too many changes at once"
LOSSES = frozenset({OVERFLOWED, OVERRAN, TOO_MANY, SCHEDULE})
"""Reasons of scans whose every finding is something that events should have told, and did not."""

_FIRST_SECONDS = 0.5
"""Requests of one moment are merged."""
_LONGEST_SECONDS = 60.0
_CALM_SECONDS = 300.0


class Rescans:
    """The queue of wanted scans. Pure but for jitter: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self, *, interval_seconds: float, jitter: float, now: float) -> None:
        """Scan everything each ``interval_seconds`` (0: never), more or less by the share ``jitter``."""
        self._interval = interval_seconds
        self._jitter = jitter
        self._wanted: dict[str, str] = {}
        self._due = 0.0
        self._gap = _FIRST_SECONDS
        self._ended = now - _CALM_SECONDS
        self._scheduled = self._after(now)

    def _after(self, now: float) -> float:
        if not self._interval:
            return float("inf")
        return now + self._interval * random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - no secret

    def want(self, prefix: str, reason: str, now: float) -> None:
        """Ask for a scan of ``prefix`` and all below; one that lies within another wanted one adds nothing."""
        if any(prefix.startswith(wanted) for wanted in self._wanted):
            return
        if not self._wanted:
            self._due = max(now + _FIRST_SECONDS, self._ended + self._gap)
        self._wanted = {wanted: why for wanted, why in self._wanted.items() if not wanted.startswith(prefix)}
        self._wanted[prefix] = reason

    def next_due(self, now: float) -> float:
        """Return in how many seconds the next scan is due (infinity: never)."""
        return max(0.0, min(self._due if self._wanted else float("inf"), self._scheduled) - now)

    def take(self, now: float) -> tuple[str, str] | None:
        """Return the next scan that is due, as (prefix, reason); a wanted one before a scheduled one."""
        if self._wanted and now >= self._due:
            prefix = min(self._wanted, key=len)
            return prefix, self._wanted.pop(prefix)
        if now >= self._scheduled:
            return "", ""
        return None

    def ended(self, prefix: str, now: float, *, backs_off: bool) -> None:
        """Note the end of a scan; after one that ``backs_off`` the next waits longer, if they follow closely."""
        if backs_off:
            calm = now - self._ended > _CALM_SECONDS
            self._gap = _FIRST_SECONDS if calm else min(self._gap * 2, _LONGEST_SECONDS)
            self._ended = now
        if not prefix:
            self._scheduled = self._after(now)
