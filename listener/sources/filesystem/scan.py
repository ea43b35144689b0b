"""Comparing a tree with the index, directory by directory: what events missed is found here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import IndexView
from listener.sources.filesystem.content import is_proved_same, same_state, with_digest
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.walker import Listing, Walker

__all__ = ["Findings", "Scan", "ScanMode"]

_LOOKUPS_AT_ONCE = 64


class ScanMode(NamedTuple):
    """How to compare."""

    seeding: bool
    """A first listing: what the index does not know yet is no change."""
    most_bytes: int
    """Read files of at most so many bytes, to see whether what was touched has the bytes that the index knows."""
    not_before: float = 0.0
    """Nothing that is found was served before this time, in seconds since the epoch, whenever its file was written."""


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
        *,
        name: str,
        root: bytes,
        prefix: str,
        index: IndexView,
        walker: Walker,
        mode: ScanMode,
        deletion_guard: DeletionGuard,
        portion: int,
    ) -> None:
        """Compare what is at and below ``prefix`` in portions of about ``portion`` changes."""
        self.present = 0
        self.known = 0
        self.missing = 0
        self.found = 0
        self.aborted = False
        """True when the root was replaced meanwhile, so that nothing is known of what is gone."""
        self.refused = ""
        """Why deletions were held back; empty when they were not."""
        self._name = name
        self._root = root
        self._prefix = prefix
        self._index = index
        self._walker = walker
        self._mode = mode
        self._deletion_guard = deletion_guard
        self._portion = portion
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
        if not await asyncio.to_thread(self._walker.is_same_root):
            self.aborted = True
            return
        empty = not self._prefix and not self.present
        self.refused = self._deletion_guard.refuses(missing=self.missing, known=self.known, root_empty=empty)
        if not self.refused:
            async for findings in self._deletions():
                self.found += len(findings.changes)
                yield findings

    async def _walk(self) -> AsyncIterator[Findings]:
        ahead = asyncio.ensure_future(asyncio.to_thread(self._walker.step, self._portion))
        try:
            while listings := await ahead:
                # The next portion is read while this one is compared and committed.
                ahead = asyncio.ensure_future(asyncio.to_thread(self._walker.step, self._portion))
                findings = await self._compare(listings)
                if findings:
                    yield findings
        finally:
            if not ahead.done():
                await asyncio.wait([ahead])

    async def _compare(self, listings: list[Listing]) -> Findings:
        findings = Findings()
        candidates: list[tuple[str, Fingerprint, Fingerprint | None]] = []
        listings = [listing for listing in listings if listing.files or listing.directory in self._indexed]
        for start in range(0, len(listings), _LOOKUPS_AT_ONCE):
            some = listings[start : start + _LOOKUPS_AT_ONCE]
            indexed = [listing.directory for listing in some if listing.directory in self._indexed]
            known = await self._index.contents(self._name, indexed) if indexed else {}
            for listing in some:
                candidates.extend(self._differences(listing, known.get(listing.directory, {})))
        if candidates:
            candidates = await asyncio.to_thread(self._compared, candidates)
        for key, now, before in candidates:
            self._judge(findings, key, now, before)
        return findings

    def _differences(
        self, listing: Listing, rows: Mapping[str, Fingerprint]
    ) -> list[tuple[str, Fingerprint, Fingerprint | None]]:
        directory, files, unknown = listing
        self._indexed.discard(directory)
        self.present += len(files)
        self.known += len(rows)
        # A plain comparison of all decides nearly always, and costs next to nothing.
        if rows == files:
            return []
        missing = len(rows.keys() - files.keys() - unknown)
        if missing:
            self.missing += missing
            self._suspects.append(directory)
        if not rows:
            return [(directory + name, now, None) for name, now in files.items()]
        return [
            (directory + name, now, rows.get(name))
            for name, now in files.items()
            if (before := rows.get(name)) is None or before[:4] != now[:4] or before.access != now.access
        ]

    def _compared(
        self, candidates: list[tuple[str, Fingerprint, Fingerprint | None]]
    ) -> list[tuple[str, Fingerprint, Fingerprint | None]]:
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
            if listing is None:
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
