"""What only a backfill requests waits behind everything that changes now, wherever the two meet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind
from listener.refresh import Priority, RefreshKind
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)

MINUTE = {"limits": {"urls_per_domain_minute": 400}}
"""A domain's minute is full after so many: whatever stands behind a backfill there waits for the next one."""


async def begun(world: World, count: int) -> None:
    """Begin a backfill of so many files, and wait until it sends."""
    changes = [world.write(f"old/{number % 7}/{number}.html", "new") for number in range(count)]
    world.source.deliver(*changes, priority=Priority.BACKFILL)
    (engine,) = world.pipeline.engines

    async def all_seen() -> bool:
        counts = await world.store.counts()
        return counts.pending + counts.in_flight >= count - world.accepted.get("file", 0)

    await world.until(all_seen)

    async def all_planned() -> bool:
        none_waits = await world.store.next_due() is None
        return none_waits and engine.settled and engine.planned_to >= await world.store.revision()

    await world.until(all_planned)
    await world.until(lambda: engine.settled and world.accepted.get("file", 0) >= 100)


def sent(world: World, key: str) -> bool:
    """Return whether the CDN was asked for a key."""
    return any(path.endswith(f"/{key}") for path in world.paths)


async def test_a_change_goes_first_though_a_backfill_fills_the_minute(tmp_path: Path) -> None:
    """A change during a backfill of several minutes is fresh at the edge in seconds."""
    async with a_world(tmp_path, quota=(10_000, 0), target=MINUTE) as world:
        world.write("shop/now.html", "old")
        assert await world.get("shop/now.html") == "old"
        await begun(world, 2_000)
        change = world.write("shop/now.html", "new")
        world.source.deliver(change)

        async def fresh() -> bool:
            return await world.get("shop/now.html") == "new"

        await world.until(fresh)
        assert world.accepted["file"] < 400


async def test_a_change_of_what_a_backfill_asked_for_goes_first(tmp_path: Path) -> None:
    """A need that both ask for is a change's; what a backfill requests in the same directory waits on."""
    async with a_world(tmp_path, quota=(10_000, 0), target=MINUTE) as world:
        await begun(world, 4_000)
        waiting = await world.store._read(
            lambda c: c.execute(
                "SELECT url || name FROM need JOIN directory ON id = directory WHERE state = 1 AND ready > 100"
            ).fetchall()
        )
        key = str(waiting[-1][0]).removeprefix(world.url(""))
        world.source.deliver(world.write(key, "newer"))
        await world.until(lambda: sent(world, key))
        assert world.accepted["file"] < 400


async def test_a_changed_directory_goes_before_many_of_a_backfill(tmp_path: Path) -> None:
    """A request of a backfill is no larger than its part of a minute, also of the few directories that one takes."""
    minute = {"limits": {"directories_per_domain_minute": 40}}
    async with a_world(tmp_path, quota=(0, 1_000), target=minute) as world:
        many = (Change("www", f"old/{number}/", ChangeKind.SUBTREE) for number in range(200))
        world.source.deliver(*many, priority=Priority.BACKFILL)
        await world.until(lambda: world.accepted.get("directory", 0) >= 10)
        world.source.deliver(Change("www", "shop/", ChangeKind.SUBTREE))
        await world.until(lambda: sent(world, "shop/"))
        assert world.accepted["directory"] < 40


async def test_no_more_quota_is_held_for_a_backfill_than_is_soon_sent(tmp_path: Path) -> None:
    """What is held cannot be had by a change; so little is held, and the rest is asked for as it is sent."""
    async with a_world(tmp_path, quota=(5_000, 0), target=MINUTE) as world:
        await begun(world, 4_800)
        _, held = await world.ledger(RefreshKind.FILE)
        assert 0 < held <= 2_000
        world.source.deliver(*(world.write(f"shop/{number}.html", "new") for number in range(60)))
        await world.until(lambda: sum("/shop/" in path for path in world.paths) == 60)


async def test_a_backfill_ends_though_changes_never_do(tmp_path: Path) -> None:
    """Behind is not never: with room for both a backfill gets on while a change comes every moment."""
    async with a_world(tmp_path, quota=(10_000, 0)) as world:

        async def change() -> None:
            while True:
                world.source.deliver(world.write("shop/busy.html", "new"))
                await asyncio.sleep(0.1)

        changing = asyncio.create_task(change())
        await begun(world, 300)
        await world.until(lambda: len({path for path in world.paths if "/old/" in path}) == 300)
        changing.cancel()


async def test_what_a_backfill_asked_for_is_remembered_as_that(tmp_path: Path) -> None:
    """After a restart it still waits behind changes, and the hours in which it went are not learned as busy ones."""
    async with a_world(tmp_path, quota=(10_000, 0), target=MINUTE) as world:
        await begun(world, 2_000)
        await world.stop(crash=True)
        await world.start()
        world.source.deliver(world.write("shop/now.html", "new"))
        await world.until(lambda: sent(world, "shop/now.html"))
        (engine,) = world.pipeline.engines
        learned = await world.store._read(
            lambda c: c.execute("SELECT count(*) FROM attempt WHERE priority = 0").fetchone()[0]
        )
        assert learned == 1
        assert engine.account.arrivals.objects <= 1
