"""What wakes a stage: a change that somebody announced, a clock that was set, and at the latest the safety tick."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from listener.clock import Clock, ReportsSteps, SystemClock
from listener.kernel import clock_steps

__all__ = ["TICK_SECONDS", "WakeUp", "followed_steps"]

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

    async def wait(self, most_seconds: float | None, *, since: int | None = None) -> bool:
        """
        Wait until it is set, or for so long; return whether it was set.

        Args:
            most_seconds: how long to wait; None: for ever.
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
