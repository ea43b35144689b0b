"""Scans as a session runs them: with live changes in between, delivered with the sequence at which each began."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import structlog

from listener.change import Change, ChangeKind, key_to_bytes
from listener.contracts import Delivery, IndexView, SourceHealth
from listener.sources.filesystem.acks import SETTLE_SECONDS, Acks
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.listening import Place
from listener.sources.filesystem.live import Live
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.rescans import LOSSES, START, WAITING, Rescans
from listener.sources.filesystem.scan import Findings, Scan, ScanMode
from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.walker import Walker

__all__ = ["Scanner"]

_log = structlog.get_logger()


class Scanner:
    """Compares the tree, or a part of it, with the index."""

    def __init__(
        self,
        *,
        name: str,
        root: bytes,
        settings: FilesystemSettings,
        ignore: Ignore,
        links: Links,
        index: IndexView,
        acks: Acks,
        deletion_guard: DeletionGuard,
        rescans: Rescans,
        live: Live,
        health: SourceHealth,
    ) -> None:
        """Keep the parts of the session that a scan needs."""
        self.aborted = False
        """Whether the last scan saw the root being replaced."""
        self._name = name
        self._root = root
        self._settings = settings
        self._ignore = ignore
        self._links = links
        self._index = index
        self._acks = acks
        self._deletion_guard = deletion_guard
        self._rescans = rescans
        self._live = live
        self._health = health

    async def deliveries(
        self, place: Place, prefix: str, reason: str, *, not_before: float = 0.0
    ) -> AsyncIterator[Delivery]:
        """
        Yield how what is at and below ``prefix`` differs from the index, and what events report meanwhile.

        What is found was not served there before ``not_before``, in seconds since the epoch.
        """
        # The index must hold what was reported already, or the scan would report it again.
        await self._acks.settled(SETTLE_SECONDS)
        sequence = await self._index.sequence()
        watches = place.listening.watches if place.listening else None
        round_number = watches.begin_round() if watches else 0
        walker = self._walker(place, prefix)
        scan = await self._scan(prefix, walker, not_before)
        began = time.monotonic()
        async for findings in scan.portions():
            self._health.progressed(time.monotonic())
            for delivery in self._deliver(prefix, findings, sequence):
                yield delivery
            async for delivery in self._live.deliveries():
                yield delivery
        if watches is not None:
            await asyncio.to_thread(watches.end_round, key_to_bytes(prefix), round_number)
        took_seconds = time.monotonic() - began
        self._conclude(scan, prefix, took_seconds)
        self._tell(scan, walker, prefix, reason, took_seconds)

    def _walker(self, place: Place, prefix: str) -> Walker:
        return Walker(
            self._root,
            self._ignore,
            prefix=prefix,
            links=self._links,
            follow=self._settings.follow_symlinks,
            enter=place.listening.watches.enter if place.listening else lambda _: None,
            is_same_root=place.identity.holds,
        )

    async def _scan(self, prefix: str, walker: Walker, not_before: float) -> Scan:
        seeding = not await self._index.seeded(self._name)
        mode = ScanMode(seeding, self._settings.most_compared_bytes, not_before)
        return Scan(
            name=self._name,
            root=self._root,
            prefix=prefix,
            index=self._index,
            walker=walker,
            mode=mode,
            deletion_guard=self._deletion_guard,
            portion=self._settings.batch_changes,
        )

    def _deliver(self, prefix: str, findings: Findings, sequence: int) -> list[Delivery]:
        changes = [change for change in findings.changes if not self._is_fresh(change) and not self._is_pending(change)]
        if prefix:
            self._deletion_guard.note_births(findings.births)
        sides = ((findings.learnt, True), (changes, False))
        return [self._acks.deliver(some, scan_sequence=sequence, seed=seed) for some, seed in sides if some]

    def _is_fresh(self, change: Change) -> bool:
        """Hold a file that changed a moment ago: it may still be written to."""
        if change.kind is not ChangeKind.CONTENT or change.fingerprint is None or change.fingerprint.ctime_ns is None:
            return False
        age = time.time() - change.fingerprint.ctime_ns / 1e9
        if not 0 <= age < self._settings.stable_seconds:
            return False
        return self._live.unfinished.begin(change.key, change.fingerprint, time.monotonic(), from_event=False)

    def _is_pending(self, change: Change) -> bool:
        """Return whether an event named this file, so that it is looked at soon, and reported as it is then."""
        watches = self._live.watches
        return (
            watches is not None and change.kind is ChangeKind.CONTENT and watches.is_pending(key_to_bytes(change.key))
        )

    def _conclude(self, scan: Scan, prefix: str, took_seconds: float) -> None:
        """Draw the consequences for deletion guard, schedule and state."""
        self.aborted = scan.aborted
        self._rescans.ended(prefix, time.monotonic(), took_seconds=took_seconds)
        self._deletion_guard.confirmed = self._deletion_guard.confirmed and bool(scan.refused)
        if not prefix and not scan.aborted:
            self._deletion_guard.known = scan.present
        if not prefix or scan.refused:
            self._live.refused = scan.refused
        if scan.refused and not self._deletion_guard.suspended:
            self._rescans.want("", WAITING, time.monotonic())

    def _tell(self, scan: Scan, walker: Walker, prefix: str, reason: str, seconds: float) -> None:
        """Write down what was found, where status reads it."""
        self._live.unread.replace(prefix, walker.unread)
        self._health.rescans += reason != START
        if reason in LOSSES and self._live.watches is not None:
            self._health.lost_events += scan.found
        self._health.figures.update(
            scan_files=walker.files,
            scan_directories=walker.directories,
            scan_seconds=round(seconds, 3),
            scan_found=scan.found,
        )
        if not prefix:
            self._health.figures["ignored_paths"] = walker.ignored
        _log.info(
            "filesystem.scanned", source=self._name, prefix=prefix, reason=reason or "schedule",
            files=walker.files, directories=walker.directories, found=scan.found, seconds=round(seconds, 3),
        )  # fmt: skip
