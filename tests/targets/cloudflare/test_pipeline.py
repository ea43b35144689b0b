"""Changes reach the edge of the emulated Cloudflare through the whole pipeline."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from listener.change import Change, ChangeKind
from listener.emulator import CloudflareEmulator, CloudflareSettings
from tests.pipeline.world import (
    MovableClock,
    World,
    change_a_file_and_delete_a_directory,
    settings_for,
    visited,
)
from tests.targets.cloudflare.conftest import DIRECTORY, FILE, IGNORE_PARAMS, TOKEN, make_target

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


@asynccontextmanager
async def a_cloudflare_world(
    folder: Path, *, site: dict[str, Any] | None = None, **target: Any
) -> AsyncIterator[World]:
    """Run the pipeline between a played source and an emulated Cloudflare."""
    (folder / "origin").mkdir()
    clock = MovableClock()
    options = CloudflareSettings(origin=str(folder / "origin"), token=TOKEN, api_port=0, edge_port=0, clock=clock)
    async with CloudflareEmulator(options) as emulator:
        cdn = make_target(emulator.api_url, settles_after_seconds=0.1, **target)
        settings = settings_for(folder, emulator)  # type: ignore[arg-type]
        world = World(folder, settings, emulator, cdn)  # type: ignore[arg-type]
        async with visited(world, clock):
            yield world


def purged(world: World) -> list[tuple[str, str, bool]]:
    """Return by what was purged, which path, and whether copies were dropped."""
    edge = world.emulator.edge_url.removeprefix("http://")
    return [
        (record.by, record.path.removeprefix("http://").removeprefix(edge), record.force)  # type: ignore[attr-defined]
        for record in world.emulator.tasks.all()
    ]


async def test_files_and_directories_turn_fresh(tmp_path: Path) -> None:
    """A file by its URL; a deleted directory by one prefix, which leaves a longer name alone."""
    async with a_cloudflare_world(tmp_path) as world:
        await change_a_file_and_delete_a_directory(world)
        assert purged(world) == [("files", "/a.html", True), ("prefixes", "/d/", True)]


async def test_soft_purges_revalidate(tmp_path: Path) -> None:
    """A copy is marked as stale; one that the origin would not show to have changed is dropped."""
    async with a_cloudflare_world(tmp_path, soft=True) as world:
        world.source.deliver(world.write("a.html", "one"))
        await world.settled()
        assert await world.get("a.html") == "one"
        world.source.deliver(world.write("a.html", "two, longer"))
        await world.settled()
        assert await world.get("a.html") == "two, longer"
        assert {one for one in purged(world) if not one[2]} == {("files", "/a.html", False)}


async def test_a_host_of_no_zone_holds_nothing_up(tmp_path: Path) -> None:
    """Its URLs are set aside with the reason; those of the zone turn fresh."""
    async with a_cloudflare_world(tmp_path) as world:
        await world.stop()
        site = {"base_urls": [world.emulator.edge_url + "/", "https://www.example.net/"]}
        world.settings = settings_for(tmp_path, world.emulator, site=site)
        await world.start()
        assert await world.get("a.html") == "404"
        world.source.deliver(world.write("a.html", "one"))
        await world.settled()
        assert await world.get("a.html") == "one"
        assert (await world.store.counts()).parked == 1


async def test_a_full_window_of_prefixes_holds_no_file_up(tmp_path: Path) -> None:
    """Somebody else used up the requests by prefix: directories wait as long as the answer says, files go on."""
    async with a_cloudflare_world(tmp_path, plan="pro") as world:  # the emulated plan refills more slowly
        emulator: Any = world.emulator
        for key in ("a.html", "d/1"):
            world.write(key, "one")
            assert await world.get(key) == "one"
        emulator._server.requests.drain(emulator.clock.now())
        shutil.rmtree(world.origin / "d")
        world.source.deliver(Change("www", "d/", ChangeKind.SUBTREE_DELETED))
        await world.until(lambda: any(one.account.full(world.clock.now()) for one in world.pipeline.engines))
        world.source.deliver(world.write("a.html", "two, longer"))
        await world.until(lambda: purged(world))
        assert purged(world) == [("files", "/a.html", True)]
        world.clock.ahead += 13
        await world.settled()
        assert purged(world)[1:] == [("prefixes", "/d/", True)]


async def test_a_plan_without_prefixes_holds_no_file_up(tmp_path: Path) -> None:
    """Directories wait, with what a person must do; files go on, and so do directories once the plan has them."""
    async with a_cloudflare_world(tmp_path) as world:
        for key in ("a.html", "d/1"):
            world.write(key, "one")
            assert await world.get(key) == "one"
        world.order("plan-lacks:prefixes")
        shutil.rmtree(world.origin / "d")
        world.source.deliver(Change("www", "d/", ChangeKind.SUBTREE_DELETED))
        await world.until(lambda: any(one.account.full(world.clock.now()) for one in world.pipeline.engines))
        world.source.deliver(world.write("a.html", "two, longer"))
        await world.until(lambda: purged(world))
        assert purged(world) == [("files", "/a.html", True)]
        report = world.pipeline.engines[0].report
        assert "Only enterprise zones can purge by prefixes" in report.problem
        assert 'subtree = "none"' in report.remedy
        world.emulator.faults.clear()
        world.clock.ahead += 601
        await world.settled()
        assert purged(world)[1:] == [("prefixes", "/d/", True)]


async def test_directories_are_merged_while_none_may_be_sent(tmp_path: Path) -> None:
    """What exceeds the requests by prefix is not planned: all that is due when the next one comes goes by that one."""
    limits = {"bucket_requests": 1, "requests_per_second": 0.5}
    async with a_cloudflare_world(tmp_path, plan="pro", limits=limits) as world:
        world.source.deliver(Change("www", "d0/", ChangeKind.SUBTREE_DELETED))
        await world.until(lambda: purged(world))
        for number in range(1, 9):
            world.source.deliver(Change("www", f"d{number}/", ChangeKind.SUBTREE_DELETED))
            await asyncio.sleep(0.15)  # each is due by itself
        await world.settled()
        assert world.emulator.purged == {"prefixes": 9, "requests": 2}  # type: ignore[attr-defined]


async def test_rates_are_those_of_the_bucket(tmp_path: Path) -> None:
    """A hundred directories for each request that may be made; none where there are only files."""
    target = make_target("http://127.0.0.1:1")
    assert not target.rates(), "nothing was sent yet"
    await target.admit(DIRECTORY, ["https://www.example.com/a/"])
    (rate,) = target.rates()
    assert (rate.kinds, rate.left) == ({DIRECTORY, IGNORE_PARAMS}, 2400)
    target._requests.drain(asyncio.get_running_loop().time())
    (rate,) = target.rates()
    assert rate.left == 0 and 11 < rate.refills_after_seconds <= 12
    only_files = make_target("http://127.0.0.1:1", subtree="none")
    await only_files.admit(FILE, ["https://www.example.com/a"])
    assert not only_files.rates()
