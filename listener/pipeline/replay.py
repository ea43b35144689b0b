"""
What an instance does about commits that its database confirmed and lost (:mod:`listener.store.durability`).

Trees are compared with the index at once, and what queues and webhooks delivered is recorded again from the ring on
local disk (:mod:`listener.store.ring`). What is no longer in the ring needs a backfill, and the report says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol, Self, runtime_checkable

import structlog

from listener.clock import Clock
from listener.configuration import DEFAULT_STORE, sqlite_path
from listener.contracts import Source
from listener.pipeline.intake import StoreRetry
from listener.router.routing import Sites
from listener.settings import Settings
from listener.store import Store
from listener.store.access import Counted
from listener.store.batches import Batch
from listener.store.ring import Ring

__all__ = ["Replay", "Rescans"]

log = structlog.get_logger()

LOOK_SECONDS: Final = 1.0
"""Between two looks whether commits were lost; reading the count costs nothing."""
REPORTED_SECONDS: Final = 86_400.0
"""How long a loss is reported: the remedy may be a person's."""
REASON: Final = "the database lost commits"


@runtime_checkable
class Rescans(Protocol):
    """A source that can compare everything with the index soon."""

    def rescan(self, reason: str) -> None:
        """Do that; the reason is logged."""


class Replay:
    """Keeps what is acknowledged, and records it again where the database lost it."""

    def __init__(self, counted: Counted, ring: Ring, store: Store, sites: Sites, *, retry: StoreRetry, clock: Clock):
        """Compare the count of the last run with the database's; nothing is recorded yet."""
        self._counted = counted
        self._ring = ring
        self._store = store
        self._sites = sites
        self._retry = retry
        self._clock = clock
        self._handled = len(counted.mark.losses)
        self._at_start = counted.mark.commits if counted.mark.commits < ring.commits else None
        self._failed = ""
        self._report: tuple[str, float] | None = None

    @classmethod
    def of(cls, store: Store, settings: Settings, sites: Sites, *, retry: StoreRetry, clock: Clock) -> Self | None:
        """Return it for a store that may lose confirmed commits; None for any other."""
        if store.counted is None:
            return None
        ring = _open_ring(settings, store.counted.identity)
        return cls(store.counted, ring, store, sites, retry=retry, clock=clock)

    @property
    def trouble(self) -> str:
        """What was lost within the last day, and what was done about it; empty if nothing."""
        if self._report is None or self._clock.now() - self._report[1] > REPORTED_SECONDS:
            return ""
        return self._report[0]

    async def keep(self, batch: Batch) -> None:
        """Keep a batch that was recorded, before it is acknowledged. Findings of scans come again by themselves."""
        if batch.scan_sequence is not None or batch.seed or not batch.changes:
            return
        mark = self._counted.mark
        # A loss that was found meanwhile may include this one, whatever its count was.
        commits = mark.commits + (len(mark.losses) > self._handled)
        try:
            await asyncio.to_thread(self._ring.add, batch, commits, self._clock.now())
        except OSError as error:
            if self._failed != str(error):
                log.warning("replay.not_kept", error=str(error), hint="make room on the disk of the state directory")
            self._failed = str(error)
        else:
            self._failed = ""

    async def watch(self, sources: Callable[[], Mapping[str, Source]]) -> None:
        """Look for losses until cancelled, and make up for each."""
        if self._at_start is not None:
            await self._make_up(self._at_start, self._ring.commits - self._at_start, sources())
        while True:
            losses = self._counted.mark.losses
            if new := losses[self._handled :]:
                await self._make_up(min(loss.found for loss in new), sum(loss.commits for loss in new), sources())
            self._handled = len(losses)
            await asyncio.sleep(LOOK_SECONDS)

    async def _make_up(self, found: int, lost: int, sources: Mapping[str, Source]) -> None:
        is_complete = self._ring.is_complete_after(found) and not self._failed
        await asyncio.to_thread(self._ring.lose, found)
        for source in sources.values():
            if isinstance(source, Rescans):
                source.rescan(REASON)
        recorded = 0
        kept = self._ring.after(found)
        while (one := await asyncio.to_thread(next, kept, None)) is not None:
            batch = one.batch
            await self._retry.until_done(
                "replay",
                lambda batch=batch: self._store.record([batch], self._sites.route, self._sites.folder),  # type: ignore[misc]
            )
            await asyncio.to_thread(self._ring.moved, one, self._counted.mark.commits)
            recorded += len(batch.changes)
        log.error("replay.recorded_again", commits=lost, changes=recorded, complete=is_complete)
        self._report = self._words(lost, recorded, is_complete=is_complete), self._clock.now()

    def _words(self, lost: int, recorded: int, *, is_complete: bool) -> str:
        done = f"the database lost {lost} confirmed commits; trees are compared, {recorded} changes were recorded again"
        if is_complete:
            return done
        return f"{done}, but older ones are lost: run cdn-listener backfill for the sources that are queues or webhooks"

    def close(self) -> None:
        """Close the ring."""
        self._ring.close()


def _open_ring(settings: Settings, identity: str) -> Ring:
    """Open the ring in the state directory; where that cannot be written, one that lasts as long as the process."""
    default = sqlite_path(DEFAULT_STORE).parent
    directory = Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or default)
    path = directory / f"replay-{settings.instance.effective_name}.db"
    keep_seconds = settings.fleet.replay_seconds
    try:
        return Ring.opened(path, identity, keep_seconds=keep_seconds)
    except OSError as error:
        log.warning(
            "replay.in_memory",
            error=str(error),
            hint=f"let this user write {directory}: what was acknowledged before a restart cannot be recorded again",
        )
        return Ring.opened(None, identity, keep_seconds=keep_seconds)
