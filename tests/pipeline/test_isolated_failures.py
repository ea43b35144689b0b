"""A failure of one part stops no other: a target, a kind, a source, a commit, an acknowledgement, a clock."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from listener.allowances import ALIBABA_DAY
from listener.contracts import Delivery
from listener.errors import StoreError
from listener.pipeline import Pipeline, pipeline
from listener.refresh import AttemptState, RefreshKind, Scope
from listener.store import NeedInput, Store
from tests.pipeline.world import a_world, leave_in_flight, stays

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def test_tasks_of_a_gone_target_do_not_hide_the_others(tmp_path: Path) -> None:
    """Promise 5: however many looks are overdue for a target that is gone, the others' tasks are looked at."""
    async with a_world(tmp_path) as world:
        await leave_in_flight(world, "removed", AttemptState.ACCEPTED)
        found = await world.store.attempts_in(AttemptState.ACCEPTED, targets=["cdn"])
        assert found == []


async def test_a_kind_that_the_target_cannot_do_stops_nothing(tmp_path: Path) -> None:
    """Promise 5: an all-params need on API version 2014-11-11 is deferred, also when urgent; the rest goes on."""
    async with a_world(tmp_path, target={"api_version": "2014-11-11"}) as world:
        # The ledger knows the kind from the days of the newer API version.
        row = ("main", "ignore-params", ALIBABA_DAY.start(world.clock.now()) - 86_400, 5, 1.0)
        insert = "INSERT INTO ledger (account, kind, window_start, quota, read_at) VALUES (?, ?, ?, ?, ?)"
        await world.store._write(lambda connection: connection.execute(insert, row).rowcount)
        url = world.url("a.html")
        await world.store.request([NeedInput("cdn", url, Scope.ALL_PARAMS)], urgent=True, reason="by hand")
        world.source.deliver(world.write("b.html", "new"))
        await world.until(lambda: world.paths == [world.url("b.html")])
        await stays(world, seconds=0.5)
        assert (await world.store.counts()).deferred == 1


async def test_a_plan_that_the_store_could_not_carry_out_is_made_again(tmp_path: Path) -> None:
    """Promise 5: what is ready when a commit fails is planned once the store can, though nothing changes."""
    async with a_world(tmp_path) as world:
        hold, failures = world.store.hold, [StoreError("the disk is full")]

        async def failing(*args: Any, **kw: Any) -> Any:
            if failures:
                raise failures.pop()
            return await hold(*args, **kw)

        world.store.hold = failing  # type: ignore[method-assign]
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.paths, seconds=30.0)


async def test_a_long_removal_of_old_rows_holds_up_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mass of rows takes minutes: sources are reported, and the log is moved to the file, meanwhile."""
    begun, moved = asyncio.Event(), []
    checkpoint = Store.checkpoint

    async def upkeep(_store: Store, **_kw: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def counted(store: Store) -> None:
        moved.append(begun.is_set())
        await checkpoint(store)

    monkeypatch.setattr(Store, "upkeep", upkeep)
    monkeypatch.setattr(Store, "checkpoint", counted)
    async with a_world(tmp_path) as world:
        await begun.wait()
        world.source.health.detail = "said later"

        async def is_reported() -> bool:
            found = await world.store.sources()
            return "www" in found and found["www"]["detail"] == "said later"

        await world.until(is_reported)
        await world.until(lambda: any(moved))


async def test_an_upkeep_that_fails_is_logged_once_and_so_is_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of minutes is no line a second."""
    refused, failing = StoreError("connection refused"), [True]
    times: list[float] = []

    async def report(_: Pipeline) -> None:
        times.append(time.monotonic())
        if failing[0]:
            raise refused

    monkeypatch.setattr(pipeline, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(pipeline, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(Pipeline, "_report_sources", report)
    with capture_logs() as lines:
        async with a_world(tmp_path) as world:
            await world.until(lambda: len(times) > 5)
            failing[0] = False
            await world.until(lambda: any(one["event"] == "store.upkeep_resumed" for one in lines))
    events = [one["event"] for one in lines if one["event"].startswith("store.upkeep")]
    assert events == ["store.upkeep_failed", "store.upkeep_resumed"]


async def test_an_ack_that_breaks_stops_nothing(tmp_path: Path) -> None:
    """The changes of a delivery are safe when its ack is called: whatever that raises, the work goes on."""
    async with a_world(tmp_path) as world:

        async def broken() -> None:
            raise RuntimeError("a plugin's mistake")

        world.source.queue.put_nowait(Delivery([world.write("a.html", "new")], broken))
        world.source.deliver(world.write("b.html", "new"))
        await world.settled()
        assert sorted(world.paths) == [world.url("a.html"), world.url("b.html")]


async def test_a_detail_that_is_no_text_stops_nothing(tmp_path: Path) -> None:
    """A source may name a file whose name is no UTF-8 in what it says of itself."""
    async with a_world(tmp_path) as world:
        world.source.health.detail = "cannot read caf\udce9"
        await stays(world)
        assert (await world.store.sources())["www"]["detail"] == "cannot read caf\\udce9"


async def test_a_clock_that_is_set_back_delays_nothing(tmp_path: Path) -> None:
    """When the machine's clock is set back by hours, what waits for its quiet time does not wait for hours."""
    async with a_world(tmp_path, extra={"coalescer": {"quiet_seconds": 1.0, "cap_seconds": 2.0}}) as world:
        world.source.deliver(world.write("a.html", "new"))

        async def waits() -> bool:
            return await world.store.next_due() is not None

        await world.until(waits)
        world.pipeline.engines[0].account.close(world.clock.now() + 1.0, "throttled", now=world.clock.now())
        world.clock.ahead -= 5 * 3600
        await world.until(lambda: world.paths, seconds=30.0)
        await world.settled()


async def test_a_kind_whose_quota_is_refused_holds_up_no_other(tmp_path: Path) -> None:
    """Promise 5: prefetches that the CDN refuses for their quota are tried ever more rarely, and files go meanwhile."""
    async with a_world(tmp_path) as world:
        world.order("quota:100000,action=PushObjectCache")
        await world.store.request([NeedInput("cdn", world.url("p.html"), Scope.PREFETCH)])
        took, began = list[float](), time.monotonic()
        while time.monotonic() - began < 6.0:
            at, number = time.monotonic(), len(took) + 1
            world.source.deliver(world.write(f"{number}.html", "new"))
            await world.until(lambda: len(world.paths) == number)  # noqa: B023 - awaited at once
            took.append(time.monotonic() - at)
            await asyncio.sleep(0.2)
        refused = world.pipeline.engines[0].account._exhausted[RefreshKind.PREFETCH][1]
        assert 2 <= refused <= 4
        assert statistics.median(took) < 0.9  # a closed account would hold up nearly every file


async def test_a_source_that_breaks_is_restarted_and_ends_no_other(tmp_path: Path) -> None:
    """Promise 1: a mistake in a source, of whatever kind, is reported, and what it brings afterwards is received."""
    async with a_world(tmp_path) as world:
        world.source.queue.put_nowait("no delivery")  # type: ignore[arg-type]
        await world.until(lambda: world.source.health.detail)
        assert not world.pipeline.ready
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        assert world.paths == [world.url("a.html")]
