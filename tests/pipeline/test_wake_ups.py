"""Who waits is woken by what it waits for; a wake-up that is lost delays it by a tick, and idle nothing runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from listener.pipeline import Pipeline
from listener.pipeline.engine import WakeUp
from listener.store import NeedInput, Store, open_store
from tests.pipeline.world import a_world

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


class Deaf(asyncio.Event):
    """An event that nobody can set."""

    def set(self) -> None:
        """Lose the wake-up."""


async def never() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


async def test_what_is_never_woken_converges_by_the_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wake-up lost, also where an answer does not arrive: each change is refreshed, once, and settled."""
    monkeypatch.setattr("listener.pipeline.engine.TICK_SECONDS", 0.2)
    monkeypatch.setattr("listener.pipeline.pipeline.TICK_SECONDS", 0.2)
    monkeypatch.setattr(WakeUp, "set", lambda _: None)
    monkeypatch.setattr(Pipeline, "_look", lambda _: never())
    async with a_world(tmp_path) as world:
        for engine in world.pipeline.engines:
            engine._wake = Deaf()
        for key in ("a.html", "b.html"):
            world.source.deliver(world.write(key, "new"))
            await world.settled()
        world.order("accept-then-reset:1")
        world.source.deliver(world.write("c.html", "new"))
        await world.settled()
        assert sorted(world.paths) == [world.url(f"{name}.html") for name in "abc"]
        assert world.pipeline.engines[0].missed_wake_ups > 0


async def test_what_another_process_requests_is_sent_long_before_the_tick(tmp_path: Path) -> None:
    """Nothing in this process announces it: the store is asked what changed."""
    async with a_world(tmp_path) as world:
        await world.until(lambda: world.pipeline.engines[0].settled)
        async with open_store(world.settings.store.url) as other:
            await other.request([NeedInput("cdn", world.url("a.html"))])
        await world.settled(seconds=10.0)
        assert world.paths == [world.url("a.html")]
        assert world.pipeline.engines[0].missed_wake_ups == 0


async def test_idle_the_store_is_asked_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits and nothing changes: one read a second, no write, no checkpoint."""
    usual = {"verifier": {"first_seconds": 60.0, "interval_seconds": 30.0}, "coalescer": {"quiet_seconds": 1.0}}
    async with a_world(tmp_path, extra=usual) as world:
        await world.until(lambda: world.pipeline.engines[0].settled and "www" in world.pipeline._kept)
        await asyncio.sleep(1.5)  # what the start left to be looked at
        calls: Counter[str] = Counter()
        for name in ("_read", "_write", "checkpoint"):
            counted(monkeypatch, name, calls)
        await asyncio.sleep(3.0)
        assert calls.pop("_read") <= 4
        assert not calls


@pytest.mark.parametrize("seconds", [0.0, 0.001])
async def test_short_times_do_not_keep_a_processor_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Whoever sets times of a moment, so that nothing waits, gets some twenty looks a second and not a thousand."""
    calls: Counter[str] = Counter()
    counted(monkeypatch, "agenda", calls)
    short = {"verifier": {"first_seconds": 0.001, "interval_seconds": 0.001}, "coalescer": {"quiet_seconds": seconds}}
    async with a_world(tmp_path, extra=short) as world:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        assert calls["agenda"] <= 25 * (asyncio.get_running_loop().time() - began) + 2
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()


def counted(monkeypatch: pytest.MonkeyPatch, name: str, calls: Counter[str]) -> None:
    """Count the calls of a method of the store."""
    real = getattr(Store, name)

    async def count(self: Store, *args: Any, **options: Any) -> Any:
        calls[name] += 1
        return await real(self, *args, **options)

    monkeypatch.setattr(Store, name, count)
