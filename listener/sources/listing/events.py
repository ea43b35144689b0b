"""A source of events and a listing of the same storage, as one source: a listing finds what no event reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from listener.contracts import (
    Check,
    Delivery,
    IndexView,
    NeedsCredentials,
    ProvidesSetup,
    Source,
    SourceHealth,
    SourceState,
)
from listener.sources.listing.settings import ListingSettings
from listener.sources.listing.source import ListingSource

__all__ = ["EventsWithReconcile"]

TELL_SECONDS: Final = 0.2
_WORST: Final = (
    SourceState.FAILED,
    SourceState.DEGRADED,
    SourceState.STARTING,
    SourceState.SCANNING,
    SourceState.STOPPED,
    SourceState.LISTENING,
)


class _NoSettings(BaseModel):
    """The two have theirs."""


class EventsWithReconcile:
    """See :class:`listener.contracts.Source`; ready once both are."""

    Settings: ClassVar[type[BaseModel]] = _NoSettings

    def __init__(self, events: Source, settings: ListingSettings) -> None:
        """Take the source of events, and what to list."""
        self.name = events.name
        self.roots: Sequence[str] = events.roots
        self.health = SourceHealth()
        self._events = events
        self._listing = ListingSource(events.name, settings, key=f"sources.{events.name}.listing")
        self.parts: Sequence[Source] = (self._events, self._listing)
        """What is judged by its progress, each by its own."""

    def confirm_deletions(self) -> None:
        """Take what is missing in the next listing for deleted, however much it is."""
        self._listing.confirm_deletions()

    def __getattr__(self, name: str) -> Any:
        """Offer what the source of events offers besides (see :class:`listener.contracts.ProvidesSetup`)."""
        if name == "setup" and isinstance(self._events, ProvidesSetup):
            return self._events.setup
        if name == "require_credentials" and isinstance(self._events, NeedsCredentials):
            return self._events.require_credentials
        raise AttributeError(name)

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """Yield what either of the two brings; raise what either of them raises."""
        queue: asyncio.Queue[Delivery | BaseException] = asyncio.Queue(1)
        lost, rescans = self.health.lost_events, self.health.rescans

        async def read(part: Source) -> None:
            deliveries = part.deliveries(index)
            try:
                async for delivery in deliveries:
                    await queue.put(delivery)
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                await queue.put(error)
            finally:
                if isinstance(deliveries, AsyncGenerator):  # it cleans up now, and not when it is collected
                    await deliveries.aclose()

        tasks = [asyncio.create_task(read(part), name=f"read {self.name}") for part in self.parts]
        tasks.append(asyncio.create_task(self._report(lost, rescans), name=f"health {self.name}"))
        try:
            while True:
                found = await queue.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.health.ready = False

    async def _report(self, lost: int, rescans: int) -> None:
        """Say of both what the worse of them says, for ever."""
        while True:
            self._join(lost, rescans)
            await asyncio.sleep(TELL_SECONDS)

    def _join(self, lost: int, rescans: int) -> None:
        parts = (self._events.health, self._listing.health)
        health = self.health
        health.state = min((part.state for part in parts), key=_WORST.index)
        health.ready = all(part.ready for part in parts)
        health.last_event_at = self._events.health.last_event_at
        health.lost_events = lost + sum(part.lost_events for part in parts)
        health.rescans = rescans + sum(part.rescans for part in parts)
        health.detail = " ".join(part.detail for part in parts if part.detail)
        health.figures = self._listing.health.figures | self._events.health.figures

    async def check(self) -> Sequence[Check]:
        """Probe both."""
        return [*await self._events.check(), *await self._listing.check()]
