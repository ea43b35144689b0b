"""What lies ahead is reported: when a quota is used up, and a backlog with the directory that clears it."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.change import Change, ChangeKind
from listener.daemon.status import plain_outlooks
from listener.pipeline.outlook import Outlook, outlooks
from listener.refresh import RefreshKind
from listener.store.controls import ControlKind, Controls, Place
from tests.pipeline.world import World, a_world
from tests.store.steps import ALLOWANCE

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time

NO_RESERVE = {"planner": {"reserve": 0.0}}


async def ahead(world: World) -> Outlook:
    """Return the outlook of the only account, as a process that only reads would work it out."""
    found = await outlooks(world.store, world.settings, {"cdn": world.target}, now=world.clock.now())
    return found["main"]


async def deferred(world: World, count: int) -> None:
    """Wait until so many needs are deferred, the plan that left them is reported, and nothing flies."""

    async def seen() -> bool:
        counts = await world.store.counts()
        reported = sum(one.needs for one in world.pipeline.engines[0].outcome.deferred)
        return (counts.deferred, reported, counts.in_flight) == (count, count, 0)

    await world.until(seen)


async def test_with_quota_to_spare_nothing_ends_and_nothing_waits(tmp_path: Path) -> None:
    """Four of a thousand: every kind lasts until its reset, and there is no backlog."""
    async with a_world(tmp_path) as world:
        world.source.deliver(*(world.write(f"{n}.html", "new") for n in range(4)))
        await world.settled()
        reported = await ahead(world)
        assert {one.lasts_until for one in reported.forecasts.values()} == {None}
        assert reported.forecasts[RefreshKind.FILE].per_hour > 0
        assert (reported.backlog.needs, reported.backlog.days, reported.backlog.offer) == (0, 0.0, [])


async def test_at_its_rate_a_quota_ends_before_the_reset(tmp_path: Path) -> None:
    """With most of the day's files spent early, the hour at which the rest is gone is reported; once gone, now."""
    async with a_world(tmp_path, quota=(10, 0), extra=NO_RESERVE) as world:
        world.source.deliver(*(world.write(f"{n}.html", "new") for n in range(9)))
        await world.settled()
        now = world.clock.now()
        file = (await ahead(world)).forecasts[RefreshKind.FILE]
        resets_at = (await world.store.budget("main", ALLOWANCE[RefreshKind.FILE])).resets_at
        assert file.lasts_until is None or now < file.lasts_until < resets_at
        world.source.deliver(world.write("last.html", "new"))
        await world.settled()
        now = world.clock.now()
        assert (await ahead(world)).forecasts[RefreshKind.FILE].lasts_until == pytest.approx(now, abs=20)


async def test_a_backlog_beyond_a_days_quota_is_reported_with_the_directory_that_clears_it(tmp_path: Path) -> None:
    """Ninety deletions at ten files a day: nine days and more, or one directory that evicts the ten that stay."""
    async with a_world(tmp_path, quota=(10, 5), extra=NO_RESERVE) as world:
        await Controls(world.store).put(ControlKind.PAUSE, [Place()], seconds=None)
        keys = [f"a/{n}.html" for n in range(100)]
        world.source.deliver(*(world.write(key, "old") for key in keys), seed=True)
        world.source.deliver(*(Change("www", key, ChangeKind.DELETED) for key in keys[:90]))
        await deferred(world, 90)
        reported = (await ahead(world)).backlog
        assert reported.needs == 90
        assert reported.days is None or reported.days > 9
        assert [(offer.url, offer.covers, offer.collateral) for offer in reported.offer] == [(world.url("a/"), 90, 10)]


async def test_a_quota_of_zero_never_drains(tmp_path: Path) -> None:
    """Without any quota a backlog is said to drain never, in numbers that JSON can hold."""
    async with a_world(tmp_path, quota=(0, 0)) as world:
        world.source.deliver(*(world.write(f"a/{n}.html", "new") for n in range(3)))
        await deferred(world, 3)
        plain = plain_outlooks({"main": await ahead(world)})
        assert plain["backlog"]["main"] == {"needs": 3, "drains": False, "days": None, "offer": []}
        assert plain["forecasts"]["main"]["file"]["per_hour"] == 0.0
