"""Tests that every source must pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from listener.change import Change
from listener.contracts import Delivery, ProvidesSetup, Source, SourceState
from listener.errors import ConfigurationError, SourceError
from listener.testing.checks import check_fails, check_passes, check_settings
from listener.testing.following import Follower, MemoryIndex

__all__ = ["SourceConformance"]

GONE_NEIGHBOURS: Final = ("gone-too/a.html", "gone.html", "gon/a.html")
"""Keys that begin like the directory that a test deletes, and are outside of it."""


class SourceConformance:
    """What every source does. Override the first two hooks, and the others where they apply."""

    keys: Sequence[str] = ("index.html", "images/a b.png", "files/50%+ä.txt")
    """Keys that the storage can hold."""

    def make_source(self, folder: Path) -> Source:
        """Return a new source of the storage in, or behind, this empty folder; the same storage at each call."""
        raise NotImplementedError

    async def change(self, folder: Path, key: str) -> None:
        """Change the object with this key in the storage."""
        raise NotImplementedError

    async def delete(self, folder: Path, key: str) -> bool:  # noqa: ARG002 - a hook
        """Delete the object, or everything below a key that ends with ``/``; return False if nothing can be deleted."""
        return False

    async def send_unreadable(self, folder: Path) -> bool:  # noqa: ARG002
        """Let the storage send something that cannot be parsed; return False for a source without messages."""
        return False

    def make_broken_source(self, folder: Path) -> Source | None:  # noqa: ARG002
        """Return a source whose storage cannot be read, such as one with a wrong path or address."""
        return None

    @asynccontextmanager
    async def storage(self, folder: Path) -> AsyncIterator[None]:  # noqa: ARG002
        """Run what must run while a test does: a server, a queue."""
        yield

    # -- the tests -------------------------------------------------------------------------------

    def test_settings_refuse_unknown_keys(self, tmp_path: Path) -> None:
        """A misspelt key is an error."""
        check_settings(type(self.make_source(tmp_path)))

    def test_making_a_source_opens_nothing(self, tmp_path: Path) -> None:
        """Sources are made outside an event loop, often, and only to be checked."""
        for source in (self.make_source(tmp_path), self.make_source(tmp_path)):
            assert source.name and source.roots, "a source has a name and at least one root"
            assert source.health.state is SourceState.STARTING and not source.health.ready

    def test_a_change_is_delivered_with_its_key(self, tmp_path: Path) -> None:
        """The key is the object's, decoded exactly once, and the root is one of the source's."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                assert follower.source.health.state is SourceState.LISTENING
                for key in self.keys:
                    await self.change(tmp_path, key)
                    assert (await follower.until_changed(key)).root in follower.source.roots

        asyncio.run(body())

    def test_a_change_without_ack_is_delivered_again(self, tmp_path: Path) -> None:
        """The daemon may be killed before the commit: what was not acknowledged comes again after a restart."""
        key = self.keys[0]

        async def body() -> None:
            async with self.storage(tmp_path):
                index = MemoryIndex()
                async with Follower(self.make_source(tmp_path), index=index):
                    pass  # its first listing is complete, and it has acknowledged everything
                before = dict(index.rows)
                killed = Follower(self.make_source(tmp_path), index=index, acknowledges=False)
                async with killed:
                    await self.change(tmp_path, key)
                    await killed.until_changed(key)
                restarted = MemoryIndex()
                restarted.is_seeded = index.is_seeded
                for known, (fingerprint, _) in before.items():
                    restarted.apply(Delivery([Change("", known, fingerprint=fingerprint)]))
                async with Follower(self.make_source(tmp_path), index=restarted) as follower:
                    await follower.until_changed(key)

        asyncio.run(body())

    def test_a_change_while_it_is_stopped_is_not_lost(self, tmp_path: Path) -> None:
        """The storage keeps it, or a scan finds it."""
        key = self.keys[0]

        async def body() -> None:
            async with self.storage(tmp_path):
                index = MemoryIndex()
                async with Follower(self.make_source(tmp_path), index=index):
                    pass
                await self.change(tmp_path, key)
                async with Follower(self.make_source(tmp_path), index=index) as follower:
                    await follower.until_changed(key)

        asyncio.run(body())

    def test_a_deleted_object_is_delivered_as_deleted(self, tmp_path: Path) -> None:
        """Not as changed: a cache must learn that it is gone, and a backfill must not look for it."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                await self._fill(tmp_path, follower)
                if not await self.delete(tmp_path, self.keys[0]):
                    return
                await follower.until(lambda: self.keys[0] not in follower.index.rows, "the deletion is delivered")
                assert follower.index.rows.keys() >= {*self.keys[1:]}, "other objects were deleted"

        asyncio.run(body())

    def test_a_deleted_directory_is_delivered_with_all_that_was_below(self, tmp_path: Path) -> None:
        """As one change of the directory, or as one of each object; what is next to it, and named alike, stays."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                await self._fill(tmp_path, follower)
                if await self.delete(tmp_path, "gone/"):
                    await self._check_only_gone(follower)

        asyncio.run(body())

    def test_a_directory_deleted_while_it_is_stopped_is_delivered(self, tmp_path: Path) -> None:
        """The storage keeps the news, or a scan compares with the index."""

        async def body() -> None:
            async with self.storage(tmp_path):
                async with Follower(self.make_source(tmp_path)) as stopped:
                    await self._fill(tmp_path, stopped)
                if not await self.delete(tmp_path, "gone/"):
                    return
                async with Follower(self.make_source(tmp_path), index=stopped.index) as follower:
                    await self._check_only_gone(follower)

        asyncio.run(body())

    async def _fill(self, folder: Path, follower: Follower) -> None:
        """Make objects below ``gone/`` and next to it, and wait until all are delivered."""
        below = [f"gone/{prefix}{key}" for prefix in ("", "deep/er/") for key in self.keys]
        keys = (*self.keys, *below, *GONE_NEIGHBOURS)
        for key in keys:
            await self.change(folder, key)
        for key in keys:
            await follower.until_changed(key)

    async def _check_only_gone(self, follower: Follower) -> None:
        rows = follower.index.rows
        await follower.until(lambda: not any(key.startswith("gone/") for key in rows), "all below gone/ is deleted")
        assert rows.keys() >= {*self.keys, *GONE_NEIGHBOURS}, "objects outside of gone/ were deleted"

    def test_a_message_that_cannot_be_parsed_does_not_stop_it(self, tmp_path: Path) -> None:
        """It becomes a dead letter, and the next change is delivered."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                if not await self.send_unreadable(tmp_path):
                    return
                await self.change(tmp_path, self.keys[0])
                await follower.until_changed(self.keys[0])
                assert follower.unreadable, "it is in no delivery's `unreadable`"
                assert all(one.subject and one.reason for one in follower.unreadable)

        asyncio.run(body())

    def test_it_ends_when_it_is_cancelled(self, tmp_path: Path) -> None:
        """Within 20 seconds, leaving no task behind, and no longer ready."""

        async def body() -> None:
            async with self.storage(tmp_path):
                before = asyncio.all_tasks()
                source = self.make_source(tmp_path)
                async with Follower(source):
                    pass
                assert not source.health.ready
                assert asyncio.all_tasks() <= before, "tasks are left"

        asyncio.run(body())

    def test_check_says_that_all_is_well(self, tmp_path: Path) -> None:
        """Nothing fails, and nothing is changed by it."""

        async def body() -> None:
            async with self.storage(tmp_path):
                check_passes(await self.make_source(tmp_path).check())

        asyncio.run(body())

    def test_a_broken_storage_is_reported(self, tmp_path: Path) -> None:
        """By ``check``, and by an error of the contract or as degraded; it is never ready."""

        async def body() -> None:
            source = self.make_broken_source(tmp_path)
            if source is None:
                return
            check_fails(await source.check())
            health, follower = source.health, Follower(source)
            follower.start()
            try:
                await follower.until(
                    lambda: health.ready or (health.state is SourceState.DEGRADED and health.detail),
                    "it raises an error, or is degraded and says why",
                )
                assert not health.ready, "it became ready"
            except (SourceError, ConfigurationError) as error:
                assert str(error), "the error says nothing"
            finally:
                with suppress(SourceError, ConfigurationError):
                    await follower.stop()

        asyncio.run(body())

    def test_setup_is_text_under_headings(self, tmp_path: Path) -> None:
        """What is to be pasted at the other side."""
        source = self.make_source(tmp_path)
        if isinstance(source, ProvidesSetup):
            assert source.setup().startswith("#")
