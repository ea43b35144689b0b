"""Who waits is woken by what it waits for; a wake-up that is lost delays it by a tick, and idle nothing runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from listener.clock import SystemClock
from listener.pipeline.waking import followed_steps
from listener.store import NeedInput, Store, open_store
from listener.store.sqlite.announcements import announce
from listener.store.sqlite.ownership import lock_path
from tests.pipeline.world import World, a_world
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


async def test_what_is_never_woken_converges_by_the_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit announced, also where an answer does not arrive: each change is refreshed, once, and settled."""
    monkeypatch.setattr("listener.pipeline.lookout.TICK_SECONDS", 0.2)
    monkeypatch.setattr("listener.store.access.call_in_loop", lambda *_: None)
    async with a_world(tmp_path) as world:
        for key in ("a.html", "b.html"):
            world.source.deliver(world.write(key, "new"))
            await world.settled()
        world.order("accept-then-reset:1")
        world.source.deliver(world.write("c.html", "new"))
        await world.settled()
        assert sorted(world.paths) == [world.url(f"{name}.html") for name in "abc"]
        assert world.pipeline.lookout.missed_wake_ups > 0


@pytest.mark.parametrize("is_announced", [True, False])
async def test_what_another_process_requests_is_sent_long_before_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_announced: bool
) -> None:
    """The other process announces it; where no more can be watched, the store is read."""
    if not is_announced:
        monkeypatch.setattr("listener.store.sqlite.announcements.kernel.Inotify", refused)
    async with a_world(tmp_path, extra=USUAL) as world:
        await at_rest(world)
        began = time.monotonic()
        await requested(world, "a.html")
        await world.until(lambda: world.paths == [world.url("a.html")], seconds=10.0)
        assert time.monotonic() - began < 5.0
        assert world.pipeline.lookout.missed_wake_ups == 0


async def test_an_announcement_that_is_lost_is_made_up_for_by_the_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process was killed between its commit and the announcement: found, and counted."""
    monkeypatch.setattr("listener.store.sqlite.access.announce", lambda _: None)
    monkeypatch.setattr("listener.pipeline.lookout.TICK_SECONDS", 1.0)
    async with a_world(tmp_path) as world:
        await at_rest(world)
        await requested(world, "a.html")
        await world.settled()
        assert world.paths == [world.url("a.html")]
        assert world.pipeline.lookout.missed_wake_ups > 0


async def test_what_is_announced_elsewhere_is_found_by_looking(tmp_path: Path) -> None:
    """Somebody replaced the lock file, and others touch the new one: the store is read once a second from then on."""
    async with a_world(tmp_path) as world:
        await at_rest(world)
        (tmp_path / "state.db.lock").unlink()
        (tmp_path / "state.db.lock").touch()
        await asyncio.sleep(2.0)  # the removal is an event, too
        await requested(world, "a.html")
        await world.settled(seconds=10.0)
        assert world.paths == [world.url("a.html")]


async def test_a_touch_that_is_not_reported_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel reports nothing of a file, announcements are not waited for."""
    monkeypatch.setattr("listener.store.sqlite.announcements.announce", lambda _: None)
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as store:
        with store.announcing(lambda: None) as announcements:
            assert not announcements.of_others


async def test_a_clock_that_is_set_wakes_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's timer is spent by the first step, and set again; what cannot be known is not waited for."""
    timers: list[int] = []

    def timer() -> int:
        timers.append(os.eventfd(0, os.EFD_NONBLOCK))
        return timers[-1]

    steps: list[int] = []
    monkeypatch.setattr("listener.pipeline.waking.clock_steps", timer)
    with followed_steps(SystemClock(), lambda: steps.append(1)):
        for number in (1, 2, 3):
            os.eventfd_write(timers[-1], 1)
            await until(lambda number=number: len(steps) == number)  # type: ignore[misc]
    assert len(timers) == 4
    monkeypatch.setattr("listener.pipeline.waking.clock_steps", refused)
    with followed_steps(SystemClock(), lambda: steps.append(1)):
        await asyncio.sleep(0)
    assert len(steps) == 3


async def test_idle_nothing_reads_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits and nothing changes: no read, no write, no checkpoint; a commit of another process costs a few."""
    async with a_world(tmp_path, extra=USUAL) as world:
        await at_rest(world)
        calls: Counter[str] = Counter()
        for name in ("_read", "_write", "checkpoint"):
            counted(monkeypatch, name, calls)
        await asyncio.sleep(3.0)
        assert not calls
        announce(lock_path(world.store.path))
        await asyncio.sleep(2.0)
        assert calls == {"_read": 1}


async def test_a_commit_is_announced_to_its_own_process_without_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner touches nothing; what changed nothing is not announced."""
    monkeypatch.setattr(
        "listener.store.sqlite.access.announce", lambda _: pytest.fail("the owner touched its lock file")
    )
    announced: list[int] = []
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as store:
        with store.announcing(lambda: announced.append(1)) as announcements:
            assert announcements.of_others
            await store.request([NeedInput("cdn", "https://example.com/")])
            await until(lambda: announced == [1])
            await store.look_again([])
            await asyncio.sleep(0.1)
            assert announced == [1]


USUAL = {"verifier": {"first_seconds": 60.0, "interval_seconds": 30.0}, "coalescer": {"quiet_seconds": 1.0}}


def refused(*_: object) -> None:
    """Open no instance, as where all are in use."""
    raise OSError(24, "Too many open files")


async def at_rest(world: World) -> None:
    """Wait until what the start left to be done and kept is over: its commits are announced, too."""
    await world.until(lambda: world.pipeline.engines[0].settled and "www" in world.pipeline._kept)
    while True:
        count = world.pipeline.lookout.stored.count
        await asyncio.sleep(2.0)
        if world.pipeline.lookout.stored.count == count:
            return


async def requested(world: World, key: str) -> None:
    """Request a refresh as another process does."""
    async with open_store(world.settings.store.url) as other:
        await other.request([NeedInput("cdn", world.url(key))])


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
