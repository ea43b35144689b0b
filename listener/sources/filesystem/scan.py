"""
Comparing a tree, or a part of it, with the index, directory by directory: what events missed is found here.

A :class:`Scan` is one comparison. The :class:`Scanner` runs it within a session: with live changes in between,
delivered with the sequence of the index at which it began.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes
from listener.contracts import Delivery, DirectoryComparison, SourceHealth
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.known import SETTLE_SECONDS, Acks, is_proved_same, same_state, with_digest
from listener.sources.filesystem.live import Live
from listener.sources.filesystem.outstanding import LOSSES, START, WAITING, Rescans
from listener.sources.filesystem.settings import Root
from listener.sources.filesystem.walker import Listing, Walker

__all__ = ["Scanner"]

_log = structlog.get_logger()


class Scanner:
    """Compares the tree, or a part of it, with the index."""

    def __init__(
        self,
        root: Root,
        *,
        acks: Acks,
        deletion_guard: DeletionGuard,
        rescans: Rescans,
        live: Live,
        health: SourceHealth,
    ) -> None:
        """Keep the parts of the session that a scan needs."""
        self.aborted = False
        """Whether the last scan saw the root being replaced."""
        self._root = root
        self._acks = acks
        self._deletion_guard = deletion_guard
        self._rescans = rescans
        self._live = live
        self._health = health

    async def deliveries(
        self, is_same_root: Callable[[], bool], prefix: str, reason: str, *, not_before: float = 0.0
    ) -> AsyncIterator[Delivery]:
        """
        Yield how what is at and below ``prefix`` differs from the index, and what events report meanwhile.

        What is found was not served there before ``not_before``, in seconds since the epoch.
        """
        # The index must hold what was reported already, or the scan would report it again.
        await self._acks.settled(SETTLE_SECONDS)
        sequence = await self._root.index.sequence()
        watcher, settings = self._live.watcher, self._root.settings
        round_number = watcher.begin_round()
        walker = Walker(
            self._root.path,
            self._root.ignore,
            prefix=prefix,
            links=self._root.links,
            follow=settings.follow_symlinks,
            enter=watcher.enter,
        )
        seeding = not await self._root.index.seeded(self._root.name)
        mode = ScanMode(seeding, settings.most_compared_bytes, not_before)
        scan = Scan(self._root, prefix, walker, mode, deletion_guard=self._deletion_guard, is_same_root=is_same_root)
        began = time.monotonic()
        with self._live.activity.reading():
            async for findings in scan.portions():
                self._health.progressed(time.monotonic())
                for delivery in self._deliver(prefix, findings, sequence):
                    yield delivery
                await self._acks.room(_MOST_UNDER_WAY, SETTLE_SECONDS)
                async for delivery in self._live.deliveries():
                    yield delivery
            await asyncio.to_thread(watcher.end_round, key_to_bytes(prefix), round_number)
            self._live.search_names(walker.hard_links)
        took_seconds = time.monotonic() - began
        self._conclude(scan, prefix, took_seconds)
        self._report(scan, walker, prefix, reason, took_seconds)

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
        if not 0 <= age < self._root.settings.stable_seconds:
            return False
        return self._live.unfinished.begin(change.key, change.fingerprint, time.monotonic(), from_event=False)

    def _is_pending(self, change: Change) -> bool:
        """Return whether an event named this file, so that it is looked at soon, and reported as it is then."""
        return change.kind is ChangeKind.CONTENT and self._live.watcher.is_pending(key_to_bytes(change.key))

    def _conclude(self, scan: Scan, prefix: str, took_seconds: float) -> None:
        """Draw the consequences for deletion guard, schedule and state."""
        self.aborted = scan.aborted
        self._rescans.ended(prefix, time.monotonic(), took_seconds=took_seconds)
        self._deletion_guard.scanned(scan.refused, present=None if prefix or scan.aborted else scan.present)
        if not prefix or scan.refused:
            self._deletion_guard.note_judged(scan.refused, scan.missing)
        if scan.refused and not self._deletion_guard.suspended:
            self._rescans.want("", WAITING, time.monotonic())

    def _report(self, scan: Scan, walker: Walker, prefix: str, reason: str, seconds: float) -> None:
        """Write down what was found, where status reads it."""
        self._live.unread.replace(prefix, walker.unread)
        self._health.rescans += reason != START
        if reason in LOSSES and not self._live.watcher.is_polling:
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
            "filesystem.scanned", source=self._root.name, prefix=prefix, reason=reason or "schedule",
            files=walker.files, directories=walker.directories, found=scan.found, seconds=round(seconds, 3),
        )  # fmt: skip


_MOST_UNDER_WAY = 2
"""Deliveries that a scan leaves to be recorded before it goes on: what it found is not piled up in memory."""
_Candidate = tuple[str, Fingerprint, Fingerprint | None]
"""A key, what is there now, and what the index knows."""
_new = tuple.__new__


class ScanMode(NamedTuple):
    """How to compare."""

    seeding: bool
    """A first listing: what the index does not know yet is no change."""
    most_bytes: int
    """Read files of at most so many bytes, to see whether what was touched has the bytes that the index knows."""
    not_before: float = 0.0
    """Nothing that is found was served before this time, in seconds since the epoch, whenever its file was written."""


def _is_same(listing: Listing, compared: DirectoryComparison | None) -> bool:
    """Return whether a directory is as the index knows it, which may know nothing of it."""
    return not listing.states if compared is None else compared.is_same


@dataclass(slots=True)
class Findings:
    """One portion of what a scan found."""

    changes: list[Change] = field(default_factory=list)
    learnt: list[Change] = field(default_factory=list)
    """For the index only: first seen while seeding, or changed in nothing but its inode."""
    births: int = 0
    """How many files were not known before."""

    def __len__(self) -> int:
        """How many changes of either sort."""
        return len(self.changes) + len(self.learnt)


class Scan:
    """One comparison. ``portions`` may be iterated once; the figures stand afterwards."""

    def __init__(
        self,
        root: Root,
        prefix: str,
        walker: Walker,
        mode: ScanMode,
        *,
        deletion_guard: DeletionGuard,
        is_same_root: Callable[[], bool],
    ) -> None:
        """Compare what is at and below ``prefix``; what is read once ``is_same_root`` no longer holds means nothing."""
        self.present = 0
        self.known = 0
        self.missing = 0
        self.found = 0
        self.aborted = False
        """True when the root was replaced meanwhile, so that nothing is known of what is gone."""
        self.refused = ""
        """Why deletions were held back; empty when they were not."""
        self._name = root.name
        self._root = root.path
        self._prefix = prefix
        self._index = root.index
        self._walker = walker
        self._mode = mode
        self._deletion_guard = deletion_guard
        self._is_same_root = is_same_root
        self._portion = root.settings.batch_changes
        self._indexed: set[str] = set()
        """Directories that hold known objects and were not come by yet."""
        self._suspects: list[str] = []

    async def portions(self) -> AsyncIterator[Findings]:
        """Yield what differs; deletions last, after the deletion guard has judged them as a whole."""
        self._indexed = set(await self._index.directories(self._name, self._prefix))
        async for findings in self._walk():
            self.found += len(findings.changes)
            yield findings
        await self._find_missing_directories()
        if not await asyncio.to_thread(self._is_same_root):
            self.aborted = True
            return
        empty = not self._prefix and not self.present
        self.refused = self._deletion_guard.refuses(missing=self.missing, known=self.known, root_empty=empty)
        if not self.refused:
            async for findings in self._deletions():
                self.found += len(findings.changes)
                yield findings

    async def _walk(self) -> AsyncIterator[Findings]:
        while listings := await asyncio.to_thread(self._walker.step, self._portion):
            findings = await self._compare(listings)
            if findings:
                yield findings

    async def _compare(self, listings: list[Listing]) -> Findings:
        findings = Findings()
        indexed = {listing.directory: listing.states for listing in listings if listing.directory in self._indexed}
        # A plain comparison of a directory as a whole decides nearly always.
        compared = await self._index.compare(self._name, indexed) if indexed else {}
        self._count(listings, compared)
        differing = [listing for listing in listings if not _is_same(listing, compared.get(listing.directory))]
        changed = [one.directory for one in differing if one.directory in compared and compared[one.directory].known]
        known = await self._index.contents(self._name, changed) if changed else {}
        candidates: list[_Candidate] = []
        for listing in differing:
            if listing.directory in known:
                candidates += self._differences(listing, known[listing.directory])
            elif self._mode.seeding:
                self._learn(findings, listing)
            else:
                candidates += [(listing.directory + name, now, None) for name, now in listing.files.items()]
        if changed:
            candidates = await asyncio.to_thread(self._compared, candidates)
        for key, now, before in candidates:
            self._judge(findings, key, now, before)
        return findings

    def _count(self, listings: Iterable[Listing], compared: Mapping[str, DirectoryComparison]) -> None:
        self._indexed.difference_update(compared)
        self.present += sum(len(listing.states) for listing in listings)
        self.known += sum(directory.known for directory in compared.values())

    def _differences(self, listing: Listing, rows: Mapping[str, Fingerprint]) -> list[_Candidate]:
        directory, files = listing.directory, listing.files
        missing = len(rows.keys() - files.keys() - listing.unknown)
        if missing:
            self.missing += missing
            self._suspects.append(directory)
        return [
            (directory + name, now, rows.get(name))
            for name, now in files.items()
            if (before := rows.get(name)) is None or not same_state(before, now) or before.access != now.access
        ]

    def _learn(self, findings: Findings, listing: Listing) -> None:
        """Have the index learn a directory of which it knows nothing, while it is seeded: no file there is a change."""
        root, directory, content = self._name, listing.directory, ChangeKind.CONTENT
        findings.births += len(listing.states)
        for raw, size_bytes, mtime_ns, ctime_ns, inode, access in listing.states:
            # Half as expensive as the constructors of the classes, which counts for a million files.
            found = _new(Fingerprint, (size_bytes, mtime_ns, ctime_ns, inode, None, access))
            key = directory + raw.decode("utf-8", "surrogateescape")
            findings.learnt.append(_new(Change, (root, key, content, found, None, None, True, False, False)))

    def _compared(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """Add the digests of the files that may prove to be what the index knows; blocking."""
        most, root = self._mode.most_bytes, self._root
        return [(key, with_digest(root, key, now, before, most_bytes=most), before) for key, now, before in candidates]

    def _judge(self, findings: Findings, key: str, now: Fingerprint, before: Fingerprint | None) -> None:
        findings.births += before is None
        is_known = self._mode.seeding if before is None else is_proved_same(before, now)
        if before is not None and now.etag is None and same_state(before, now):
            now = now._replace(etag=before.etag)
        target = findings.learnt if is_known else findings.changes
        at = None if now.ctime_ns is None else max(now.ctime_ns / 1e9, self._mode.not_before)
        target.append(Change(self._name, key, ChangeKind.CONTENT, now, event_time=at))

    async def _find_missing_directories(self) -> None:
        for directory in sorted(self._indexed):
            if not self._walker.is_unknown(directory):
                rows = len(await self._index.directory(self._name, directory))
                self.known += rows
                self.missing += rows
                self._suspects.append(directory)

    async def _deletions(self) -> AsyncIterator[Findings]:
        findings = Findings()
        for directory in self._suspects:
            rows = await self._index.directory(self._name, directory)
            listing = await asyncio.to_thread(self._walker.again, directory)
            if listing is None or not await asyncio.to_thread(self._is_same_root):
                continue
            for name in rows.keys() - listing.files.keys() - listing.unknown:
                findings.changes.append(
                    Change(self._name, directory + name, ChangeKind.DELETED, event_time=time.time())
                )
            if len(findings) >= self._portion:
                yield findings
                findings = Findings()
        if findings:
            yield findings
