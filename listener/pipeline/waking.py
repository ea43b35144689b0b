"""What wakes a stage: a change that somebody announced, a clock that was set, and at the latest the safety tick."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from listener.clock import Clock, ReportsSteps, SystemClock
from listener.kernel import clock_steps
from listener.store.attempts import Agenda

__all__ = ["TICK_SECONDS", "Horizon", "WakeUp", "followed_steps"]

TICK_SECONDS = 30.0
"""How often to look without being woken: a wake-up that was lost delays nothing for longer."""


class WakeUp:
    """Wakes every task that waits for it."""

    def __init__(self) -> None:
        """Start without any that waits."""
        self._event = asyncio.Event()
        self.count = 0
        """How often it was set; a task that was busy meanwhile compares it, to see whether it missed one."""

    def set(self) -> None:
        """Wake those that wait now."""
        self.count += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, most_seconds: float, *, since: int | None = None) -> bool:
        """
        Wait until it is set, or for so long; return whether it was set.

        Args:
            most_seconds: how long to wait.
            since: a :attr:`count`; where it was set after that, there is nothing to wait for.
        """
        if since is not None and since != self.count:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(most_seconds):
                await self._event.wait()
                return True
        return False


@contextmanager
def followed_steps(clock: Clock, stepped: Callable[[], None]) -> Iterator[None]:
    """Call ``stepped`` in the event loop whenever the clock was set; where that cannot be known, never."""
    with ExitStack() as ends:
        if isinstance(clock, ReportsSteps):
            ends.callback(clock.follow_steps(stepped))
        if isinstance(clock, SystemClock):
            ends.callback(_follow_machine(stepped))
        yield


def _follow_machine(stepped: Callable[[], None]) -> Callable[[], None]:
    loop = asyncio.get_running_loop()
    descriptor: int | None = None

    def end() -> None:
        nonlocal descriptor
        if descriptor is not None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            descriptor = None

    def begin() -> None:
        nonlocal descriptor
        with suppress(OSError):
            descriptor = clock_steps()
            loop.add_reader(descriptor, again)

    def again() -> None:
        end()
        begin()
        stepped()

    begin()
    return end


_RECENT_SECONDS = 5.0
"""The greatest age of a shared read: so much later than the tick a lost wake-up may be found."""


class Horizon:
    """What is due in the store, for stages that check without being woken; at the same time they share a read."""

    def __init__(self, read: Callable[[], Awaitable[Agenda]], clock: Clock) -> None:
        """Read nothing yet."""
        self._read = read
        self._clock = clock
        self._reading = asyncio.Lock()
        self._latest: tuple[float, Agenda] | None = None

    async def agenda(self, *, within_seconds: float = 0.0) -> Agenda:
        """Return what the store waits for, as it was at most so long ago."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            if self._latest is None or loop.time() - self._latest[0] > within_seconds:
                began = loop.time()
                self._latest = began, await self._read()
            return self._latest[1]

    async def is_attempt_due(self) -> bool:
        """Return whether an attempt is to be looked at."""
        agenda = await self.agenda(within_seconds=_RECENT_SECONDS)
        return agenda.attempt_due_at is not None and agenda.attempt_due_at <= self._clock.now()

    async def is_need_due(self, *, since_sequence: int) -> bool:
        """Return whether a need is due, or anything was recorded since this sequence."""
        agenda = await self.agenda(within_seconds=_RECENT_SECONDS)
        is_due = agenda.need_due_at is not None and agenda.need_due_at <= self._clock.now()
        return is_due or agenda.revision != since_sequence
