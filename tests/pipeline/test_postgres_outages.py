"""The database goes away under a pipeline that works: deliveries wait, the trouble is shown, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from listener.store import Store
from listener.store.postgres import connection
from listener.store.postgres.access import PostgresDriver
from listener.store.postgres.connection import Limits
from listener.store.store import StoreOptions
from tests.pipeline import world as worlds
from tests.pipeline.world import World, a_world
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeCluster, MakeWire

pytestmark = pytest.mark.looptime(False)
LIMITS = Limits(seconds=1.5, statement_seconds=1.0, lock_seconds=0.5, idle_seconds=1.0)
KEYS = [f"d{number % 3}/{number}.html" for number in range(30)]


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """A server of its own, which survives a crash."""
    return make_cluster(durable=True)


@asynccontextmanager
async def world_on(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Run the pipeline on a PostgreSQL store, as the only instance."""

    def opened(_: str, *, options: StoreOptions, clock: Any, owner: bool) -> Store:
        driver = PostgresDriver(url, instance="web-1", owner=owner, readonly=False)
        return Store(driver, options=options, clock=clock)

    monkeypatch.setattr(worlds, "open_store", opened)
    monkeypatch.setattr(connection.PostgresConnection.begin, "__defaults__", (LIMITS,))
    async with a_world(folder) as world:
        yield world


async def interrupted(world: World, away: Callable[[], object], back: Callable[[], object]) -> None:
    """Change files before, during and after; everything turns fresh, each change is acknowledged and paid for once."""
    for key in KEYS:
        world.write(key, "old")
        assert await world.get(key) == "old"
    before, during, after = KEYS[:10], KEYS[10:20], KEYS[20:]
    for key in before:
        world.source.deliver(world.write(key, "new"))
    await world.until(lambda: world.source.acked == len(before))
    await asyncio.to_thread(away)
    for key in during:
        world.source.deliver(world.write(key, "new"))
    await world.until(lambda: world.pipeline.store_trouble is not None)
    assert "PostgreSQL" in str(world.pipeline.store_trouble)
    assert world.source.acked == len(before)
    await asyncio.to_thread(back)
    for key in after:
        world.source.deliver(world.write(key, "new"))
    await world.until(lambda: world.source.acked == len(KEYS), seconds=40)
    await world.settled(seconds=40)
    assert {await world.get(key) for key in KEYS} == {"new"}
    assert world.pipeline.store_trouble is None
    spent, held = await world.ledger()
    assert (world.accepted["file"], held) == (spent, 0)
    assert len(KEYS) <= spent <= len(KEYS) + len(before)  # what was sent as the server went is unknown, and may repeat


async def test_the_server_crashes_and_comes_back(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was under way."""
    async with world_on(cluster.url(), tmp_path, monkeypatch) as world:
        await interrupted(world, lambda: cluster.stop("immediate"), cluster.start)


async def test_the_wire_falls_silent(
    cluster: Cluster, make_wire: MakeWire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is closed, nothing is answered: the time limits notice."""
    wire = make_wire(cluster.port)
    async with world_on(cluster.url(port=wire.port, connect_timeout=2), tmp_path, monkeypatch) as world:
        await interrupted(world, wire.cut, wire.mend)


async def test_connections_are_refused_for_a_while(
    cluster: Cluster, make_wire: MakeWire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a load balancer without a server."""
    wire = make_wire(cluster.port)
    async with world_on(cluster.url(port=wire.port), tmp_path, monkeypatch) as world:
        await interrupted(world, wire.refuse, wire.mend)
