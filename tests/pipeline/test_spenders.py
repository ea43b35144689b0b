"""What one source may spend of an account that several share: bounded by default, and reported."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from listener.daemon.metrics import _Snapshot
from listener.daemon.status import status_of
from listener.pipeline.engine import SPENDERS_SECONDS
from listener.pipeline.spenders import Spenders
from listener.router.routing import Sites
from listener.settings import Site
from listener.store.owner import Owner
from tests.pipeline.test_planner_sharing import NO_RESERVE, deferred, deletions, run_sites, spent, to_noon
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time

EXTRA = {**NO_RESERVE, "sources": {"other": {"type": "played"}}}


async def run_sources(world: World) -> None:
    """Run the pipeline with two sources, a site each."""
    await run_sites(world, www={}, shop={})
    sites = list(world.settings.sites)
    sites[1] = sites[1].model_copy(update={"source": "other"})
    world.settings = world.settings.model_copy(update={"sites": tuple(sites)})
    await run_again(world)


async def run_again(world: World) -> None:
    """Run the pipeline by the settings of the world."""
    await world.stop()
    await world.start()


async def status(world: World) -> dict[str, Any]:
    """Return the status as every view has it."""
    owner = Owner(is_running=True, pid=1, reason="")
    return await status_of(
        world.store, world.settings, {"cdn": world.target}, now=world.clock.now(), owner=owner, brief=True
    )


async def reported(world: World, count: int) -> list[dict[str, Any]]:
    """Wait until so many large spenders are reported; return these problems."""
    found: list[dict[str, Any]] = []
    (engine,) = world.pipeline.engines
    world.clock.ahead += SPENDERS_SECONDS
    since = world.clock.now()

    async def seen() -> bool:
        found[:] = [one for one in (await status(world))["problems"] if "an hour ago" in one["what"]]
        return engine._spenders_read_at >= since and len(engine.account.spenders) == len(found) == count

    await world.until(seen)
    return found


async def test_one_uploader_cannot_spend_what_all_sites_have(tmp_path: Path) -> None:
    """Sixteen deliveries with more keys than the day has quota; a site that changes later is refreshed that day."""
    async with a_world(tmp_path, quota=(80, 0), extra=NO_RESERVE) as world:
        await run_sites(world, www={}, shop={})
        to_noon(world)
        for request in range(16):
            world.source.deliver(*deletions(f"www/{request}/", 10))
        await deferred(world, 100)
        assert spent(world) == {"www": 60}
        reason = world.pipeline.engines[0].outcome.deferred[0].reason
        assert "75% of the quota" in reason
        assert "share" in reason
        world.clock.ahead += 6 * 3600
        world.source.deliver(*deletions("www/more/", 10))
        await deferred(world, 110)
        world.source.deliver(*deletions("shop/", 20))
        await world.until(lambda: spent(world) == {"shop": 20, "www": 60})


async def test_who_spends_much_within_an_hour_is_reported(tmp_path: Path) -> None:
    """As a problem with a remedy, in a metric and in the log; no more once the hour is over, nor what spends little."""
    async with a_world(tmp_path, quota=(80, 0), extra=NO_RESERVE) as world:
        await run_sites(world, www={}, shop={})
        to_noon(world)
        with capture_logs() as logs:
            world.source.deliver(*deletions("www/", 21), *deletions("shop/", 20))
            await world.settled()
            (problem,) = await reported(world, 1)
        assert "site www:www/" in problem["what"]
        assert "21 of the 80 units of file" in problem["what"]
        assert "share" in problem["remedy"]
        (warning,) = [one for one in logs if one["event"] == "quota.large_spender"]
        assert (warning["source"], warning["spent"], warning["left_before"]) == ("www", 21, 80)
        metric = _Snapshot(await status(world), None, None)._spenders()  # type: ignore[arg-type]
        (sample,) = metric.samples
        assert (sample.labels, sample.value) == ({"account": "main", "source": "www", "kind": "file"}, 21 / 80)
        world.clock.ahead += 3600
        await reported(world, 0)


async def test_one_site_alone_spends_as_it_likes_and_is_not_reported(tmp_path: Path) -> None:
    """Nobody else's quota is at stake."""
    async with a_world(tmp_path, quota=(10, 0), extra=NO_RESERVE) as world:
        to_noon(world)
        world.source.deliver(*deletions("www/", 10))
        await world.settled()
        await reported(world, 0)
        assert spent(world) == {"www": 10}


async def test_what_backfills_spent_does_not_count(tmp_path: Path) -> None:
    """Neither against the default share nor as a large spender: a person asked for it."""
    async with a_world(tmp_path, quota=(20, 0), extra=NO_RESERVE) as world:
        await run_sites(world, www={}, shop={})
        to_noon(world)
        world.source.deliver(*deletions("www/", 15))
        await world.settled()
        await reported(world, 1)
        await world.store._write(mark_as_backfill)
        await reported(world, 0)
        world.source.deliver(*deletions("www/more/", 3))
        await world.until(lambda: spent(world) == {"www": 18})


def mark_as_backfill(connection: sqlite3.Connection) -> None:
    """Count everything that was sent as a backfill's."""
    connection.execute("UPDATE attempt_item SET priority = 1")


async def test_a_share_that_is_set_applies(tmp_path: Path) -> None:
    """A site with a share of its own goes up to it and is not reported; where a share is set no default holds."""
    async with a_world(tmp_path, quota=(10, 0), extra=NO_RESERVE) as world:
        await run_sites(world, www={"share": {"file": 0.6}}, shop={})
        to_noon(world)
        world.source.deliver(*deletions("www/", 20))
        await deferred(world, 14)
        await reported(world, 0)
        world.source.deliver(*deletions("shop/", 3))
        await world.until(lambda: spent(world) == {"shop": 3, "www": 6})
        assert "site www:shop/" in (await reported(world, 1))[0]["what"]


async def test_sites_of_one_source_are_one_spender(tmp_path: Path) -> None:
    """An uploader is bounded in the sum of the sites that its source feeds."""
    async with a_world(tmp_path, quota=(20, 0), extra=EXTRA) as world:
        await run_sources(world)
        to_noon(world)
        world.source.deliver(*deletions("www/", 20))
        await deferred(world, 5)
        assert "source www spent 15 of the 20" in (await reported(world, 1))[0]["what"]


def sites_of(*made: tuple[str, str, str]) -> Spenders:
    """Return the spenders of sites, each with its source, prefix and base URL."""
    sites = [Site(source=source, target="cdn", prefix=prefix, base_urls=[base]) for source, prefix, base in made]
    return Spenders(Sites(sites), {"cdn"})


def test_who_is_a_spender() -> None:
    """A source among several, else a site; sites with one base URL cannot be distinguished."""
    a, b = "https://a.example/", "https://b.example/"
    assert not sites_of(("www", "", a)).are_several
    assert not sites_of(("www", "", a), ("events", "", a)).are_several
    by_site = sites_of(("www", "a/", a), ("www", "b/", b))
    assert by_site.are_several
    assert by_site.name("cdn", a + "x") != by_site.name("cdn", b + "x")
    by_source = sites_of(("www", "a/", a), ("www", "b/", b), ("other", "", "https://c.example/"))
    assert by_source.name("cdn", a + "x") == by_source.name("cdn", b + "x") == "www"
    assert by_source.name("cdn", "https://c.example/x") == "other"
    assert by_source.name("cdn", "https://d.example/x") is None
