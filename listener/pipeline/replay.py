"""
Confirmed commits that the database lost: what they held is recorded again.

File trees and listings are compared with the index at once: index and needs were lost together, so that the comparison
finds what is missing. What its origin has deleted since it was acknowledged (messages of queues, requests to webhooks)
comes from the ring on local disk (:mod:`listener.store.ring`). Where that does not reach back far enough, a backfill
does it; the sites are named until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from listener.contracts import Rescans, Source, Unreadable, parts_of
from listener.refresh import Priority
from listener.router.routing import share_name
from listener.settings import Site
from listener.store.access import Counted
from listener.store.batches import Batch
from listener.store.durability import CommitMark
from listener.store.ring import Letter, Ring, ring_path

__all__ = ["Replay", "keeps"]

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""How often to look whether commits were lost."""
REASON = "the database lost commits"
REPORTED_SECONDS = 3600.0
"""For how long a loss of which everything was recorded again is reported; any other until the next start."""


def keeps(sources: Iterable[Source]) -> frozenset[str]:
    """Return the roots of which some changes are found nowhere any more once they are acknowledged."""
    parts = [part for source in sources for part in parts_of(source)]
    return frozenset(root for part in parts if not isinstance(part, Rescans) for root in part.roots)


class Replay:
    """Looks for lost commits, and has their changes recorded again."""

    def __init__(
        self,
        counted: Counted,
        sources: Callable[[], Mapping[str, Source]],
        sites: Sequence[Site],
        *,
        record: Callable[[Batch], Awaitable[object]],
        set_aside: Callable[[str, Sequence[Unreadable]], Awaitable[None]],
        save: Callable[[str], Awaitable[None]],
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """
        Take what it needs; nothing is read yet.

        Args:
            counted: the commits of this process.
            sources: all of them, as they are now.
            sites: of the configuration.
            record: makes changes durable.
            set_aside: makes messages of a source durable that cannot be read.
            save: keeps :attr:`trouble` for the status on other hosts.
            now: the time of day, in seconds since the epoch.
            changed: called when :attr:`trouble` changed.
        """
        self._counted = counted
        self._sources = sources
        self._sites = sites
        self._record = record
        self._set_aside = set_aside
        self._save = save
        self._saved: str | None = None
        self._now = now
        self._changed = changed
        self._ring: Ring | None = None
        self._handled = 0
        self._lost_commits = 0
        self._is_complete = True
        self._is_recording = True  # what an earlier process left
        self._until = 0.0

    @property
    def trouble(self) -> str:
        """What was lost, and what is left to do; empty where nothing is."""
        if not self._lost_commits:
            return ""
        lost = f"{self._lost_commits} confirmed commits were lost, as in a failover without a synchronous standby"
        if self._is_recording:
            return f"{lost}: their changes are being recorded again"
        if not self._is_complete:
            return f"{lost}; not all of their changes are known here any more: {self._backfills}"
        return f"{lost}; all their changes were recorded again" if self._now() < self._until else ""

    @property
    def mark(self) -> CommitMark:
        """What was confirmed so far: take it before anything is recorded that is to be kept."""
        return self._counted.mark

    async def open(self, directory: Path | None, *, instance: str, seconds: float) -> None:
        """Open the ring in a directory, or else in memory, and compare with what an earlier process knew."""
        if directory is None:
            return
        identity = self._counted.identity
        path = ring_path(directory, instance=instance, identity=identity)
        try:
            ring = await asyncio.to_thread(Ring.opened, path, identity, keep_seconds=seconds)
        except OSError as error:
            log.error("replay.in_memory", error=str(error), hint=IN_MEMORY_HINT)
            ring = Ring.opened(None, identity, keep_seconds=seconds)
        self._counted.expect(ring.commits)
        self._ring = ring

    async def close(self) -> None:
        """Keep the count for the next process."""
        if self._ring is not None:
            await asyncio.to_thread(self._ring.close, self.mark)

    async def keep(self, before: CommitMark, batch: Batch, letters: Sequence[Letter] = ()) -> bool:
        """
        Keep what was recorded and set aside since a mark, before it is acknowledged; False where it is to be repeated.

        It is where commits were lost meanwhile: maybe this one.
        """
        mark = self.mark
        if len(mark.losses) != len(before.losses):
            return False
        roots = keeps(self._sources().values())
        is_live = batch.scan_sequence is None and not batch.seed and batch.priority is Priority.LIVE
        changes = [change for change in batch.changes if change.root in roots] if is_live else []
        if self._ring is None or not (changes or batch.message_ids or letters):
            return True
        kept = Batch(changes, message_ids=batch.message_ids)
        try:
            return await asyncio.to_thread(self._ring.add, kept, mark, self._now(), letters=letters)
        except OSError as error:
            log.error("replay.not_kept", error=str(error), hint=NOT_KEPT_HINT)
            return True

    async def run(self) -> None:
        """Have the changes of lost commits recorded again, for ever."""
        while True:
            await self._look()
            if (trouble := self.trouble) != self._saved:
                await self._save(trouble)
                self._saved = trouble
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        mark = self.mark
        if new := mark.losses[self._handled :]:
            self._handled = len(mark.losses)
            self._lost_commits += sum(loss.commits for loss in new)
            self._until = self._now() + REPORTED_SECONDS
            self._is_recording = True
            for source in self._sources().values():
                for part in parts_of(source):
                    if isinstance(part, Rescans):
                        part.rescan(REASON)
            self._changed()
        if self._is_recording:
            await self._record_again(mark)

    async def _record_again(self, mark: CommitMark) -> None:
        changes, is_readable = 0, self._ring is not None
        try:
            if self._ring is not None:
                await asyncio.to_thread(self._ring.follow, mark)
                while (kept := await asyncio.to_thread(self._ring.lost)) is not None:
                    if kept.batch.changes or kept.batch.message_ids:
                        await self._record(kept.batch)
                    for source, letter in kept.letters:
                        await self._set_aside(source, [letter])
                    await asyncio.to_thread(self._ring.remove, kept.number)
                    changes += len(kept.batch.changes)
        except OSError as error:
            is_readable = False
            log.error("replay.unreadable", error=str(error), hint=NOT_KEPT_HINT)
        self._is_recording = False
        is_complete = self._ring is not None and is_readable and self._ring.is_complete
        if self._lost_commits and not is_complete and keeps(self._sources().values()):
            self._is_complete = False
            log.error("replay.incomplete", commits=self._lost_commits, hint=self._backfills)
        if self._lost_commits or changes:
            log.warning("replay.recorded_again", commits=self._lost_commits, changes=changes)
        self._changed()

    @property
    def _backfills(self) -> str:
        """Return the command for each source whose changes may be missing, with its sites."""
        roots = keeps(self._sources().values())
        names = sorted({site.source for site in self._sites if site.source in roots})
        sites = {name: ", ".join(share_name(site) for site in self._sites if site.source == name) for name in names}
        return "; ".join(f"run cdn-listener backfill {name} (sites: {sites[name]})" for name in names)


NOT_KEPT_HINT = (
    "make room on the disk of the state directory; changes are safe in the database unless it loses commits meanwhile"
)
IN_MEMORY_HINT = (
    "let this user write the state directory (systemd: StateDirectory=): what was acknowledged before a restart cannot"
    " be recorded again"
)
