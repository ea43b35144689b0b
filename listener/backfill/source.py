"""A listing as a source of the pipeline: it yields what is listed, keeps how far that is durable, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from typing import ClassVar

from pydantic import BaseModel

from listener.backfill.listing import Listing
from listener.change import Change
from listener.contracts import Check, Delivery, IndexView, SourceHealth, SourceState
from listener.errors import StoreError
from listener.store import Store
from listener.store.upkeep import Progress

__all__ = ["ListingSource"]

PORTION_KEYS = 2_000
"""Keys in one delivery: what one commit takes."""
PORTIONS_AHEAD = 4
"""Deliveries that may wait for their commit: a listing of ten million keys must not pile up in memory."""


class _NoSettings(BaseModel):
    """A listing is told everything by its maker."""


class ListingSource:
    """
    See :class:`listener.contracts.Source`; ended once everything that it listed is durable.

    ``listed`` counts keys whose needs are durable, those of earlier runs included.
    """

    Settings: ClassVar[type[BaseModel]] = _NoSettings

    def __init__(
        self,
        name: str,
        listing: Listing,
        store: Store,
        *,
        begun: Progress | None = None,
        record: bool = True,
        seed: bool = False,
        digest: str = "",
        then: Callable[[Sequence[Change]], Awaitable[None]] | None = None,
    ) -> None:
        """
        Keep what to list; touch nothing.

        Args:
            name: what the source is called.
            listing: what to go through.
            store: where to keep how far it got.
            begun: how far an earlier run got.
            record: whether changes are made of the keys; otherwise only ``then`` gets them.
            seed: whether they only fill the index.
            digest: under what name its progress is kept; by default the listing's own.
            then: called with each portion once its changes are durable, before that is noted as progress.
        """
        self.name = name
        self.roots: Sequence[str] = (listing.root,)
        self.health = SourceHealth()
        self.listed = begun.listed if begun else 0
        self._listing = listing
        self._digest = digest or listing.digest()
        self._store = store
        self._after = begun.after if begun else ""
        self._record = record
        self._seed = seed
        self._then = then
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
            async with self._settled:
                await self._settled.wait_for(lambda: self._open < PORTIONS_AHEAD)
                self._open += 1
            self._raise_error()
            yield Delivery(portion if self._record else (), self._ack_of(portion), seed=self._seed)
        await self._all_acked()
        self._raise_error()
        await self._store.save_progress(self._digest, Progress(self._after, self.listed, finished=True))
        if self._seed:
            await self._store.mark_seeded(self._listing.root)
        self.health.state, self.health.ready = SourceState.STOPPED, True

    async def check(self) -> Sequence[Check]:
        """Probe nothing: what is listed is found out by listing it."""
        return []

    async def _all_acked(self) -> None:
        async with self._settled:
            await self._settled.wait_for(lambda: not self._open)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def _note(self, portion: Sequence[Change]) -> None:
        if self._then is not None:
            await self._then(portion)
        self.listed += len(portion)
        self._after = portion[-1].key
        await self._store.save_progress(self._digest, Progress(self._after, self.listed, finished=False))

    def _ack_of(self, portion: Sequence[Change]) -> Callable[[], Awaitable[None]]:
        async def ack() -> None:
            try:
                # After an error nothing is noted any more: the next run begins where this one was sure.
                if self._error is None:
                    await self._note(portion)
            except StoreError as error:
                self._error = error
            finally:
                async with self._settled:
                    self._open -= 1
                    self._settled.notify_all()

        return ack
