"""The listing source: compares a storage with the index on a schedule, alone or with a source of events."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import islice
from typing import Any, ClassVar, Final

import structlog
from pydantic import BaseModel

from listener.change import Change
from listener.contracts import (
    HELD_DELETIONS,
    Check,
    CheckState,
    Delivery,
    IndexView,
    NeedsCredentials,
    ProvidesSetup,
    Source,
    SourceHealth,
    SourceState,
)
from listener.errors import ListenerError, StoreError
from listener.sources.filesystem import FilesystemSettings
from listener.sources.listing.bucket import BucketListing
from listener.sources.listing.comparing import PORTION_KEYS, Comparison
from listener.sources.listing.listing import Listing, watched
from listener.sources.listing.settings import ListingSettings
from listener.sources.listing.tree import TreeListing

__all__ = ["EventsWithReconcile", "ListingSource", "listing_of"]

log = structlog.get_logger()

FIRST_RETRY_SECONDS: Final = 5.0
MOST_RETRY_SECONDS: Final = 900.0
DELIVERIES_AHEAD: Final = 4
"""Deliveries that may wait for their commit: a listing of ten million keys must not pile up in memory."""

_WORST: Final = (
    SourceState.FAILED,
    SourceState.DEGRADED,
    SourceState.STARTING,
    SourceState.SCANNING,
    SourceState.STOPPED,
    SourceState.LISTENING,
)


def listing_of(name: str, settings: ListingSettings, *, prefix: str = "", key: str = "") -> Listing:
    """Return the listing that settings describe; ``key`` is where they stand, for messages."""
    place = settings.place
    if place.scheme == "file":
        return TreeListing(name, FilesystemSettings.model_validate({"path": place.key}), prefix=prefix)
    return BucketListing(name, settings, prefix=prefix, name=key)


class ListingSource:
    """See :class:`listener.contracts.Source`; its only root has its own name, keys are those of the objects."""

    Settings: ClassVar[type[BaseModel]] = ListingSettings

    def __init__(self, name: str, settings: ListingSettings, *, key: str = "") -> None:
        """Keep the settings (which stand under ``key``); touch nothing."""
        self.name = name
        self.roots: Sequence[str] = (name,)
        self.health = SourceHealth()
        self._settings = settings
        self._key = key or f"sources.{name}"
        self._confirmed = False
        self._wake = asyncio.Event()
        self._acked = asyncio.Condition()
        self._open = 0

    def confirm_deletions(self) -> None:
        """Take what is missing in the next listing for deleted, however much it is, and list at once."""
        self._confirmed = True
        self._wake.set()

    def rescan(self, reason: str) -> None:
        """List at once, or once more after the listing under way."""
        log.info("listing.requested", source=self.name, reason=reason)
        self._wake.set()

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """Yield what differs from the index, at each interval, for ever; the first listing of all seeds it."""
        retry = FIRST_RETRY_SECONDS
        try:
            while True:
                self._wake.clear()
                try:
                    async with aclosing(self._once(index)) as found:
                        async for delivery in found:
                            yield delivery
                    await self._all_acked()
                    retry, wait = FIRST_RETRY_SECONDS, self._interval()
                except StoreError:
                    raise
                except ListenerError as error:
                    self._report_failure(error, retry)
                    retry, wait = min(MOST_RETRY_SECONDS, 2 * retry), retry
                if wait is None:
                    await self._wake.wait()
                    continue
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            self.health.ready = False
            self.health.state = SourceState.STOPPED
            self.health.rests()

    def _interval(self) -> float | None:
        seconds, jitter = self._settings.interval_seconds, self._settings.jitter
        return seconds * random.uniform(1 - jitter, 1 + jitter) if seconds else None  # noqa: S311 - no secret

    def _report_failure(self, error: ListenerError, retry: float) -> None:
        log.error("listing.receive_failed", source=self.name, error=str(error), hint=error.hint, retry_seconds=retry)
        self.health.state = SourceState.DEGRADED
        self.health.detail = f"{error} {error.hint}".strip()

    # -- one listing ---------------------------------------------------------------------------------

    async def _once(self, index: IndexView) -> AsyncGenerator[Delivery, None]:
        began = time.monotonic()
        self.health.state = SourceState.SCANNING
        seeded = await index.seeded(self.name)
        with closing(listing_of(self.name, self._settings, key=self._key)) as listing:
            changes = watched(listing.changes(), self.health, asyncio.get_running_loop().time)
            run = self._compare(listing, changes, index) if seeded else self._seed(changes, index)
            async with aclosing(run) as found:
                async for delivery in found:
                    async with self._acked:
                        await self._acked.wait_for(lambda: self._open < DELIVERIES_AHEAD)
                        self._open += 1
                    yield delivery
        self.health.ready, self.health.state = True, SourceState.LISTENING
        self.health.figures["last_listing_seconds"] = round(time.monotonic() - began, 3)
        self.health.figures["last_listing_at"] = round(time.time(), 3)
        self.health.changed()

    async def _seed(self, changes: Iterator[Change], index: IndexView) -> AsyncGenerator[Delivery, None]:
        count = 0
        while portion := await asyncio.to_thread(_portion, changes):
            count += len(portion)
            self.health.figures["listed_keys"] = count
            self.health.changed()
            yield Delivery(portion, self._ack, seed=True)
        await self._all_acked()
        await index.mark_seeded(self.name)
        self.health.detail = ""

    async def _compare(
        self, listing: Listing, changes: Iterator[Change], index: IndexView
    ) -> AsyncGenerator[Delivery, None]:
        sequence = await index.sequence()
        with closing(Comparison(listing, index)) as comparison:
            async for found in comparison.findings(changes):
                if found:
                    yield Delivery(found, self._ack, scan_sequence=sequence)
            drift = comparison.drift
            refusal = drift.refusal(share=self._settings.max_delete_share, minimum=self._settings.min_delete_count)
            if refusal and not self._confirmed:
                self.health.detail = (
                    f"{refusal}: nothing is taken for deleted; if it is, run"
                    f" `cdn-listener confirm-deletions {self.name}`"
                )
                self.health.figures[HELD_DELETIONS] = drift.gone
                log.error("listing.deletions_held", source=self.name, reason=refusal)
            else:
                self.health.detail, self._confirmed = "", False
                self.health.figures[HELD_DELETIONS] = 0
                for gone in comparison.deletions():
                    yield Delivery(gone, self._ack, scan_sequence=sequence)
        self.health.rescans += 1
        self.health.figures |= {
            "listed_keys": drift.listed,
            "drift_changed": drift.changed,
            "drift_unknown": drift.unknown,
            "drift_gone": drift.gone,
        }
        log.info("listing.compared", source=self.name, listed=drift.listed, drift=drift.found, gone=drift.gone)

    async def _ack(self) -> None:
        async with self._acked:
            self._open -= 1
            self._acked.notify_all()

    async def _all_acked(self) -> None:
        async with self._acked:
            await self._acked.wait_for(lambda: not self._open)

    async def check(self) -> Sequence[Check]:
        """List the first page, changing nothing."""
        try:
            with closing(listing_of(self.name, self._settings, key=self._key)) as listing:
                first = await asyncio.to_thread(lambda: next(listing.changes(), None))
        except ListenerError as error:
            return [Check(self._key, CheckState.FAILED, str(error).removeprefix(f"{self._key}: "), error.hint)]
        if first is None:
            what = f"{listing.what} can be listed, and holds nothing"
            return [Check(self._key, CheckState.WARNING, what, "check the bucket and the prefix")]
        return [Check(self._key, CheckState.OK, f"{listing.what} can be listed")]


def _portion(changes: Iterator[Change]) -> list[Change]:
    return list(islice(changes, PORTION_KEYS))


def _nothing() -> None:
    """Do nothing."""


class EventsWithReconcile:
    """See :class:`listener.contracts.Source`; ready once both are."""

    Settings: ClassVar[type[BaseModel]] = BaseModel

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
        for part in self.parts:
            part.health.announce_to(lambda: self._join(lost, rescans))
        self._join(lost, rescans)
        try:
            while True:
                found = await queue.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            for part in self.parts:  # from here on the pipeline reports on this source
                part.health.announce_to(_nothing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.health.ready = False

    def _join(self, lost: int, rescans: int) -> None:
        """Say of both what the worse of them says."""
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
