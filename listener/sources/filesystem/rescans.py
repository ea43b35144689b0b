"""When to compare the tree with the index again: on request, merged and spaced out, and on a schedule."""

from __future__ import annotations

import random
from typing import NamedTuple

__all__ = [
    "LOSSES",
    "MOUNTED",
    "OPENED",
    "OVERFLOWED",
    "OVERRAN",
    "REPLACED",
    "SCHEDULE",
    "START",
    "TOO_MANY",
    "UNWATCHED",
    "WAITING",
    "Rescans",
    "Wanted",
]

START = "start"
SCHEDULE = ""
UNWATCHED = "not watched"
WAITING = "waiting for files that are gone"
"""Reasons of scans that are no answer to a loss."""

MOUNTED = "a file system was mounted or unmounted"
OPENED = "others may enter a directory than might before"
REPLACED = "a directory was replaced, or went and came back"
OVERFLOWED = "the kernel's event queue overflowed"
OVERRAN = "events came faster than they could be worked through"
TOO_MANY = "too many changes at once"
LOSSES = frozenset({OVERFLOWED, OVERRAN, TOO_MANY, SCHEDULE})
"""Reasons of scans whose every finding is something that events should have reported, and did not."""

_NO_CHANGES = (UNWATCHED, WAITING)
"""Reasons that say nothing of a change."""
_FIRST_SECONDS = 0.5
"""Requests of one moment are merged."""
_LONGEST_SECONDS = 60.0
_CALM_SECONDS = 300.0
_REST_FACTOR = 4
"""How many times as long as a prompt scan took to rest before the next one of the same directory."""
_MOST_RESTING = 256


class Wanted(NamedTuple):
    """A scan that was asked for."""

    prefix: str
    reason: str
    since: float
    """When it was first asked for."""
    due: float
    prompt: bool
    """Whether something that is known asked for it (a link that was switched, a mount), rather than a loss."""


def _covers(wide: Wanted, narrow: Wanted) -> bool:
    """Return whether one scan does what another is asked for, no later, and counts as a change where that one does."""
    counts = wide.reason not in _NO_CHANGES or narrow.reason in _NO_CHANGES
    return counts and narrow.prefix.startswith(wide.prefix) and wide.due <= narrow.due


class Rescans:
    """
    The queue of wanted scans. Pure but for jitter: ``now`` is any clock that only goes forward, in seconds.

    Scans after losses back off, all of them together, from half a second to a minute while they follow
    closely. Prompt ones do not: each directory only rests four times as long as its last scan took.
    """

    def __init__(self, *, interval_seconds: float, jitter: float, now: float) -> None:
        """Scan everything each ``interval_seconds`` (0: never), more or less by the share ``jitter``."""
        self._interval = interval_seconds
        self._jitter = jitter
        self._wanted: dict[str, Wanted] = {}
        self._running: Wanted | None = None
        self._gap = _FIRST_SECONDS
        self._ended = now - _CALM_SECONDS
        self._resting: dict[str, float] = {}
        """By directory, until when prompt scans of it rest."""
        self._scheduled = self._after(now)

    def _after(self, now: float) -> float:
        if not self._interval:
            return float("inf")
        return now + self._interval * random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - no secret

    def want(self, prefix: str, reason: str, now: float, *, prompt: bool = False) -> None:
        """Ask for a scan of ``prefix`` and all below; one that a wider scan does no later adds nothing."""
        prompt = prompt or reason == MOUNTED
        rested = self._resting.get(prefix, now) if prompt else self._ended + self._gap
        wanted = Wanted(prefix, reason, now, max(now + _FIRST_SECONDS, rested), prompt)
        if any(_covers(one, wanted) for one in self._wanted.values()):
            return
        absorbed = [one for one in self._wanted.values() if _covers(wanted, one)]
        for one in absorbed:
            del self._wanted[one.prefix]
        since = min((one.since for one in absorbed if one.reason not in _NO_CHANGES), default=now)
        self._wanted[prefix] = wanted._replace(since=since)

    def next_due(self, now: float) -> float:
        """Return in how many seconds the next scan is due (infinity: never)."""
        dues = (one.due for one in self._wanted.values())
        return max(0.0, min(min(dues, default=float("inf")), self._scheduled) - now)

    def take(self, now: float) -> tuple[str, str] | None:
        """Return the next scan that is due, as (prefix, reason); a wanted one before a scheduled one."""
        due = [one for one in self._wanted.values() if one.due <= now]
        if due:
            self._running = min(due, key=lambda one: len(one.prefix))
            del self._wanted[self._running.prefix]
            return self._running.prefix, self._running.reason
        if now >= self._scheduled:
            return "", SCHEDULE
        return None

    def ended(self, prefix: str, now: float, *, took_seconds: float) -> None:
        """Note the end of a scan, of one that was taken or another."""
        ended, self._running = self._running, None
        if ended is not None and ended.prompt:
            self._rest(prefix, now, took_seconds)
        elif ended is not None:
            calm = now - self._ended > _CALM_SECONDS
            self._gap = _FIRST_SECONDS if calm else min(self._gap * 2, _LONGEST_SECONDS)
            self._ended = now
        if not prefix:
            self._scheduled = self._after(now)

    def _rest(self, prefix: str, now: float, took_seconds: float) -> None:
        if len(self._resting) >= _MOST_RESTING:
            self._resting = {each: until for each, until in self._resting.items() if until > now}
        if len(self._resting) < _MOST_RESTING:
            self._resting[prefix] = now + min(_REST_FACTOR * took_seconds, _LONGEST_SECONDS)

    def waiting(self) -> list[Wanted]:
        """Return the scans for known or possible changes that are not over yet, the oldest first."""
        running = [self._running] if self._running else []
        known = (one for one in (*running, *self._wanted.values()) if one.reason not in _NO_CHANGES)
        return sorted(known, key=lambda one: one.since)
