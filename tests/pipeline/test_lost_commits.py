"""A standby is promoted that lacks confirmed commits: what was acknowledged is recorded again, and turns fresh."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from listener.store import Store
from listener.store.postgres.access import PostgresDriver
from listener.store.store import StoreOptions
from tests.pipeline import world as worlds
from tests.pipeline.world import World, a_world
from tests.postgres.fixtures import MakeCluster, MakeStandby
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
KEPT, LOST = [f"kept/{number}.html" for number in range(5)], [f"lost/{number}.html" for number in range(5)]


def open_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the world open this store, as the only instance."""

    def opened(_: str, *, options: StoreOptions, clock: Any, owner: bool) -> Store:
        driver = PostgresDriver(url, instance="web-1", owner=owner, readonly=False)
        return Store(driver, options=options, clock=clock)

    monkeypatch.setattr(worlds, "open_store", opened)


async def deliver(world: World, keys: list[str], text: str) -> None:
    """Change these files, each in a delivery of its own, and wait until all are acknowledged."""
    before = world.source.acked
    for key in keys:
        world.source.deliver(world.write(key, text))
    await world.until(lambda: world.source.acked == before + len(keys))


@pytest.mark.parametrize("restarts", [False, True], ids=["while it runs", "across a restart"])
async def test_what_was_acknowledged_and_lost_is_recorded_again(
    make_cluster: MakeCluster,
    make_standby: MakeStandby,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restarts: bool,
) -> None:
    """The queue has forgotten it: only this instance knows. The loss is reported."""
    primary = make_cluster()
    open_on(primary.url(), monkeypatch)
    async with a_world(tmp_path) as world:
        for key in KEPT + LOST:
            world.write(key, "old")
            assert await world.get(key) == "old"
        await deliver(world, KEPT, "new")
        await world.settled()
        await world.stop()
        standby = await asyncio.to_thread(make_standby, primary)
        open_on(f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres", monkeypatch)
        await world.start()
        world.order("error500:100,action=RefreshObjectCaches")  # so that nothing is sent before the failover
        await asyncio.to_thread(standby.stall)
        await deliver(world, LOST, "new")
        if restarts:
            world.pipeline.stop()
            await world.running
            await world.store.close()
        await asyncio.to_thread(primary.stop, "immediate")
        await asyncio.to_thread(standby.promote)
        if restarts:
            await world.start()
        world.emulator.faults.clear()
        await until(lambda: any("were recorded again" in one for one in world.pipeline.troubles), seconds=40)
        await world.settled(seconds=40)
        assert {await world.get(key) for key in KEPT + LOST} == {"new"}
        (trouble,) = [one for one in world.pipeline.troubles if "lost" in one]
        assert "backfill" not in trouble
