"""Outcomes that nobody learned of: asked for, believed only when sure, and never paid for in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.refresh import AttemptState
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def one_unknown(world: World) -> None:
    """Wait until the outcome of a request is unknown."""

    async def unknown() -> bool:
        return bool(await world.store.attempts_in(AttemptState.UNKNOWN))

    await world.until(unknown)


async def test_an_outcome_that_cannot_be_asked_for_counts_as_spent(tmp_path: Path) -> None:
    """When the task list refuses to answer for an hour, the units are presumed spent and the file is sent again."""
    async with a_world(tmp_path) as world:
        world.order("accept-then-reset:1,action=RefreshObjectCaches", "error:Forbidden.RAM,action=DescribeRefreshTasks")
        world.write("a.html", "old")
        await world.get("a.html")
        world.source.deliver(world.write("a.html", "new"))
        await one_unknown(world)
        assert await world.ledger() == (0, 1)
        world.clock.ahead += 3700
        await world.settled()
        assert world.accepted == {"file": 2}
        assert await world.ledger() == (2, 0)
        assert await world.get("a.html") == "new"


async def test_nothing_is_sent_again_before_the_list_was_asked(tmp_path: Path) -> None:
    """While the outcome is unknown the file is not sent a second time, however often it is looked at."""
    async with a_world(tmp_path, extra={"verifier": {"first_seconds": 3.0}}) as world:
        world.order("accept-then-reset:1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await one_unknown(world)
        for _ in range(20):
            world.pipeline.engines[0].replan()
            await world.until(lambda: True)
        assert world.accepted == {"file": 1}
        world.clock.ahead += 10
        await world.settled()
        assert world.accepted == {"file": 1}


async def test_a_change_while_the_outcome_is_unknown_is_sent_on_its_own(tmp_path: Path) -> None:
    """The newer change does not wait for the answer about the older one, and both are paid for once."""
    async with a_world(tmp_path, extra={"verifier": {"first_seconds": 2.0}}) as world:
        world.write("a.html", "old")
        await world.get("a.html")
        world.order("accept-then-reset:1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await one_unknown(world)
        world.source.deliver(world.write("a.html", "newest"))
        await world.until(lambda: len(world.paths) == 2)
        world.clock.ahead += 10
        await world.settled()
        assert await world.get("a.html") == "newest"
        assert world.accepted == {"file": 2}

        async def booked() -> bool:
            return await world.ledger() == (2, 0)

        await world.until(booked)


async def test_the_first_batches_after_a_crash_are_small(tmp_path: Path) -> None:
    """After an unclean start the first three requests carry ten URLs at most; then they are full again."""
    async with a_world(tmp_path) as world:
        await world.stop(crash=True)
        await world.start()
        world.source.deliver(*(world.write(f"{number}.html", "new") for number in range(200)))
        await world.settled()
        times: dict[float, int] = {}
        for record in world.emulator.account.tasks.all():
            times[record.created_at] = times.get(record.created_at, 0) + 1
        sizes = list(times.values())
        assert all(size <= 10 for size in sizes[:3])
        assert (sum(sizes), max(sizes)) == (200, 170)


async def test_what_was_in_flight_at_a_stop_is_settled_by_the_next_start(tmp_path: Path) -> None:
    """Stopped in order between acceptance and completion, the next daemon follows the task and pays nothing more."""
    async with a_world(tmp_path, task_seconds=1.0) as world:
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.paths)

        async def accepted() -> bool:
            return bool(await world.store.attempts_in(AttemptState.ACCEPTED))

        await world.until(accepted)
        await world.stop()
        await world.start()
        await world.settled()
        assert world.accepted == {"file": 1}


async def test_a_clock_minutes_ahead_of_the_cdn_s_does_not_hide_what_was_accepted(tmp_path: Path) -> None:
    """With our clock five minutes ahead, the task is found by the CDN's time, and nothing is paid twice."""
    async with a_world(tmp_path) as world:
        world.order("clock-skew:-300")
        await world.pipeline.engines[0].read_quota()
        world.order("accept-then-reset:1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await one_unknown(world)
        await world.settled()
        assert world.accepted == {"file": 1}
        assert await world.ledger() == (1, 0)


async def test_the_task_of_one_unknown_request_is_not_taken_for_another_s(tmp_path: Path) -> None:
    """Of two unknown requests that share a URL only the one that was accepted is adopted; the other's rest is sent."""
    async with a_world(tmp_path, extra={"verifier": {"first_seconds": 3.0}}) as world:
        for key in ("a.html", "b.html"):
            world.write(key, "old")
            await world.get(key)
        world.order("reset:1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"), world.write("b.html", "new"))
        await one_unknown(world)
        world.order("accept-then-reset:1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "newest"))

        async def both_unknown() -> bool:
            return len(await world.store.attempts_in(AttemptState.UNKNOWN)) == 3

        async def looked_at() -> bool:
            unknown = await world.store.attempts_in(AttemptState.UNKNOWN)
            return len(unknown) < 3 or any(attempt.looks for attempt in unknown)

        await world.until(both_unknown)
        await world.until(looked_at)  # at the older one, while the newer is not due
        world.clock.ahead += 7
        await world.settled()
        assert [await world.get(key) for key in ("a.html", "b.html")] == ["newest", "new"]

        async def booked() -> bool:
            return await world.ledger() == (2, 0)

        await world.until(booked)
        assert world.accepted == {"file": 2}
