"""
Suspend and resume: the wall clock goes on by hours, the time of the event loop does not.

Linux stops CLOCK_MONOTONIC, by which asyncio keeps time, while a machine sleeps. Whatever waits for a time of day is
therefore due at once after a resume, though no timer of the loop moved: it must be noticed by whoever looks at the
wall clock, within the minute that each test waits at most.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from listener.allowances import ALIBABA_DAY
from listener.daemon.status import Known, status_of
from listener.refresh import RefreshKind
from listener.store.controls import ControlKind, Controls, Place
from listener.store.owner import Owner
from tests.pipeline.world import World, a_world
from tests.store.steps import ALLOWANCE

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time

MINUTE_SECONDS = 60.0
"""Within so much after a resume everything that became due meanwhile has been begun."""
HOUR = 3600.0
LOOKS = {"first_seconds": 60.0, "interval_seconds": 2.0}


async def status(world: World) -> dict[str, Any]:
    """Return what ``status --json`` reports."""
    return await status_of(
        world.store,
        world.settings,
        {"cdn": world.target},
        now=world.clock.now(),
        owner=Owner(True, 1),
        known=Known({"www": world.source.health}),
    )


async def waiting(world: World) -> bool:
    """Return whether a need waits for its quiet time."""
    return await world.store.next_due() is not None


async def test_what_was_gathered_goes_soon_after_the_resume(tmp_path: Path) -> None:
    """A quiet time of half an hour that was over in the machine's sleep is not waited for once more."""
    async with a_world(tmp_path, extra={"coalescer": {"quiet_seconds": 1800.0, "cap_seconds": 3600.0}}) as world:
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: waiting(world))
        assert world.paths == []
        world.clock.ahead += 8 * HOUR
        await world.settled(seconds=MINUTE_SECONDS)
        assert world.accepted == {"file": 1}


async def test_the_new_days_quota_is_used(tmp_path: Path) -> None:
    """What waited for the reset is sent after a night's sleep; each day's books are right, nothing goes twice."""
    async with a_world(tmp_path, quota=(4, 0), extra={"planner": {"reserve": 0.0}}) as world:
        keys = [f"{number}.html" for number in range(7)]
        for key in keys:
            world.source.deliver(world.write(key, "new"))
        world.clock.ahead += ALIBABA_DAY.end(world.clock.now()) - world.clock.now() - 600  # near its end a day is spent
        await world.until(lambda: len(world.paths) == 4)

        async def three_wait() -> bool:
            counts = await world.store.counts()
            return (counts.pending, counts.in_flight) == (3, 0)

        await world.until(three_wait)
        world.clock.ahead += 24 * HOUR
        await world.settled(seconds=MINUTE_SECONDS)
        assert sorted(world.paths) == sorted(world.url(key) for key in keys)
        assert await world.ledger() == (3, 0)
        quota = (await status(world))["quota"]["cdn"]["file"]
        assert (quota["limit"], quota["spent"], quota["left"]) == (4, 3, 1)


async def test_tasks_are_followed_on(tmp_path: Path) -> None:
    """A task that ended meanwhile is seen to have; the answer to the first question is not the last word."""
    async with a_world(tmp_path, task_seconds=300.0, extra={"verifier": LOOKS}) as world:
        world.order("late-status:0.5")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.paths)

        async def in_flight() -> bool:
            return (await world.store.counts()).in_flight == 1

        await world.until(in_flight)
        world.clock.ahead += 8 * HOUR
        reported = await status(world)
        assert reported["oldest_unsettled_seconds"] == pytest.approx(8 * HOUR, abs=120.0)
        ended: list[int] = []

        async def over() -> bool:
            counts = await world.store.counts()
            ended.append(counts.unconfirmed)
            return not (counts.pending or counts.in_flight or counts.unconfirmed)

        await world.until(over, seconds=MINUTE_SECONDS)
        assert not any(ended), "told as unconfirmed though nobody had asked for hours"
        assert world.accepted == {"file": 1}


@pytest.mark.parametrize("fault", ["accept-then-timeout:1", "reset:1"])
async def test_a_request_that_the_sleep_cut_off_is_not_made_twice(tmp_path: Path, fault: str) -> None:
    """Its connection is dead; hours later the task list still reports whether it was accepted."""
    async with a_world(tmp_path) as world:
        world.order(f"{fault},action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.source.acked)
        await world.until(lambda: world.pipeline.intake.idle)
        await asyncio.sleep(0.3)  # it is on its way, mostly; wherever it is, the promise is the same
        world.clock.ahead += 8 * HOUR
        await world.settled(seconds=MINUTE_SECONDS)
        assert world.accepted == {"file": 1}


async def test_back_offs_and_orders_end_while_the_machine_sleeps(tmp_path: Path) -> None:
    """An account that was closed for an hour, and a hold of two, are open again."""
    async with a_world(tmp_path) as world:
        await Controls(world.store).put(ControlKind.HOLD, [Place()], seconds=2 * HOUR)
        world.pipeline.engines[0].account.close(world.clock.now() + HOUR, "throttled", now=world.clock.now())
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.pipeline.engines[0].outcome.deferred)
        world.clock.ahead += 8 * HOUR
        await world.settled(seconds=MINUTE_SECONDS)
        assert world.accepted == {"file": 1}


async def test_the_live_quota_is_read_again(tmp_path: Path) -> None:
    """What others spent in the meantime is known before long."""
    async with a_world(tmp_path, quota=(100, 5)) as world:
        await world.until(lambda: world.pipeline.engines[0].account.quota_read_at)
        world.order("quota-limit:50,5")
        world.clock.ahead += 8 * HOUR

        async def known() -> bool:
            budget = await world.store.budget("main", ALLOWANCE[RefreshKind.FILE])
            return budget.limit == 50

        await world.until(known, seconds=MINUTE_SECONDS)


async def test_sources_are_not_reported_as_silent_for_the_time_of_the_suspend(tmp_path: Path) -> None:
    """Nothing was kept of them while the machine slept; a moment later it is."""
    async with a_world(tmp_path) as world:
        world.clock.ahead += 8 * HOUR

        async def fresh() -> bool:
            reported = (await world.store.sources()).get("www")
            return reported is not None and 0 <= world.clock.now() - reported["told_at"] < MINUTE_SECONDS

        await world.until(fresh, seconds=MINUTE_SECONDS)


async def test_a_restart_with_a_clock_that_was_ahead_delays_nothing(tmp_path: Path) -> None:
    """A machine that ran a day ahead, and starts with its clock mended, does not wait for that day to pass."""
    quiet = {"coalescer": {"quiet_seconds": 2.0, "cap_seconds": 4.0}}
    async with a_world(tmp_path, extra=quiet) as world:
        world.clock.ahead += 26 * HOUR
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: waiting(world))

        async def reported() -> bool:
            row = (await world.store.sources()).get("www")
            return row is not None and row["told_at"] > world.clock.now() - HOUR

        await world.until(reported)
        await world.stop(crash=True)
        world.clock.ahead -= 26 * HOUR
        await world.start()
        await world.settled(seconds=MINUTE_SECONDS)
        assert world.accepted == {"file": 1}
        assert (await status(world))["oldest_unsettled_seconds"] == 0.0
        assert ALIBABA_DAY.start(world.clock.now()) <= world.clock.now()
