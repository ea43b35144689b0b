"""The target of this package, for caches that take only so many purges a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cdn_listener_example.http_cache import HttpCache
from listener.contracts import RateLeft
from listener.rates import Bucket
from listener.refresh import Priority, RefreshKind
from listener.targets.turns import Turns

__all__ = ["PacedCache"]

BURST_PURGES = 20
PURGES_PER_SECOND = 5


class PacedCache(HttpCache):
    """Caches that take twenty purges at once, and five more each second."""

    def __init__(self, name: str, settings: Any) -> None:
        """Begin with a full bucket."""
        super().__init__(name, settings)
        self._bucket = Bucket(BURST_PURGES, PURGES_PER_SECOND)
        self._turns = Turns()

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Wait until the caches take so many purges; what only a backfill requests lets all other requests go first."""
        await self._turns.take([(self._bucket, len(urls))], priority)

    def rates(self) -> Sequence[RateLeft]:
        """Return how many purges the caches take now."""
        left = self._bucket.left(time.monotonic())
        return [
            RateLeft("20 purges and 5 more a second", frozenset(self.limits), max(0.0, left), 1 / PURGES_PER_SECOND)
        ]
