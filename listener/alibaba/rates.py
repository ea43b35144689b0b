"""Windows that keep rate limits: so many in any span of so many seconds, counted by the event loop's clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from listener.refresh import Priority

__all__ = ["DomainWindows", "Window"]

MINUTE_SECONDS = 60.0
BACKFILL_PART = 0.75
"""Of a domain's minute a backfill takes so much at most: the rest is there for what changes now."""
SHORTEST_SLEEP_SECONDS = 0.001
"""A rounding error must not become a busy loop."""


class Window:
    """
    At most ``limit`` in *any* span of ``span_seconds``, which no fixed window of the CDN can exceed either.

    Waiters are served in the order in which they came. More than the limit at once is let through when
    nothing else is within the span: it can never fit better.
    """

    def __init__(self, limit: float, span_seconds: float) -> None:
        """Start with nothing taken. A limit below one becomes one in a longer span."""
        self.limit = max(limit, 1.0)
        self.span_seconds = span_seconds * self.limit / limit
        self.lock = asyncio.Lock()
        self.users = 0
        """How many hold on to this window: it must not be forgotten under them."""
        self._taken: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def wait_seconds(self, amount: float, now: float, *, part: float = 1.0) -> float:
        """Return how long, at ``now`` of the loop's clock, until the amount fits into that part; 0 when it does."""
        self._forget(now)
        excess = self._sum + amount - self.limit * part
        wait = 0.0
        for at, taken in self._taken:
            if excess <= 0:
                break
            wait, excess = at + self.span_seconds - now, excess - taken
        return wait

    def add(self, amount: float, now: float) -> None:
        """Count the amount as taken now."""
        self._taken.append((now, amount))
        self._sum += amount

    def give_back(self, amount: float) -> None:
        """Count the amount as not taken after all: the CDN did not accept what it was taken for."""
        while amount > 0 and self._taken:
            at, taken = self._taken.pop()
            self._sum -= taken
            if taken > amount:
                self.add(taken - amount, at)
            amount -= taken

    async def take(self, amount: float = 1.0) -> None:
        """Wait until the amount fits, and count it."""
        async with self.lock:
            await self.wait(amount)
            self.add(amount, asyncio.get_running_loop().time())

    async def wait(self, amount: float) -> None:
        """Wait until the amount fits; the caller holds the lock."""
        clock = asyncio.get_running_loop()
        while True:
            wait = self.wait_seconds(amount, clock.time())
            if wait <= 0:
                return
            await asyncio.sleep(max(wait, SHORTEST_SLEEP_SECONDS))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is counted and nobody uses it."""
        return not self._taken and not self.users

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0][0] + self.span_seconds <= now:
            self._sum -= self._taken.popleft()[1]


class DomainWindows:
    """A window a minute for each domain; one without use in the last minute is forgotten."""

    def __init__(self, limit: int) -> None:
        """Keep the limit a domain and minute."""
        self._limit = limit
        self._windows: dict[str, Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    async def take(self, amounts: Mapping[str, int], *, priority: Priority = Priority.LIVE) -> None:
        """
        Wait until the amounts of all these domains fit, and count them together.

        Those of a backfill let everything else go first, and fit only into :data:`BACKFILL_PART` of the limit.
        """
        self._forget_idle()
        # In one order, so that two batches never wait for each other.
        windows = [(self._window(name), amounts[name]) for name in sorted(amounts)]
        try:
            await (self._take_last(windows) if priority is not Priority.LIVE else self._take(windows))
        finally:
            for window, _ in windows:
                window.users -= 1

    def give_back(self, amounts: Mapping[str, int]) -> None:
        """Count these amounts as not taken after all."""
        for name, amount in amounts.items():
            if name in self._windows:
                self._windows[name].give_back(amount)

    def _window(self, name: str) -> Window:
        window = self._windows.setdefault(name, Window(self._limit, MINUTE_SECONDS))
        window.users += 1
        return window

    async def _take(self, windows: Sequence[tuple[Window, int]]) -> None:
        async with AsyncExitStack() as held:
            for window, _ in windows:
                await held.enter_async_context(window.lock)
            for window, amount in windows:
                await window.wait(amount)
            now = asyncio.get_running_loop().time()
            for window, amount in windows:
                window.add(amount, now)

    async def _take_last(self, windows: Sequence[tuple[Window, int]]) -> None:
        """Take without ever holding a lock while waiting: whoever comes meanwhile finds it free."""
        loop = asyncio.get_running_loop()
        while True:
            for window, _ in windows:
                while window.lock.locked():
                    async with window.lock:
                        pass
            now = loop.time()
            wait = max(window.wait_seconds(amount, now, part=BACKFILL_PART) for window, amount in windows)
            if wait <= 0 and not any(window.lock.locked() for window, _ in windows):
                break
            await asyncio.sleep(max(wait, SHORTEST_SLEEP_SECONDS))
        for window, amount in windows:
            window.add(amount, now)

    def _forget_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        for window in self._windows.values():
            window.wait_seconds(0, now)
        self._windows = {name: window for name, window in self._windows.items() if not window.is_idle}
