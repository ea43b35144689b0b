"""Manual orders: what is held or paused stays unsent, is reported with its reason, and goes on later."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.change import Change, ChangeKind
from listener.refresh import Scope
from listener.store import NeedInput
from listener.store.controls import ControlKind, Controls, Place
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def deferred(world: World) -> list[str]:
    """Return why the loads wait that wait."""
    return [one.reason for engine in world.pipeline.engines for one in engine.outcome.deferred]


async def test_a_deploy_that_is_held_becomes_one_plan(tmp_path: Path) -> None:
    """Nothing goes while it is held, what is asked for manually does; once released all of it goes."""
    async with a_world(tmp_path) as world:
        controls = Controls(world.store)
        site = Place("", world.emulator.edge_url + "/")
        await controls.put(ControlKind.HOLD, [site], seconds=600, reason="deploy 7")
        world.source.deliver(*(world.write(f"{n}.html", "new") for n in range(20)))
        await world.until(lambda: deferred(world))
        assert [why.partition("until")[0] + why.partition(": ")[2] for why in await deferred(world)] == [
            "held deploy 7"
        ]
        await world.store.request([NeedInput("cdn", world.url("by-hand.html"))])
        await world.until(lambda: world.paths)
        assert world.paths == [world.url("by-hand.html")]
        world.source.deliver(world.write("later.html", "new"))
        await world.until(lambda: world.source.acked == 2)
        assert await controls.remove(ControlKind.HOLD, [site]) == 1
        await world.settled()
        assert world.accepted == {"file": 22}


async def test_a_hold_ends_by_itself(tmp_path: Path) -> None:
    """A deploy script that died does not keep the site stale."""
    async with a_world(tmp_path) as world:
        await Controls(world.store).put(ControlKind.HOLD, [Place()], seconds=30)
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: deferred(world))
        assert world.paths == []
        world.clock.ahead += 31
        await world.settled()
        assert world.accepted == {"file": 1}


async def test_what_is_paused_sends_nothing_at_all(tmp_path: Path) -> None:
    """Not manually, not urgently; another target's or site's pause does not matter; status keeps counting."""
    async with a_world(tmp_path) as world:
        controls = Controls(world.store)
        await controls.put(ControlKind.PAUSE, [Place("cdn"), Place("other")], seconds=None, reason="audit")
        asked = [NeedInput("cdn", world.url("now.html"), Scope.EXACT)]
        await world.store.request(asked, urgent=True, reason="wrong price")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.source.acked == 1)

        async def both_wait() -> bool:
            return (await world.store.counts()).deferred == 2

        await world.until(both_wait)
        assert await deferred(world) == ["paused: audit"]
        assert world.paths == []
        await controls.remove(ControlKind.PAUSE, [Place("cdn")])
        await world.settled()
        assert world.accepted == {"file": 2}


async def test_what_is_reserved_when_it_is_paused_is_not_sent(tmp_path: Path) -> None:
    """What waits for the limit of a minute is given back, and takes no turn from others; a throttled request too."""
    async with a_world(tmp_path, target={"limits": {"urls_per_domain_minute": 10}}) as world:
        controls = Controls(world.store)
        world.source.deliver(*(world.write(f"{n}.html", "new") for n in range(40)))

        async def some_wait() -> bool:
            return world.accepted == {"file": 10} and (await world.ledger())[1] == 30

        await world.until(some_wait)
        await controls.put(ControlKind.PAUSE, [Place()], seconds=None, reason="wrong")
        assert await world.ledger() == (10, 0)
        await world.until(lambda: world.pipeline.engines[0].sender.idle)
        counts = await world.store.counts()
        assert (counts.deferred, world.accepted) == (30, {"file": 10})


async def test_a_throttled_request_is_not_sent_once_it_is_paused(tmp_path: Path) -> None:
    """The CDN requests a second of patience; within it somebody pauses: there is no second try."""
    async with a_world(tmp_path) as world:
        world.order("throttle:1:1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.pipeline.engines[0].account.closed_reason)
        await Controls(world.store).put(ControlKind.PAUSE, [Place()], seconds=None)
        world.clock.ahead += 5

        async def waits() -> bool:
            return "paused" in "".join(await deferred(world))

        await world.until(waits)
        assert world.accepted == {}


async def test_a_plan_above_the_threshold_waits_for_a_person(tmp_path: Path) -> None:
    """What is asked for manually goes, a small plan too; the large one once it is approved, and says so."""
    extra = {"planner": {"approve_above": {"file": 10}}}
    async with a_world(tmp_path, extra=extra) as world:
        world.source.deliver(*(world.write(f"{n}.html", "new") for n in range(10)))
        await world.settled()
        world.source.deliver(*(world.write(f"{n}.html", "newer") for n in range(11)))
        await world.until(lambda: deferred(world))
        await world.store.request([NeedInput("cdn", world.url("by-hand.html"))])
        await world.until(lambda: world.accepted == {"file": 11})
        (why,) = set(await deferred(world))
        assert "a plan of 11 URLs and 0 directories" in why
        assert "cdn-listener approve" in why
        await Controls(world.store).put(ControlKind.APPROVAL, [Place("cdn")], seconds=600)
        await world.settled()
        assert world.accepted == {"file": 22}


async def test_in_a_blackout_directories_wait_and_files_go(tmp_path: Path) -> None:
    """A folder of which nothing is known waits for the end of the span, with the reason; then it goes."""
    async with a_world(tmp_path, site={"directory_blackout": ["00:00-23:59", "23:59-00:00"]}) as world:
        world.source.deliver(world.write("a/b.html", "new"), Change("www", "folder/", ChangeKind.SUBTREE))
        await world.until(lambda: world.accepted == {"file": 1})
        await world.until(lambda: deferred(world))
        (why,) = await deferred(world)
        assert "directory_blackout" in why
        assert world.pipeline.engines[0].outcome.wake_at is not None
