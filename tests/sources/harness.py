"""A reader that follows a source of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from listener.change import Change, ChangeKind
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.sources.filesystem.fanotify import refusal
from listener.testing import Follower, MemoryIndex


def fanotify_needed(request: pytest.FixtureRequest, path: Path) -> None:
    """Go on where a tree can be marked; elsewhere the test fails in CI, and is skipped and reported in red."""
    refused = refusal(path)
    if refused is not None:
        request.getfixturevalue("absent")(f"a file system that fanotify can mark ({refused})")


class Reader(Follower):
    """Follows a source of files."""

    source: FilesystemSource

    backend = "auto"
    """What readers take where the test does not say."""

    def __init__(self, path: Path, index: MemoryIndex | None = None, **settings: Any) -> None:
        """Follow a source of this path."""
        values = {
            "path": path, "backend": self.backend, "stable_seconds": 0.3, "root_check_seconds": 0.2, **settings
        }  # fmt: skip
        super().__init__(FilesystemSource("www", FilesystemSettings(**values)), index=index)

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

    async def until_reported(self, key: str, kind: ChangeKind = ChangeKind.CONTENT, *, finished: bool = True) -> None:
        """Wait until a key is reported so."""
        await self.until(lambda: self.reported(key, kind, finished=finished), f"{key!r} is reported as {kind}")

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
