"""Several sites of one account, end to end: shares, priorities, and limits next to the day's quota."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from listener.allowances import ALIBABA_DAY, DAY_SECONDS
from listener.change import Change, ChangeKind
from listener.refresh import RefreshKind
from listener.settings import Site
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time

NO_RESERVE = {"planner": {"reserve": 0.0}}


async def run_sites(world: World, **sites: dict[str, Any]) -> None:
    """Run the pipeline again with a site for each folder, so set."""
    await world.stop()
    made = [
        Site(source="www", target="cdn", prefix=f"{name}/", base_urls=[world.url(f"{name}/")], **keys)  # type: ignore[arg-type]
        for name, keys in sites.items()
    ]
    world.settings = world.settings.model_copy(update={"sites": tuple(made)})
    await world.start()


def to_noon(world: World) -> None:
    """Move the clock to the middle of a quota day, so that what is kept for later is kept."""
    world.clock.ahead += DAY_SECONDS * 1.5 - (world.clock.now() - ALIBABA_DAY.start(world.clock.now()))


def deletions(folder: str, count: int) -> list[Change]:
    """Delete so many objects that nobody knew."""
    return [Change("www", f"{folder}{n}.html", ChangeKind.DELETED) for n in range(count)]


def spent(world: World) -> dict[str, int]:
    """Return how many refreshes the emulator accepted, by first folder."""
    folders = [path.removeprefix(world.emulator.edge_url + "/").partition("/")[0] for path in world.paths]
    return {folder: folders.count(folder) for folder in sorted(set(folders))}


async def deferred(world: World, count: int) -> None:
    """Wait until so many needs are deferred, the plan that left them is reported, and nothing flies."""

    async def seen() -> bool:
        counts = await world.store.counts()
        reported = sum(one.needs for one in world.pipeline.engines[0].outcome.deferred)
        return (counts.deferred, reported, counts.in_flight) == (count, count, 0)

    await world.until(seen)


async def test_a_bulk_of_one_site_leaves_another_its_guarantee(tmp_path: Path) -> None:
    """An import of fifty cannot take what is guaranteed to a shop that publishes later, whose four go at once."""
    async with a_world(tmp_path, quota=(10, 0), extra=NO_RESERVE) as world:
        await run_sites(world, www={}, shop={"guaranteed": {"file": 0.4}})
        to_noon(world)
        world.source.deliver(*deletions("www/", 50))
        await deferred(world, 44)
        world.source.deliver(*deletions("shop/", 4))
        await world.until(lambda: spent(world) == {"shop": 4, "www": 6})


async def test_a_greatest_share_counts_what_was_spent_before_a_restart(tmp_path: Path) -> None:
    """A site stops at its part of the day, also when the process is another one at that time."""
    async with a_world(tmp_path, quota=(10, 0), extra=NO_RESERVE) as world:
        sites: dict[str, dict[str, Any]] = {"www": {"share": {"file": 0.5}}, "shop": {}}
        await run_sites(world, **sites)
        to_noon(world)
        world.source.deliver(*deletions("www/a/", 3))
        await world.settled()
        await run_sites(world, **sites)
        world.source.deliver(*deletions("www/b/", 9))
        await deferred(world, 7)
        assert spent(world) == {"www": 5}
        reasons = {one.reason for one in world.pipeline.engines[0].outcome.deferred}
        assert all("its site has used up its share" in reason for reason in reasons)


async def test_of_two_sites_the_dearer_goes_first(tmp_path: Path) -> None:
    """Where quota is short the site of higher priority is served before the other."""
    async with a_world(tmp_path, quota=(0, 0), extra=NO_RESERVE) as world:
        await run_sites(world, www={"priority": 0.5}, shop={"priority": 3.0})
        to_noon(world)
        world.source.deliver(*deletions("www/", 4), *deletions("shop/", 4))
        await deferred(world, 8)
        world.emulator.account.ledger.limits[RefreshKind.FILE] = 5
        world.clock.ahead += 400  # the next reading of the live quota
        await deferred(world, 3)
        assert spent(world) == {"shop": 4, "www": 1}


async def test_an_origin_is_spared_more_evictions_a_minute_than_it_bears(tmp_path: Path) -> None:
    """Of two folders of sixty files one is refreshed whole at once, the other when the minute is over."""
    async with a_world(tmp_path, quota=(2, 9), extra=NO_RESERVE, site={"evictions_per_minute": 30}) as world:
        to_noon(world)
        files = {folder: [world.write(f"{folder}{n}.html", "old") for n in range(60)] for folder in ("a/", "b/")}
        world.source.deliver(*files["a/"], *files["b/"], seed=True)
        world.source.deliver(*files["a/"][:40], *files["b/"][:40])
        await deferred(world, 40)
        assert world.accepted == {"directory": 1}
        (why,) = {one.reason for one in world.pipeline.engines[0].outcome.deferred}
        assert "30 evictions a minute" in why
        world.source.deliver(world.write("x.html", "new"))  # a plan within the minute
        await world.until(lambda: "file" in world.accepted)
        assert world.accepted == {"directory": 1, "file": 1}
        world.clock.ahead += 61
        await world.settled()
        assert world.accepted == {"directory": 2, "file": 1}


async def test_what_a_cdn_takes_so_many_of_at_once_waits_for_one_to_end(tmp_path: Path) -> None:
    """With one slot for directories the second of two folders is asked for once the first is complete."""
    async with a_world(tmp_path, task_seconds=3600.0) as world:
        await world.stop()
        slots = {RefreshKind.DIRECTORY: replace(world.target.limits[RefreshKind.DIRECTORY], slots=1)}
        world.target.limits = {**world.target.limits, **slots}
        await world.start()
        world.source.deliver(*(Change("www", f"{name}/", ChangeKind.SUBTREE) for name in "ab"))
        await world.until(lambda: world.accepted == {"directory": 1} and world.pipeline.engines[0].outcome.deferred)
        (one,) = world.pipeline.engines[0].outcome.deferred
        assert "at once" in one.reason
        world.source.deliver(world.write("x.html", "new"))  # another plan
        await world.until(lambda: "file" in world.accepted)
        assert world.accepted == {"directory": 1, "file": 1}
        world.clock.ahead += 3601
        await world.until(lambda: world.accepted == {"directory": 2, "file": 1})
