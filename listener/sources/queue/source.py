"""The Source contract for a queue, on top of the reader."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Generic, TypeVar

from listener.clock import Clock, SystemClock
from listener.contracts import Delivery, IndexView, SourceBase, SourceState
from listener.sources.queue.health import HealthReporter
from listener.sources.queue.reader import QueueReader
from listener.sources.queue.settings import QueueSettings
from listener.sources.queue.transport import Transport

__all__ = ["QueueSource"]

S = TypeVar("S", bound=QueueSettings)


class QueueSource(SourceBase, ABC, Generic[S]):
    """Part of :class:`listener.contracts.Source`; its only root has its own name, keys are those of the objects."""

    settings: S

    def __init__(self, name: str, settings: S, *, clock: Clock | None = None) -> None:
        """Keep the settings; open nothing."""
        super().__init__(name, settings)
        self._clock = clock or SystemClock()

    @abstractmethod
    def transport(self) -> Transport:
        """Return a new transport to the queue; the caller closes it."""

    async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
        """Yield deliveries for ever. Failed calls appear in ``health`` and are retried with back-off."""
        health = HealthReporter(self.name, self.health, self._clock)
        reader = QueueReader(self.name, self.settings, self.transport(), health)
        try:
            async with aclosing(reader.run()) as deliveries:
                async for delivery in deliveries:
                    yield delivery
        except BaseException as error:
            ended = isinstance(error, asyncio.CancelledError | GeneratorExit)
            self.health.state = SourceState.STOPPED if ended else SourceState.FAILED
            raise
        finally:
            self.health.ready = False
