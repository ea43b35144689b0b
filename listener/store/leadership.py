"""
Who may send for an account: one process at a time, in one *term*.

Of a state file the owner's lock decides, once for all accounts. Of a PostgreSQL store leases decide, account by account
(:mod:`listener.store.postgres.leases`): a term begins with a take-over, and every transaction of a leader proves first
that its term still holds.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["LEAST_LEFT_SECONDS", "Deadline"]

LEAST_LEFT_SECONDS: Final = 2.0
"""No request begins with less time left to the deadline, so that only a stopped machine leaves unknown outcomes."""


class Deadline:
    """
    Until when an instance may send, by its own clock.

    It ends a sixth of the lease before the database's: the time that a renewal took, and the step in which bytes are
    handed to the socket, fit in between. Times are seconds of a clock that goes on while the machine is suspended
    (``CLOCK_BOOTTIME``).
    """

    def __init__(self, lease_seconds: float) -> None:
        """Start as passed: nothing was renewed yet."""
        self._lasts_seconds = lease_seconds - lease_seconds / 6
        self.least_left_seconds = min(LEAST_LEFT_SECONDS, lease_seconds / 3)
        """With less left no request may begin."""
        self._until = -math.inf

    def renewed(self, asked_at: float) -> None:
        """Move it: a renewal succeeded that was sent at ``asked_at`` or later."""
        self._until = max(self._until, asked_at + self._lasts_seconds)

    def end(self) -> None:
        """Let it pass now: the lease is lost or was given back."""
        self._until = -math.inf

    def left_seconds(self, now: float) -> float:
        """Return for how long sending is allowed; not positive once the deadline has passed."""
        return self._until - now

    def may_begin(self, now: float) -> bool:
        """Return whether a request may begin."""
        return self.left_seconds(now) >= self.least_left_seconds
