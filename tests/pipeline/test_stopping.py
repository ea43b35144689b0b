"""A stop and a one-shot run end: whatever hangs, throttles or is gone; and a refused start changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from listener.contracts import Delivery
from listener.errors import ConfigurationError
from listener.pipeline import engine
from listener.pipeline.accounts import Account
from listener.refresh import AttemptState
from tests.pipeline.world import PlayedSource, a_world, leave_in_flight

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def test_a_cancelled_wait_for_quiet_gives_its_lanes_back() -> None:
    """A stop while the quota reading waits for requests under way does not hold up the end."""
    account = Account("main", {})
    async with account.slot():
        waiting = asyncio.create_task(_quietly(account))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(30.0), account.exclusive():
        pass
    assert account._slots._value == account.lanes


async def _quietly(account: Account) -> None:
    async with account.exclusive():
        pass


@pytest.mark.parametrize("state", [AttemptState.ACCEPTED, AttemptState.UNKNOWN])
async def test_a_one_shot_run_ends_though_a_target_is_gone(tmp_path: Path, state: AttemptState) -> None:
    """Nothing waits for ever: what flies for a target that the configuration no longer names is nobody's to follow."""
    async with a_world(tmp_path) as world:
        await leave_in_flight(world, "removed", state)
        world.pipeline.stop()
        await world.running
        await world.store.recover()
        world.source.queue.put_nowait(None)
        world.running = asyncio.create_task(asyncio.sleep(0))
        again = type(world.pipeline)(
            world.settings, world.store, make_sources=lambda: {"www": world.source},
            targets={"cdn": world.target}, clock=world.clock,
        )  # fmt: skip
        async with asyncio.timeout(30.0):
            await again.run(until_idle=True)


async def test_a_one_shot_run_does_not_wait_for_a_throttle_that_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for ever: after half a minute of refusals, here three seconds, a one-shot run ends."""
    monkeypatch.setattr(engine, "PATIENCE_SECONDS", 3.0)
    async with a_world(tmp_path) as world:
        world.order("throttle:10000:0.1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.pipeline.engines[0].account.closed_reason)
        world.pipeline.stop()
        await world.running
        world.source.queue.put_nowait(None)
        again = type(world.pipeline)(
            world.settings, world.store, make_sources=lambda: {"www": world.source},
            targets={"cdn": world.target}, clock=world.clock,
        )  # fmt: skip
        began = time.monotonic()
        async with asyncio.timeout(60.0):
            await again.run(until_idle=True)
        assert time.monotonic() - began < 60.0
        assert (await world.store.counts()).deferred == 1


@pytest.mark.parametrize("action", ["DescribeRefreshQuota", "DescribeRefreshTaskById"])
async def test_a_stop_does_not_wait_for_a_cdn_that_hangs(tmp_path: Path, action: str) -> None:
    """SIGTERM while a question hangs, the very first one included, ends at once: only what spends quota is awaited."""
    async with a_world(tmp_path, target={"timeouts": {"answer_seconds": 30.0}}) as world:
        world.order(f"slow:30:50,action={action}")
        if action == "DescribeRefreshQuota":
            await world.stop()
            await world.start()
        world.source.deliver(world.write("a.html", "new"))
        await asyncio.sleep(1.5)
        began = time.monotonic()
        await world.stop()
        assert time.monotonic() - began < 20.0
        await world.start()
        world.emulator.faults.clear()


@pytest.mark.parametrize("was_clean", [True, False])
async def test_a_refused_start_leaves_the_state_as_it_was(tmp_path: Path, was_clean: bool) -> None:
    """A source whose configuration cannot be right ends the run; the next start is no more careful than before."""
    async with a_world(tmp_path) as world:
        await world.stop(crash=not was_clean)

        class Refused(PlayedSource):
            async def deliveries(self, _index: Any) -> AsyncIterator[Delivery]:
                await asyncio.sleep(0)
                raise ConfigurationError("sources.www: cannot be right")
                yield Delivery()

        right, world.source = world.source, Refused()
        await world.start()
        with pytest.raises(BaseExceptionGroup, match="unhandled"):
            await world.running
        assert await world.store._read(lambda c: c.execute("SELECT clean FROM meta").fetchone()) == (was_clean,)
        await world.store.close()
        world.source = right
        await world.start()
