"""Changes reach the edge of the emulated CloudFront through the whole pipeline."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from listener.allowances import Month
from listener.contracts import Pace
from listener.emulator import CloudFrontEmulator, CloudFrontSettings
from listener.refresh import AttemptState
from tests.pipeline.world import (
    MovableClock,
    World,
    change_a_file_and_delete_a_directory,
    settings_for,
    visited,
)
from tests.targets.cloudfront.conftest import FIRST, KEY, make_target

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


@asynccontextmanager
async def a_cloudfront_world(
    folder: Path, *, site: dict[str, Any] | None = None, **target: Any
) -> AsyncIterator[World]:
    """Run the pipeline between a played source and an emulated CloudFront."""
    (folder / "origin").mkdir()
    clock = MovableClock()
    options = CloudFrontSettings(
        origin=str(folder / "origin"),
        key=KEY,
        api_port=0,
        edge_port=0,
        clock=clock,
        task_seconds=0.1,
    )
    made = CloudFrontEmulator(options)
    made.clock.unmoved = time.time  # type: ignore[method-assign]  # requests are signed with the machine's
    async with made as emulator:
        cdn = make_target(emulator.api_url, **target)
        cdn.pace = Pace(lanes=1, first_look_seconds=0.2, interval_seconds=0.1)  # type: ignore[misc]
        table = {
            "targets": {"cdn": {"type": "cloudfront", "distribution": FIRST.id}},
            "planner": {"reserve": 0.0},
        }
        settings = settings_for(folder, emulator, table, site)  # type: ignore[arg-type]
        world = World(folder, settings, emulator, cdn)  # type: ignore[arg-type]
        async with visited(world, clock):
            yield world


def paths(world: World) -> list[str]:
    """Return the paths that were invalidated."""
    return [record.path for record in world.emulator.tasks.all()]


def charged(world: World) -> int:
    """Return how many paths the account has to pay, free or not."""
    emulator: Any = world.emulator
    return int(emulator.account.months.total())


async def test_files_and_directories_turn_fresh(tmp_path: Path) -> None:
    """A file by its path; a deleted directory by one wildcard, which leaves a longer name alone."""
    async with a_cloudfront_world(tmp_path) as world:
        await change_a_file_and_delete_a_directory(world)
        assert paths(world) == ["/a.html", "/d/*"]


async def test_hosts_of_a_distribution_share_a_path(tmp_path: Path) -> None:
    """Two base URLs: one need, one path, paid once; both hosts turn fresh, and either finds it."""
    async with a_cloudfront_world(tmp_path) as world:
        await world.stop()
        base = world.emulator.edge_url + "/"
        bases = [base, "https://other.example.com/"]
        world.settings = world.settings.model_copy(
            update={"sites": tuple(one.model_copy(update={"base_urls": tuple(bases)}) for one in world.settings.sites)}
        )
        await world.start()

        async def other() -> str:
            headers = {"Host": "other.example.com"}
            async with world.http.get(base + "a.html", headers=headers) as response:
                return await response.text()

        world.write("a.html", "one")
        assert [await world.get("a.html"), await other()] == ["one", "one"]
        world.source.deliver(world.write("a.html", "two, longer"))
        await world.settled()
        assert [await world.get("a.html"), await other()] == ["two, longer", "two, longer"]
        assert paths(world) == ["/a.html"] and charged(world) == 1
        assert world.pipeline.addresses("https://other.example.com/a.html")[1] == base + "a.html"


async def test_what_cannot_be_named_is_widened_once(tmp_path: Path) -> None:
    """Names that begin alike are one path; a neighbour that begins so is evicted, too. None above the depth."""
    async with a_cloudfront_world(tmp_path) as world:
        names = ("d/a~1", "d/a~2", "d/abc", "d/b")
        for key in (*names, "x~"):
            world.write(key, "one")
            assert await world.get(key) == "one"
        (world.origin / "d/b").write_text("never reported")
        world.source.deliver(world.write("d/a~1", "two, longer"))
        world.source.deliver(world.write("d/a~2", "two, longer"))
        world.source.deliver(world.write("x~", "two, longer"))
        await world.settled()
        assert [await world.get(key) for key in names] == ["two, longer", "two, longer", "one", "one"]
        assert paths(world) == ["/d/a*"] and charged(world) == 1
        (row,) = await world.store.history(url=world.url("d/a") + "*")
        assert "Takes all that begins so (2 known objects)" in row["reason"]
        (letter,) = await world.store.dead_letters()
        assert letter.subject == world.url("x~")
        assert "CloudFront cannot be asked for '~' in a path" in str(letter)


@pytest.mark.parametrize("fault", ["accept-then-reset:1", "accept-then-timeout:1", "error500:1"])
async def test_an_answer_that_is_lost_is_paid_once(tmp_path: Path, fault: str) -> None:
    """The same is sent again with its reference, and followed to its end."""
    async with a_cloudfront_world(tmp_path) as world:
        for key in ("a.html", "b.html"):
            world.write(key, "one")
            assert await world.get(key) == "one"
        emulator: Any = world.emulator
        emulator.faults.order(emulator.table.parse(f"{fault},action=CreateInvalidation"), emulator.clock.now())
        world.source.deliver(world.write("a.html", "two, longer"), world.write("b.html", "two, longer"))
        await world.until(lambda: world.pipeline.engines)

        async def is_unknown() -> bool:
            return bool(await world.store.attempts_in(AttemptState.UNKNOWN))

        await world.until(is_unknown)
        world.clock.ahead += 6
        await world.settled()
        assert [await world.get(key) for key in ("a.html", "b.html")] == ["two, longer"] * 2
        assert sorted(paths(world)) == ["/a.html", "/b.html"] and charged(world) == 2


async def test_a_cap_that_is_reached_waits_for_the_next_month(tmp_path: Path) -> None:
    """Nothing is paid that is not to be paid: the rest is deferred, with the reason, until the month is over."""
    async with a_cloudfront_world(tmp_path) as world:
        for key in ("a", "b"):
            world.write(key, "one")
            assert await world.get(key) == "one"
        world.source.deliver(world.write("a", "two, longer"))
        await world.settled()
        assert charged(world) == 1
        await world.store._write(lambda connection: connection.execute("UPDATE ledger SET spent = quota").rowcount)
        world.source.deliver(world.write("b", "two, longer"))
        await world.until(lambda: any(engine.outcome.deferred for engine in world.pipeline.engines))
        (reason,) = {one.reason for engine in world.pipeline.engines for one in engine.outcome.deferred}
        assert "no paths of the month are left (1,000 are free, and none may be paid)" in reason, reason
        assert charged(world) == 1 and await world.get("b") == "one"
        now = world.clock.now()
        world.clock.ahead += Month().end(now) - now + 60
        await world.settled()
        assert await world.get("b") == "two, longer"
        emulator: Any = world.emulator
        assert list(emulator.account.months.values()) == [1, 1]
