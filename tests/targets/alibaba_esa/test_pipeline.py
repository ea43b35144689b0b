"""Changes reach the edge of the emulated ESA through the whole pipeline, within both quotas of the site."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from listener.alibaba.signature import Credentials
from listener.emulator import EsaEmulator, EsaSettings
from listener.refresh import RefreshKind, Scope
from listener.store import NeedInput
from tests.keys import KEYS
from tests.pipeline.world import (
    MovableClock,
    World,
    change_a_file_and_delete_a_directory,
    settings_for,
    visited,
)
from tests.targets.alibaba_esa.conftest import DAY_SECONDS, DIRECTORY, FILE, make_target

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


@asynccontextmanager
async def an_esa_world(folder: Path, *faults: str, **emulated: dict[RefreshKind, int]) -> AsyncIterator[World]:
    """Run the pipeline between a played source and an emulated site that has the host of the edge."""
    (folder / "origin").mkdir()
    clock = MovableClock()
    options = EsaSettings(
        origin=str(folder / "origin"),
        credentials=Credentials(*KEYS.values()),
        api_port=0,
        edge_port=0,
        clock=clock,
        task_seconds=0.1,
        faults=tuple(map(EsaEmulator.table.parse, faults)),
        **emulated,
    )
    async with EsaEmulator(options) as emulator:
        cdn = make_target(emulator.api_url, clock=clock, site="127.0.0.1")
        more = {"planner": {"reserve": 0.0}, "verifier": {"first_seconds": 0.2, "interval_seconds": 0.1}}
        settings = settings_for(folder, emulator, more)  # type: ignore[arg-type]
        world = World(folder, settings, emulator, cdn)  # type: ignore[arg-type]
        async with visited(world, clock):
            yield world


def sent(world: World) -> list[str]:
    """Return the paths that the emulator accepted, in order."""
    edge = world.emulator.edge_url
    return [record.path.removeprefix(edge) for record in world.emulator.tasks.all()]


async def test_files_and_directories_turn_fresh(tmp_path: Path) -> None:
    """A file by its URL, a deleted directory by one purge; each counts once its task is complete."""
    async with an_esa_world(tmp_path) as world:
        await change_a_file_and_delete_a_directory(world)
        assert sent(world) == ["/a.html", "/d/"]


@pytest.mark.parametrize("lost", ["reset:1", "accept-then-reset:1"])
async def test_a_lost_answer_is_looked_up_and_nothing_paid_twice(tmp_path: Path, lost: str) -> None:
    """By the URL in the site's list of tasks."""
    async with an_esa_world(tmp_path, f"{lost},action=PurgeCaches") as world:
        world.source.deliver(world.write("a.html", "one"))
        await world.settled()
        assert sent(world) == ["/a.html"]
        assert await world.get("a.html") == "one"


async def test_a_purge_waits_for_the_window_that_is_used_up(tmp_path: Path) -> None:
    """Two days use up the 30 days, though each has some left: the rest waits until the first day has left them."""
    quota = {"quota": {FILE: 10, DIRECTORY: 0}, "quota_30_days": {FILE: 12}}
    async with an_esa_world(tmp_path, **quota) as world:
        for day in range(2):
            await request(world, *(f"{day}-{number}.html" for number in range(6)))
            await world.until(lambda: spent(world) == 6 * (day + 1))  # noqa: B023
            await world.settled()
            world.clock.ahead += DAY_SECONDS
        await request(world, *(f"late-{number}.html" for number in range(3)))
        await world.until(lambda: sum(one.needs for one in world.pipeline.engines[0].outcome.deferred) == 3)
        assert {"30 days" in one.reason for one in world.pipeline.engines[0].outcome.deferred} == {True}
        await asyncio.sleep(0.5)
        assert spent(world) == 12
        world.clock.ahead += 31 * DAY_SECONDS
        await world.until(lambda: spent(world) == 15)
        await world.settled()


def spent(world: World) -> int:
    """Return the files that the emulator has counted since it runs."""
    emulator: Any = world.emulator
    return sum(units.get("file", 0) for units in emulator.sites[0].ledger.windows().values())


async def request(world: World, *keys: str) -> None:
    """Request URLs, which are not paced as changes are."""
    needs = [NeedInput("cdn", world.url(key), Scope.EXACT) for key in keys]
    await world.store.request(needs, urgent=True, reason="a test")
