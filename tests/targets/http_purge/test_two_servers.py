"""Two real nodes, one of them away: nothing is lost, the other is refreshed at once, and nothing is fresh too early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from listener.change import Change
from listener.refresh import Scope
from listener.store import NeedInput
from listener.targets.http_purge import HttpPurge
from tests.pipeline.scripted import a_world_of
from tests.pipeline.world import World
from tests.targets.http_purge.caches import Cache, Origin, cache, origin

pytestmark = pytest.mark.looptime(False)
BASE = "https://www.example.com/"


@pytest.fixture(scope="module")
def nodes(system_command: Callable[[str], str]) -> Iterator[tuple[Origin, Cache, Cache]]:
    """Run two Varnishes before one origin."""
    with ExitStack() as running:
        versions = running.enter_context(origin())
        one, two = (running.enter_context(cache("varnish", system_command, versions)) for _ in range(2))
        yield versions, one, two


def target_for(*servers: str, **settings: Any) -> HttpPurge:
    """Return a target for these nodes that does not wait long for an answer."""
    return HttpPurge("cdn", HttpPurge.Settings(servers=list(servers), answer_seconds=0.3, **settings))


async def is_stale(world: World, key: str) -> list[str]:
    """Return the reasons why a key is stale, an empty list where it is fresh."""
    return [row["reason"] or row["state"] for row in await world.store.explain(BASE + key)]


async def test_a_node_that_is_away_holds_up_nothing_and_is_not_forgotten(
    nodes: tuple[Origin, Cache, Cache], tmp_path: Path
) -> None:
    """It keeps the old copies meanwhile, and so do the needs; what changes again later is refreshed once more."""
    versions, here, away = nodes
    keys = [f"away/{n}.html" for n in range(20)]
    for key in keys:
        assert here.version(f"/{key}") == away.version(f"/{key}") == versions.version
    target = target_for(here.address, away.address)
    async with a_world_of(tmp_path, target) as world:
        away.freeze()
        versions.version += 1
        world.source.deliver(*(Change("www", key) for key in keys[:10]))
        await world.until(lambda: [here.version(f"/{key}") for key in keys[:10]] == [versions.version] * 10)

        async def waits() -> bool:
            return all([any(away.address in why for why in await is_stale(world, key)) for key in keys[:10]])

        await world.until(waits)
        counts = await world.store.counts()
        assert counts.failed == 10
        report = world.pipeline.engines[0].report
        assert away.address in report.problem
        assert report.remedy
        world.source.deliver(*(Change("www", key) for key in keys[10:]))  # the rest goes on
        await world.until(lambda: [here.version(f"/{key}") for key in keys[10:]] == [versions.version] * 10)
        for _ in range(6):  # a minute
            world.clock.ahead += 10
            await asyncio.sleep(0.2)
            assert (await world.store.counts()).failed + (await world.store.counts()).pending > 0
        assert all([await is_stale(world, key) for key in keys])
        away.go_on()
        world.clock.ahead += 61
        await asyncio.sleep(3.1)  # the target does not ask it again before
        world.clock.ahead += 61
        await world.settled(seconds=60)
        assert [away.version(f"/{key}") for key in keys] == [versions.version] * 20
        assert not world.pipeline.engines[0].report.problem
    await target.close()


async def test_a_directory_waits_for_every_node(nodes: tuple[Origin, Cache, Cache], tmp_path: Path) -> None:
    """By one request to each; what only one node dropped is not fresh."""
    versions, here, away = nodes
    paths = [f"/dir/sub/{n}.html" for n in range(5)]
    for path in paths:
        assert here.version(path) == away.version(path) == versions.version
    target = target_for(here.address, away.address)
    async with a_world_of(tmp_path, target) as world:
        away.freeze()
        versions.version += 1
        await world.store.request([NeedInput("cdn", f"{BASE}dir/", Scope.SUBTREE)])
        await world.until(lambda: [here.version(path) for path in paths] == [versions.version] * 5)

        async def failed() -> bool:
            return bool((await world.store.counts()).failed)

        await world.until(failed)
        away.go_on()
        await asyncio.sleep(3.1)
        world.clock.ahead += 61
        await world.settled(seconds=60)
        assert [away.version(path) for path in paths] == [versions.version] * 5
    await target.close()


async def test_where_no_node_answers_the_account_waits(tmp_path: Path, nodes: tuple[Origin, Cache, Cache]) -> None:
    """With the address and what to do; afterwards everything is refreshed."""
    versions, here, _ = nodes
    assert here.version("/all.html") == versions.version
    target = target_for(here.address)
    async with a_world_of(tmp_path, target) as world:
        here.freeze()
        versions.version += 1
        world.source.deliver(Change("www", "all.html"))
        await world.until(lambda: here.address in world.pipeline.engines[0].report.problem)
        assert await is_stale(world, "all.html")
        here.go_on()
        for _ in range(3):
            await asyncio.sleep(1.1)
            world.clock.ahead += 61
        await world.settled(seconds=60)
        assert here.version("/all.html") == versions.version
    await target.close()
