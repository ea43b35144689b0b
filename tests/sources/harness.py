"""A reader that follows a source of files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from listener.change import Change, ChangeKind
from listener.contracts import Delivery
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.sources.filesystem.fanotify import refusal
from listener.testing import MemoryIndex


def fanotify_needed(request: pytest.FixtureRequest, path: Path) -> None:
    """Go on where a tree can be marked; elsewhere the test fails in CI, and is skipped and reported in red."""
    refused = refusal(path)
    if refused is not None:
        request.getfixturevalue("absent")(f"a file system that fanotify can mark ({refused})")


class Reader:
    """Follows a source as the pipeline does: commits each delivery, then acknowledges it."""

    backend = "auto"
    """What readers take where the test does not say."""

    def __init__(self, path: Path, index: MemoryIndex | None = None, **settings: Any) -> None:
        """Follow a source of this path."""
        self.index = index or MemoryIndex()
        values = {
            "path": path, "backend": self.backend, "stable_seconds": 0.3, "root_check_seconds": 0.2, **settings
        }  # fmt: skip
        self.source = FilesystemSource("www", FilesystemSettings(**values))
        self.deliveries: list[Delivery] = []
        self.changes: list[Change] = []
        """Of deliveries that are no seeds."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        await self.until(lambda: self.source.health.ready, "the source is ready")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Cancel and wait."""
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        async for delivery in self.source.deliveries(self.index):
            self.index.apply(delivery)
            self.deliveries.append(delivery)
            if not delivery.seed:
                self.changes.extend(delivery.changes)
            await delivery.ack()

    def clear(self) -> None:
        """Forget what was reported."""
        self.deliveries.clear()
        self.changes.clear()

    def of(self, key: str) -> list[Change]:
        """Return the changes of one key."""
        return [change for change in self.changes if change.key == key]

    def reported(self, key: str, kind: ChangeKind = ChangeKind.CONTENT, *, finished: bool = True) -> bool:
        """Return whether a key was reported so."""
        return any(change.kind is kind and change.finished is finished for change in self.of(key))

    async def until(self, condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
        """Wait for the condition, in real time."""
        end = time.monotonic() + seconds
        while not condition():
            if self._task is not None and self._task.done():
                self._task.result()
            assert time.monotonic() < end, f"not within {seconds} s: {what}\nchanges: {self.changes[-20:]}"
            await asyncio.sleep(0.02)

    async def until_reported(self, key: str, kind: ChangeKind = ChangeKind.CONTENT, *, finished: bool = True) -> None:
        """Wait until a key is reported so."""
        await self.until(lambda: self.reported(key, kind, finished=finished), f"{key!r} is told as {kind}")

    async def until_compared(self) -> None:
        """Wait until the index holds the digest of every file, and bytes are compared."""
        rows = self.index.rows
        await self.until(
            lambda: bool(rows) and all(found.etag for found, _ in rows.values()), "every file has a digest"
        )
        # Not before the watcher's queue was empty once: fanotify reports the whole file system.
        await self.until(lambda: self.source.compares, "bytes are compared")

    async def until_in_sync(self, path: Path) -> None:
        """Wait until the index holds exactly the tree's files, as they are."""
        await self.until(lambda: self._keys_now(path) == set(self.index.rows), "index and tree hold the same keys")

    @staticmethod
    def _keys_now(path: Path) -> set[str]:
        return {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()}
