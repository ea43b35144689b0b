"""A pipeline in small: takes deliveries of a source, and acknowledges when the test says so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from listener.change import Change
from listener.contracts import Delivery, Unreadable
from listener.sources.mns import MnsSource

DEADLINE_SECONDS = 30.0


class Along:
    """What came so far."""

    def __init__(self, source: MnsSource, *, ack: bool = True) -> None:
        """Read this source; ``ack``: acknowledge each delivery at once."""
        self.source = source
        self.ack = ack
        self.deliveries: list[Delivery] = []

    async def read(self) -> None:
        """Take deliveries for ever."""
        async with contextlib.aclosing(self.source.deliveries(None)) as deliveries:  # type: ignore[arg-type, type-var]
            async for delivery in deliveries:
                self.deliveries.append(delivery)
                if self.ack:
                    await delivery.ack()

    @property
    def changes(self) -> list[Change]:
        """Every change, in the order in which it came."""
        return [change for delivery in self.deliveries for change in delivery.changes]

    @property
    def keys(self) -> list[str]:
        """The keys of all changes, sorted."""
        return sorted(change.key for change in self.changes)

    @property
    def unreadable(self) -> list[Unreadable]:
        """What could not be read."""
        return [one for delivery in self.deliveries for one in delivery.unreadable]

    def figure(self, name: str) -> float:
        """Return a figure of the source's health, 0 where there is none."""
        return self.source.health.figures.get(name, 0)


@asynccontextmanager
async def reading(source: MnsSource, *, ack: bool = True) -> AsyncIterator[Along]:
    """Read a source beside the test; a mistake in it fails the test."""
    along = Along(source, ack=ack)
    task = asyncio.create_task(along.read())
    try:
        yield along
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Any], *, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)
