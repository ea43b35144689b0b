"""
Pending requests: their changes wait for the commit.

A request waits until the source's iterator takes it, in one delivery with all others that wait, and until the pipeline
has acknowledged that delivery. After ``commit_seconds`` it is answered with 503. Its changes may still be committed
later, which is harmless: the sender sends them again, and they merge.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from listener.change import Change
from listener.contracts import Delivery, SourceHealth, Unreadable

__all__ = ["PendingRequests"]

MOST_TAKEN: Final = 1_000
"""Requests in one delivery: beyond, the first of them would wait for the last."""


class _PendingRequest:
    __slots__ = ("changes", "done", "unreadable", "until")

    def __init__(
        self, changes: Sequence[Change], unreadable: Sequence[Unreadable], until: float, done: asyncio.Future[bool]
    ) -> None:
        self.changes = changes
        self.unreadable = unreadable
        self.until = until
        self.done = done


class PendingRequests:
    """
    Joins requests to deliveries, and acknowledgements to answers.

    While requests wait, one of them must be answered each minute, or the source is reported as stalled.
    """

    def __init__(self, *, commit_seconds: float, health: SourceHealth) -> None:
        """Be empty and open; no request waits longer than ``commit_seconds``."""
        self._commit_seconds = commit_seconds
        self._health = health
        self._arrived: deque[_PendingRequest] = deque()
        self._taken: deque[_PendingRequest] = deque()
        self._wake = asyncio.Event()
        self._waiting = 0
        self._is_open = True

    def __len__(self) -> int:
        """Return how many requests wait, taken or not."""
        return self._waiting

    async def durable(self, changes: Sequence[Change], unreadable: Sequence[Unreadable]) -> bool:
        """Wait until these are durable; return False where that took too long or the source ends."""
        if not self._is_open:
            return False
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._waiting:
            self._health.progressed(now)
        self._waiting += 1
        request = _PendingRequest(changes, unreadable, now + self._commit_seconds, loop.create_future())
        self._arrived.append(request)
        self._wake.set()
        try:
            return await request.done
        except asyncio.CancelledError:  # the client has gone
            self._left(1)
            raise

    async def take(self) -> Delivery:
        """Wait for requests; return one delivery with what they bring."""
        while not self._arrived:
            self._wake.clear()
            await self._wake.wait()
        taken = [self._arrived.popleft() for _ in range(min(MOST_TAKEN, len(self._arrived)))]
        self._taken.extend(taken)

        async def ack() -> None:
            self._answer(taken, durable=True)

        changes = [change for request in taken for change in request.changes]
        return Delivery(changes, ack, unreadable=[one for request in taken for one in request.unreadable])

    def sweep(self) -> None:
        """Answer the requests that have waited too long; both queues are in the order of their times."""
        now = asyncio.get_running_loop().time()
        for queue in (self._taken, self._arrived):
            while queue and (queue[0].done.done() or queue[0].until <= now):
                self._answer([queue.popleft()], durable=False)

    async def close(self) -> None:
        """Admit nothing more, answer what was not taken, and wait for the rest."""
        self._is_open = False
        self._answer(self._arrived, durable=False)
        self._arrived.clear()
        waiting = [request.done for request in self._taken if not request.done.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=self._commit_seconds)
        self._answer(self._taken, durable=False)
        self._taken.clear()

    def _answer(self, requests: Iterable[_PendingRequest], *, durable: bool) -> None:
        """Answer those of these requests that still wait."""
        answered = 0
        for request in requests:
            if not request.done.done():
                request.done.set_result(durable)
                answered += 1
        if answered:
            self._left(answered)

    def _left(self, count: int) -> None:
        """Report progress: so many requests wait no longer."""
        self._waiting -= count
        if self._waiting:
            self._health.progressed(asyncio.get_running_loop().time())
        else:
            self._health.rests()
