"""The sqs source: events of S3 that come by a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import ClassVar

from pydantic import BaseModel

from listener.clock import Clock, SystemClock
from listener.contracts import Check, Delivery, IndexView, SourceHealth, SourceState
from listener.sources.sqs.boto import BotoTransport
from listener.sources.sqs.doctor import examine
from listener.sources.sqs.guide import guide
from listener.sources.sqs.native import NativeTransport
from listener.sources.sqs.session import Session
from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.telling import Telling
from listener.sources.sqs.transport import Transport

__all__ = ["SqsSource"]


class SqsSource:
    """See :class:`listener.contracts.Source`; its only root has its own name, keys are the objects'."""

    Settings: ClassVar[type[BaseModel]] = SqsSettings

    def __init__(self, name: str, settings: SqsSettings, *, clock: Clock | None = None) -> None:
        """Keep the settings; touch nothing."""
        self.name = name
        self.roots: Sequence[str] = (name,)
        self.health = SourceHealth()
        self._settings = settings
        self._clock = clock or SystemClock()

    async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
        """Yield what comes, for ever: what is refused or cannot be reached is told in ``health``, and tried again."""
        telling = Telling(self.name, self.health, self._clock)
        session = Session(self.name, self._settings, self._transport(), telling)
        try:
            async with aclosing(session.run()) as deliveries:
                async for delivery in deliveries:
                    yield delivery
        except BaseException as error:
            ended = isinstance(error, asyncio.CancelledError | GeneratorExit)
            self.health.state = SourceState.STOPPED if ended else SourceState.FAILED
            raise
        finally:
            self.health.ready = False

    def _transport(self) -> Transport:
        return (
            NativeTransport(self._settings) if self._settings.transport == "aiohttp" else BotoTransport(self._settings)
        )

    async def check(self) -> Sequence[Check]:
        """Look at the queue, who may send to it, where its dead letters go, and what the buckets tell it."""
        return await asyncio.to_thread(lambda: list(examine(self.name, self._settings, self._clock.now)))

    def setup(self) -> str:
        """Return the queue policy, the IAM policy, the bucket notifications, and the commands that set them."""
        return guide(self._settings.address, self._settings.buckets)
