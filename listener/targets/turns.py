"""Who may send next, within rate limits that refill evenly."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from listener.rates import Bucket
from listener.refresh import Priority

__all__ = ["Turns"]

BACKFILL_PART: Final = 0.75
"""Of a bucket a backfill takes so much at most: the rest is there for what changes now."""
SHORTEST_SLEEP_SECONDS: Final = 0.001
BEHIND_SECONDS: Final = 0.1
"""How often a backfill looks whether nothing live waits any more."""

Amounts = Sequence[tuple[Bucket, float]]


class Turns:
    """The queue of requests before one or several buckets: first come first served, a backfill last."""

    def __init__(self) -> None:
        """Begin without anybody waiting."""
        self._lock = asyncio.Lock()

    async def take(self, amounts: Amounts, priority: Priority) -> None:
        """Wait until each bucket holds its amount, and take them."""
        now = asyncio.get_running_loop().time
        if priority is Priority.LIVE:
            async with self._lock:
                while (wait := _wait_seconds(amounts, now())) > 0:
                    await asyncio.sleep(max(wait, SHORTEST_SLEEP_SECONDS))
                _take(amounts, now())
            return
        # Never holding the lock while waiting: whoever comes meanwhile goes first.
        while self._lock.locked() or (wait := _wait_seconds(amounts, now(), part=BACKFILL_PART)) > 0:
            await asyncio.sleep(BEHIND_SECONDS if self._lock.locked() else max(wait, SHORTEST_SLEEP_SECONDS))
        _take(amounts, now())


def _wait_seconds(amounts: Amounts, now: float, *, part: float = 1.0) -> float:
    return max(bucket.wait_seconds(amount, now, part=part) for bucket, amount in amounts)


def _take(amounts: Amounts, now: float) -> None:
    for bucket, amount in amounts:
        bucket.take(amount, now)
