"""What changes around a tree without an event in it: mounts, and what links lead to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from listener.change import key_to_bytes, key_to_text
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.live import Live
from listener.sources.filesystem.mounts import Mount
from listener.sources.filesystem.mountwatch import MountWatch
from listener.sources.filesystem.rescans import MOUNTED, Rescans
from listener.sources.filesystem.trouble import outdated

__all__ = ["Surroundings"]

_REST_FACTOR = 100
"""How many times as long as a look at all links took to rest after it: they cost a hundredth of a core at most."""


class Surroundings:
    """Checks mounts and links, and requests the comparisons they need."""

    def __init__(
        self,
        root: bytes,
        *,
        links: Links,
        live: Live,
        deletion_guard: DeletionGuard,
        rescans: Rescans,
        interval_seconds: float,
    ) -> None:
        """Look at links each ``interval_seconds`` at most; at mounts whenever :meth:`look` is called."""
        self.link_check_seconds = interval_seconds
        """How often links are looked at."""
        self._mounts = MountWatch(os.fsdecode(root))
        self._links = links
        self._live = live
        self._deletion_guard = deletion_guard
        self._rescans = rescans
        self._interval = interval_seconds
        self._next_links = 0.0
        self._mounts_changed = asyncio.Event()
        self._looking = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        live.before_deleting = self.before_deleting

    def follow_mounts(self, wake: Callable[[], None]) -> None:
        """Look at mounts as soon as the table changes, until closed; ``wake`` is called after each look."""
        signal = self._mounts.signal()
        if signal is not None:
            asyncio.get_running_loop().add_reader(signal, self._mounts_changed.set)
            self._following = asyncio.create_task(self._follow_mounts(wake))

    async def _follow_mounts(self, wake: Callable[[], None]) -> None:
        while True:
            await self._mounts_changed.wait()
            self._mounts_changed.clear()
            await self.look_at_mounts()
            wake()

    def close(self) -> None:
        """Give the mount table back."""
        if self._following is not None and (signal := self._mounts.signal()) is not None:
            self._following.cancel()
            asyncio.get_running_loop().remove_reader(signal)
        self._mounts.close()

    @property
    def replaced(self) -> list[Mount]:
        """The mounts of the tree that show a directory which was renamed or removed elsewhere."""
        return self._mounts.replaced

    async def before_deleting(self) -> None:
        """Know of a replaced root before deletions are judged."""
        if self._mounts.pins_root:
            await self.look_at_mounts()

    async def look(self) -> None:
        """Look at mounts, and at links when it is time."""
        if self._following is not None and self._following.done():
            self._following.result()
        await self.look_at_mounts()
        if self._links and time.monotonic() >= self._next_links:
            await self._look_at_links()

    async def look_at_mounts(self) -> None:
        """Compare what was mounted or unmounted; believe no deletion while the root's mount shows an old directory."""
        async with self._looking:
            found = await asyncio.to_thread(self._mounts.look, self._links.targets.directories)
        now = time.monotonic()
        for prefix in found.directories:
            self._rescans.want(key_to_text(prefix), MOUNTED, now, prompt=True)
        self._live.look_at(found.names)
        was_suspended, old = bool(self._deletion_guard.suspended), self._mounts.replaced_root
        self._deletion_guard.suspended = outdated(old) if old else ""
        if was_suspended and not old:
            self._rescans.want("", MOUNTED, now, prompt=True)

    async def _look_at_links(self) -> None:
        began = time.monotonic()
        changed = await asyncio.to_thread(self._links.targets.changed)
        took_seconds = time.monotonic() - began
        self.link_check_seconds = max(self._interval, _REST_FACTOR * took_seconds)
        self._next_links = began + self.link_check_seconds
        self._live.look_at(map(key_to_bytes, changed))
