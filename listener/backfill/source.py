"""What a backfill feeds the pipeline with: what is listed, or what differs; how far that is durable is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import closing
from enum import StrEnum
from itertools import islice
from typing import ClassVar, NamedTuple

from pydantic import BaseModel

from listener.change import Change
from listener.contracts import Check, Delivery, IndexView, SourceHealth, SourceState
from listener.errors import StoreError
from listener.refresh import Priority
from listener.sources.listing import Comparison, Drift, Listing
from listener.store import Store
from listener.store.controls import Progress

__all__ = ["ALONE", "Admission", "Admitted", "Feed", "Mode", "RepairFeed", "digest_for"]

SOURCE_NAME = "backfill"

PORTION_KEYS = 2_000
"""Keys in one delivery: what one commit takes."""
PORTIONS_AHEAD = 4
"""Deliveries that may wait for their commit: a listing of ten million keys must not pile up in memory."""

MAX_DELETE_SHARE = 0.5
MIN_DELETE_COUNT = 100
"""As a source's settings say by default: more missing keys than these are not believed without a word."""


class Mode(StrEnum):
    """What a backfill does with each key."""

    REFRESH = "refresh"
    """Its URLs are refreshed, as if it had changed."""
    PREFETCH = "prefetch"
    """Its URLs are fetched into the cache, after any refresh of them."""
    SEED = "seed"
    """The index learns it; nothing is sent."""
    AUDIT = "audit"
    """It is compared with the index; nothing is sent or written."""
    REPAIR = "repair"
    """It is compared with the index, and what differs is refreshed, as if it had changed just now."""


ALONE = frozenset({Mode.SEED, Mode.AUDIT, Mode.REPAIR})
"""Modes that cannot be combined."""


def digest_for(listing: Listing, modes: Collection[Mode]) -> str:
    """Return the name under which the progress of this listing in these modes is kept."""
    return f"{listing.digest()}-{'-'.join(sorted(modes))}"


class Admitted(NamedTuple):
    """What of a portion may go on now."""

    taken: int
    """How many of its changes, from the first."""
    changes: Sequence[Change]
    """What is to be made of these."""
    seeds: Sequence[Change]
    """What only the index is to learn."""
    after: str | None
    """The last key that need not be listed again; None: as before."""
    reason: str = ""
    """Why the rest waits for another run; empty where everything was taken."""


Admission = Callable[[Sequence[Change]], Awaitable[Admitted]]
"""
Decides how much of a portion may go on now; where not all may, the rest waits for another run.

An empty portion marks the end of the listing.
"""


def _priority(admission: Admission | None) -> Priority:
    return Priority.BACKFILL if admission is None else Priority.ADMITTED


class Feed:
    """
    See :class:`listener.contracts.Source`; ended once everything that it listed is durable.

    ``listed`` counts keys whose needs are durable, those of earlier runs included.
    """

    Settings: ClassVar[type[BaseModel]] = BaseModel

    def __init__(
        self,
        listing: Listing,
        store: Store,
        modes: Collection[Mode],
        *,
        begun: Progress | None = None,
        admission: Admission | None = None,
        then: Callable[[Sequence[Change]], Awaitable[None]] | None = None,
    ) -> None:
        """
        Keep what to list; touch nothing.

        Args:
            listing: what to go through.
            store: where to keep how far it got.
            modes: what becomes of the keys: changes, or only index rows; else only ``then`` gets them.
            begun: how far an earlier run got.
            admission: how much may go on now; everything without one.
            then: called with each portion once its changes are durable, before that is noted as progress.
        """
        self.name = SOURCE_NAME
        self.roots: Sequence[str] = (listing.root,)
        self.health = SourceHealth()
        self.listed = begun.listed if begun else 0
        self._listing = listing
        self._digest = digest_for(listing, modes)
        self._store = store
        self._after = begun.after if begun else ""
        self._record = Mode.REFRESH in modes
        self._seed = Mode.SEED in modes
        self._admission = admission
        self._then = then
        self.priority = _priority(admission)
        self.stopped = ""
        """Why it ended before the listing did; empty where it did not."""
        self._open = 0
        self._settled = asyncio.Condition()
        self._error: StoreError | None = None

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """
        Yield the listing in portions, and end once all of it is durable.

        May be iterated again after an error of the store: it goes on where progress was noted last.
        """
        del index
        await self._all_acked()
        self._error = None
        self.health.state = SourceState.SCANNING
        changes = self._listing.changes(self._after)
        while portion := await asyncio.to_thread(lambda: list(islice(changes, PORTION_KEYS))):
            async for delivery in self._parts(portion):
                yield delivery
            if self.stopped:
                break
        else:
            async for delivery in self._parts(()):
                yield delivery
        await self._all_acked()
        self._raise_error()
        await self._end()

    async def _parts(self, portion: Sequence[Change]) -> AsyncIterator[Delivery]:
        if self._admission is None:
            if portion:
                yield await self._delivery(portion, portion[-1].key, len(portion), seed=self._seed)
            return
        admitted = await self._admission(portion)
        self.stopped = admitted.reason
        if admitted.seeds:
            yield await self._delivery(admitted.seeds, None, 0, seed=True)
        if admitted.changes or admitted.after is not None:
            yield await self._delivery(admitted.changes, admitted.after, admitted.taken, seed=self._seed)

    async def _delivery(self, changes: Sequence[Change], after: str | None, count: int, *, seed: bool) -> Delivery:
        async with self._settled:
            await self._settled.wait_for(lambda: self._open < PORTIONS_AHEAD)
            self._raise_error()
            self._open += 1  # from here on an ack is sure to come
        recorded = changes if self._record or seed else ()
        return Delivery(recorded, self._ack_of(changes, after, count), seed=seed, priority=self.priority)

    async def _end(self) -> None:
        if self.stopped:
            self.health.detail = self.stopped
        else:
            if self._seed:
                await self._store.mark_seeded(self._listing.root)
            self.health.ready = True
        self.health.state = SourceState.STOPPED

    async def finish(self) -> None:
        """Note that nothing is left to do: the next run starts over. Until then it goes on, and lists nothing twice."""
        await self._store.save_progress(self._digest, Progress(self._after, self.listed, finished=True))

    async def check(self) -> Sequence[Check]:
        """Probe nothing: what is listed is found out by listing it."""
        return []

    async def _all_acked(self) -> None:
        async with self._settled:
            await self._settled.wait_for(lambda: not self._open)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def _note(self, changes: Sequence[Change], after: str | None, count: int) -> None:
        if self._then is not None and changes:
            await self._then(changes)
        self.listed += count
        if after is not None:
            self._after = after
            await self._store.save_progress(self._digest, Progress(self._after, self.listed, finished=False))

    def _ack_of(self, changes: Sequence[Change], after: str | None, count: int) -> Callable[[], Awaitable[None]]:
        async def ack() -> None:
            try:
                # After an error nothing is noted any more: the next run begins where this one was sure.
                if self._error is None:
                    await self._note(changes, after, count)
            except StoreError as error:
                self._error = error
            finally:
                async with self._settled:
                    self._open -= 1
                    self._settled.notify_all()

        return ack


class RepairFeed:
    """See :class:`listener.contracts.Source`: what differs between a listing and the index, once; then it ends."""

    Settings: ClassVar[type[BaseModel]] = BaseModel

    def __init__(self, listing: Listing, *, deletions: bool, admission: Admission | None = None) -> None:
        """
        Take what to list; with ``deletions``, any number of missing keys is taken for deleted.

        ``admission`` says how much may go on now; what it leaves still differs when the next run compares.
        """
        self.name = SOURCE_NAME
        self.roots: Sequence[str] = (listing.root,)
        self.health = SourceHealth()
        self.drift = Drift()
        self.stopped = ""
        self._listing = listing
        self._deletions = deletions
        self._admission = admission
        self.priority = _priority(admission)

    async def finish(self) -> None:
        """Note nothing: a repair compares again each time."""

    @property
    def listed(self) -> int:
        """How many keys were compared."""
        return self.drift.listed

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """Yield what differs, then what is gone where that is believed."""
        self.health.state = SourceState.SCANNING
        sequence = await index.sequence()
        with closing(Comparison(self._listing, index)) as comparison:
            self.drift = comparison.drift
            async for found in comparison.findings():
                if (delivery := await self._delivery(found, sequence)) is not None:
                    yield delivery
                if self.stopped:
                    break
            refusal = comparison.drift.refusal(share=MAX_DELETE_SHARE, minimum=MIN_DELETE_COUNT)
            if not self.stopped and refusal and not self._deletions:
                self.stopped = f"{refusal}: nothing was taken for deleted; if it is, add --deletions"
            for gone in () if self.stopped else comparison.deletions():
                if (delivery := await self._delivery(gone, sequence)) is not None:
                    yield delivery
                if self.stopped:
                    break
        self.health.detail = self.stopped
        self.health.state, self.health.ready = SourceState.STOPPED, not self.stopped

    async def _delivery(self, changes: Sequence[Change], sequence: int) -> Delivery | None:
        """Return what may go on of these changes, nothing where that is none."""
        if changes and self._admission is not None:
            admitted = await self._admission(changes)
            changes, self.stopped = admitted.changes, admitted.reason
        return Delivery(changes, scan_sequence=sequence, priority=self.priority) if changes else None

    async def check(self) -> Sequence[Check]:
        """Probe nothing: what is listed is found out by listing it."""
        return []
