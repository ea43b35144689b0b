"""A damaged state file stops the pipeline: nothing is sent, the daemon stays up and is not ready, for good."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from listener.daemon.state import reasons_not_ready
from listener.errors import StoreUnusable
from listener.pipeline import Pipeline
from listener.store import Store
from tests.pipeline.world import a_world

pytestmark = pytest.mark.looptime(False)


async def spoil(store: Store) -> None:
    """Put text into a row that is no UTF-8, as a page that was overwritten would."""
    await store._write(lambda c: c.execute("UPDATE target SET name = cast(x'ff80' AS TEXT)").rowcount)


async def test_damage_found_at_work_stops_sending_for_good(tmp_path: Path) -> None:
    """Not ready, with the remedy; changes that arrive later are neither acknowledged nor sent; it ends at once."""
    async with a_world(tmp_path) as world:
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        await spoil(world.store)
        with pytest.raises(StoreUnusable):
            await world.store.history()
        acked, sent = world.source.acked, len(world.paths)
        world.source.deliver(world.write("b.html", "new"))
        await world.until(lambda: reasons_not_ready(world.pipeline, "running"))
        await asyncio.sleep(1.0)
        (reason,) = reasons_not_ready(world.pipeline, "running")
        assert "restore a backup" in reason
        assert not world.pipeline.ready
        assert "restore a backup" in world.pipeline.troubles[0]
        assert (world.source.acked, len(world.paths)) == (acked, sent)
        async with asyncio.timeout(30):
            world.pipeline.stop()
            await world.running


async def test_damage_found_at_the_start_is_reported_and_nothing_is_done(tmp_path: Path) -> None:
    """The daemon stays up to say so; a command that runs the pipeline to its end raises it."""
    async with a_world(tmp_path) as world:
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        await world.stop()
        page = world.store.path.read_bytes()[4096:8192]
        raw = bytearray(world.store.path.read_bytes())
        raw[8192:12288] = page
        world.store.path.write_bytes(raw)
        await world.start()
        await world.until(lambda: world.pipeline.store_trouble)
        assert not world.pipeline.ready
        assert not world.running.done()
        ended = Pipeline(
            world.settings,
            world.store,
            make_sources=lambda: {"www": world.source},
            targets={"cdn": world.target},
            clock=world.clock,
        )
        with pytest.raises(StoreUnusable):
            await ended.run(until_idle=True)
