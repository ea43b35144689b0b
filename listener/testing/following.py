"""A stand-in for the pipeline: reads a source and keeps an index in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final, Self

from listener.change import Change, ChangeKind, Fingerprint, ObjectState
from listener.contracts import Delivery, DirectoryComparison, Source, Unreadable

__all__ = ["Follower", "MemoryIndex"]

STOP_SECONDS: Final = 20.0
"""How long a cancelled source may take to end, on a busy machine."""


class MemoryIndex:
    """An index in memory, which applies deliveries as the store does; see :class:`listener.contracts.IndexView`."""

    def __init__(self) -> None:
        """Contain nothing."""
        self.rows: dict[str, tuple[Fingerprint, int]] = {}
        self.by_directory: dict[str, dict[str, Fingerprint]] = {}
        self.tombs: dict[str, int] = {}
        self.is_seeded = False
        self.high = 0

    async def sequence(self) -> int:
        """Return the highest sequence."""
        return self.high

    async def directory(self, root: str, directory: str) -> Mapping[str, Fingerprint]:  # noqa: ARG002 - one root
        """Return the objects directly in a directory."""
        return dict(self.by_directory.get(directory, {}))

    async def directory_page(
        self, root: str, directory: str, after: str | None, *, limit: int
    ) -> Sequence[tuple[str, Fingerprint]]:
        """Return the next objects directly in a directory."""
        rows = sorted((await self.directory(root, directory)).items(), key=lambda row: _bytes(row[0]))
        return [row for row in rows if after is None or _bytes(row[0]) > _bytes(after)][:limit]

    async def contents(self, root: str, directories: Sequence[str]) -> Mapping[str, Mapping[str, Fingerprint]]:
        """Return the objects directly in each of these directories."""
        return {name: await self.directory(root, name) for name in directories}

    async def compare(
        self, root: str, listed: Mapping[str, Sequence[ObjectState]]
    ) -> Mapping[str, DirectoryComparison]:
        """Compare what was listed directly in each of these directories with what is known."""
        compared: dict[str, DirectoryComparison] = {}
        for directory, states in listed.items():
            rows = await self.directory(root, directory)
            known = sorted((_bytes(key), *found[:4], found.access) for key, found in rows.items())
            compared[directory] = DirectoryComparison(len(known), known == states)
        return compared

    async def objects(self, root: str, keys: Sequence[str]) -> Mapping[str, Fingerprint]:  # noqa: ARG002
        """Return those of these objects that are known."""
        return {key: self.rows[key][0] for key in keys if key in self.rows}

    async def directories(self, root: str, prefix: str = "") -> Sequence[str]:  # noqa: ARG002
        """Return the directories that contain objects."""
        return [name for name, rows in self.by_directory.items() if rows and name.startswith(prefix)]

    async def seeded(self, root: str) -> bool:  # noqa: ARG002
        """Return whether the first listing is complete."""
        return self.is_seeded

    async def mark_seeded(self, root: str) -> None:  # noqa: ARG002
        """Record that it is."""
        self.is_seeded = True

    def apply(self, delivery: Delivery) -> None:
        """Commit a delivery."""
        for change in delivery.changes:
            self.high += 1
            if delivery.scan_sequence is not None and self._sequence(change.key) > delivery.scan_sequence:
                continue
            if change.kind is ChangeKind.SUBTREE_DELETED:
                for key in [key for key in self.rows if key.startswith(change.key)]:
                    self._remove(key)
            elif change.kind is ChangeKind.DELETED:
                self._remove(change.key)
            elif change.kind is not ChangeKind.SUBTREE:  # which names no object
                self._put(change.key, change.fingerprint or Fingerprint())

    def _sequence(self, key: str) -> int:
        return self.rows[key][1] if key in self.rows else self.tombs.get(key, 0)

    def _put(self, key: str, fingerprint: Fingerprint) -> None:
        self.rows[key] = (fingerprint, self.high)
        cut = key.rfind("/") + 1
        self.by_directory.setdefault(key[:cut], {})[key[cut:]] = fingerprint

    def _remove(self, key: str) -> None:
        self.tombs[key] = self.high
        if self.rows.pop(key, None) is not None:
            cut = key.rfind("/") + 1
            del self.by_directory[key[:cut]][key[cut:]]


class Follower:
    """
    Reads a source as the pipeline does: commits each delivery to the index, then acknowledges it.

    Override :meth:`commit` to record deliveries elsewhere, or to delay it.
    """

    def __init__(self, source: Source, *, index: MemoryIndex | None = None, acknowledges: bool = True) -> None:
        """Follow the source, once entered as an asynchronous context."""
        self.source = source
        self.index = index or MemoryIndex()
        self.deliveries: list[Delivery] = []
        self.changes: list[Change] = []
        """Without those of a first listing."""
        self.unreadable: list[Unreadable] = []
        self.acknowledges = acknowledges
        self.task: asyncio.Task[None] | None = None
        """What reads; None while stopped."""
        self._is_cancelled = False

    async def __aenter__(self) -> Self:
        """Start, and wait until the source is ready."""
        self.start()
        try:
            await self.until(lambda: self.source.health.ready, "the source is ready")
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def start(self) -> None:
        """Start reading, without waiting."""
        self.task = asyncio.create_task(self._follow())
        self._is_cancelled = False

    def cancel(self) -> None:
        """Cancel the source as the pipeline does, without waiting: once, or what it does to end would be broken off."""
        # Not by Task.cancelling(), which a time-out that expires just now sets, too.
        if self.task is not None and not self._is_cancelled:
            self._is_cancelled = True
            self.task.cancel()

    async def stop(self) -> None:
        """Cancel the source and wait for its end; raise what the source raised. Safe to call twice."""
        self.cancel()
        task, self.task = self.task, None
        if task is not None:
            await asyncio.wait([task], timeout=STOP_SECONDS)
            assert task.done(), f"the source did not end within {STOP_SECONDS:g} s"
            if not task.cancelled():
                task.result()

    async def commit(self, delivery: Delivery) -> None:
        """Record a delivery; called before it is acknowledged."""
        self.index.apply(delivery)

    async def _follow(self) -> None:
        deliveries = self.source.deliveries(self.index)
        try:
            async for delivery in deliveries:
                self.deliveries.append(delivery)
                await self.commit(delivery)
                self.unreadable += delivery.unreadable
                if not delivery.seed:
                    self.changes += delivery.changes
                if self.acknowledges:
                    await delivery.ack()
        finally:
            if isinstance(deliveries, AsyncGenerator):
                await deliveries.aclose()

    async def until(self, condition: Callable[[], object], what: str = "the condition", seconds: float = 30.0) -> None:
        """Wait, in real time, until the condition holds; raise what the source raises."""
        end = time.monotonic() + seconds
        while not condition():
            if self.task is not None and self.task.done():
                self.task.result()
            found = f"changes: {self.changes[-20:]}; {self.source.health}"
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}; {found}"
            await asyncio.sleep(0.01)

    async def until_changed(self, key: str) -> Change:
        """Wait for a change of this key; return the last one."""
        await self.until(lambda: any(change.key == key for change in self.changes), f"{key!r} is delivered")
        return [change for change in self.changes if change.key == key][-1]


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
