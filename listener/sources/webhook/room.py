"""
The waiting room: requests whose changes wait for their commit.

A request is let in, waits until the source's iterator takes it along with whoever else has come, and is
told once the pipeline has acknowledged that delivery. Who waits too long is told so; a request that
was not taken by then is forgotten, one that was may still be committed later, which does no harm:
its sender delivers it again, and the changes merge.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from listener.change import Change
from listener.contracts import Delivery, Unreadable

__all__ = ["WaitingRoom"]

MOST_TAKEN: Final = 1_000
"""Requests in one delivery: beyond, the first of them would wait for the last."""


class _Request:
    __slots__ = ("changes", "done", "unreadable", "until")

    def __init__(
        self, changes: Sequence[Change], unreadable: Sequence[Unreadable], until: float, done: asyncio.Future[bool]
    ) -> None:
        self.changes = changes
        self.unreadable = unreadable
        self.until = until
        self.done = done

    def tell(self, durable: bool) -> None:
        if not self.done.done():
            self.done.set_result(durable)


class WaitingRoom:
    """Joins requests to deliveries, and acknowledgements to answers."""

    def __init__(self, *, commit_seconds: float) -> None:
        """Be empty and open; no request waits for longer than this."""
        self._commit_seconds = commit_seconds
        self._here: deque[_Request] = deque()
        self._taken: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._open = True

    def __len__(self) -> int:
        """Return how many requests wait, taken or not."""
        return len(self._here) + sum(1 for request in self._taken if not request.done.done())

    async def durable(self, changes: Sequence[Change], unreadable: Sequence[Unreadable]) -> bool:
        """Wait until these are durable; return False where that took too long or nobody takes them any more."""
        if not self._open:
            return False
        loop = asyncio.get_running_loop()
        request = _Request(changes, unreadable, loop.time() + self._commit_seconds, loop.create_future())
        self._here.append(request)
        self._arrived.set()
        return await request.done

    async def take(self) -> Delivery:
        """Wait for requests; return what they bring."""
        while not self._here:
            self._arrived.clear()
            await self._arrived.wait()
        taken = [self._here.popleft() for _ in range(min(MOST_TAKEN, len(self._here)))]
        self._taken.extend(taken)

        async def ack() -> None:
            for request in taken:
                request.tell(durable=True)

        changes = [change for request in taken for change in request.changes]
        return Delivery(changes, ack, unreadable=[one for request in taken for one in request.unreadable])

    def sweep(self) -> None:
        """Tell those who have waited too long; both rows are in the order of their times."""
        now = asyncio.get_running_loop().time()
        for row in (self._taken, self._here):
            while row and (row[0].done.done() or row[0].until <= now):
                row.popleft().tell(durable=False)

    async def close(self) -> None:
        """Let nobody in any more, tell those whom nobody took, and wait for the others."""
        self._open = False
        while self._here:
            self._here.popleft().tell(durable=False)
        waiting = [request.done for request in self._taken if not request.done.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=self._commit_seconds)
        while self._taken:
            self._taken.popleft().tell(durable=False)
