"""What went wrong in odd corners once: each test names the promise that it holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from listener.change import Change, ChangeKind, Fingerprint
from listener.clock import window_start
from listener.contracts import Delivery
from listener.errors import ConfigurationError, StoreError
from listener.pipeline.accounts import SLOTS, Account
from listener.refresh import AttemptState, RefreshKind, Scope
from listener.store import NeedInput
from listener.store.transitions import AttemptRequest
from tests.pipeline.world import PlayedSource, World, a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def stays(world: World, *, seconds: float = 1.5) -> None:
    """Let the pipeline go on for a while, and see that it still runs."""
    await asyncio.sleep(seconds)
    assert not world.running.done()


async def test_an_urgent_directory_is_paid_once(tmp_path: Path) -> None:
    """Promise 4: what was asked for urgently is not planned a second time in the same round."""
    async with a_world(tmp_path) as world:
        url = world.emulator.edge_url + "/a/"
        await world.store.request([NeedInput("cdn", url, Scope.SUBTREE)], urgent=True, reason="by hand")
        await world.settled()
        assert world.paths == [url]
        assert await world.ledger(RefreshKind.DIRECTORY) == (1, 0)


def _older(key: str) -> Change:
    """A file replaced by one whose Last-Modified did not advance."""
    return Change("www", key, ChangeKind.CONTENT, Fingerprint(1, 1_000_000_000))


async def test_an_unforced_directory_is_not_paid_for_what_it_cannot_heal(tmp_path: Path) -> None:
    """Promises 4 and 7: needs that need force wait for file quota instead of spending directories in vain."""
    async with a_world(tmp_path, quota=(0, 20), target={"force": False}) as world:
        keys = [f"a/{number}.html" for number in range(6)]
        world.source.deliver(*map(_older, keys), seed=True)
        world.source.deliver(*map(_older, keys))

        async def deferred() -> bool:
            return (await world.store.counts()).deferred == 6

        await world.until(deferred)
        await stays(world)
        assert world.accepted == {}
        assert await deferred()


async def test_a_refused_directory_is_not_asked_for_again_and_again(tmp_path: Path) -> None:
    """Promise 6: a directory that the CDN refuses is left alone for the day, and its files wait as files."""
    async with a_world(tmp_path, quota=(0, 20)) as world:
        world.order("malformed:/bad/")
        world.source.deliver(*(world.write(f"bad/{number}.html", "new") for number in range(30)))
        await stays(world, seconds=2.0)
        rows = await world.store.history(limit=1000)
        assert len([row for row in rows if row["kind"] == "directory"]) <= 1
        assert (await world.store.counts()).deferred == 30


async def test_a_cancelled_wait_for_quiet_gives_its_lanes_back() -> None:
    """A stop while the quota reading waits for requests under way does not hold up the end."""
    account = Account("main", {})
    async with account.slot():
        waiting = asyncio.create_task(_quietly(account))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1.0), account.exclusive():
        pass
    assert account._slots._value == SLOTS


async def _quietly(account: Account) -> None:
    async with account.exclusive():
        pass


async def _fly(world: World, target: str, *states: AttemptState) -> None:
    """Leave an attempt of some target in flight."""
    url = world.url("old.html")
    await world.store.request([NeedInput(target, url)])
    wanted = AttemptRequest(target, RefreshKind.FILE, url, True, "", 0.0)
    (made,) = await world.store.hold([wanted], account="other", quota={RefreshKind.FILE: 10})
    await world.store.mark_sending([made.id])
    if AttemptState.ACCEPTED in states:
        await world.store.accept({made.id: "77"}, next_look_at=1.0)
    else:
        await world.store.mark_unknown([made.id], next_look_at=1.0, error="")


@pytest.mark.parametrize("state", [AttemptState.ACCEPTED, AttemptState.UNKNOWN])
async def test_a_one_shot_run_ends_though_a_target_is_gone(tmp_path: Path, state: AttemptState) -> None:
    """Nothing waits for ever: what flies for a target that the configuration no longer names is nobody's to follow."""
    async with a_world(tmp_path) as world:
        await _fly(world, "removed", state)
        world.pipeline.stop()
        await world.running
        await world.store.recover()
        world.source.queue.put_nowait(None)
        world.running = asyncio.create_task(asyncio.sleep(0))
        again = type(world.pipeline)(
            world.settings, world.store, make_sources=lambda: {"www": world.source},
            targets={"cdn": world.target}, clock=world.clock,
        )  # fmt: skip
        async with asyncio.timeout(10.0):
            await again.run(until_idle=True)


async def test_tasks_of_a_gone_target_do_not_hide_the_others(tmp_path: Path) -> None:
    """Promise 5: however many looks are overdue for a target that is gone, the others' tasks are looked at."""
    async with a_world(tmp_path) as world:
        await _fly(world, "removed", AttemptState.ACCEPTED)
        found = await world.store.attempts_in(AttemptState.ACCEPTED, targets=["cdn"])
        assert found == []


async def test_a_kind_that_the_target_cannot_do_stops_nothing(tmp_path: Path) -> None:
    """Promise 5: an all-params need on API version 2014-11-11 is deferred, also when urgent; the rest goes on."""
    async with a_world(tmp_path, target={"api_version": "2014-11-11"}) as world:
        # The ledger knows the kind from the days of the newer API version.
        row = ("main", "ignore-params", window_start(world.clock.now()) - 86_400, 5, 1.0)
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
        await world.until(lambda: world.paths, seconds=5.0)


async def test_an_ack_that_breaks_stops_nothing(tmp_path: Path) -> None:
    """The changes of a delivery are safe when its ack is called: whatever that raises, the work goes on."""
    async with a_world(tmp_path) as world:

        async def broken() -> None:
            raise RuntimeError("a plugin's mistake")

        world.source.queue.put_nowait(Delivery([world.write("a.html", "new")], broken))
        world.source.deliver(world.write("b.html", "new"))
        await world.settled()
        assert sorted(world.paths) == [world.url("a.html"), world.url("b.html")]


async def test_a_word_that_is_no_text_stops_nothing(tmp_path: Path) -> None:
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
        await world.until(lambda: world.paths, seconds=10.0)
        await world.settled()


async def test_a_one_shot_run_does_not_wait_for_a_throttle_that_never_ends(tmp_path: Path) -> None:
    """Nothing waits for ever: after a few refusals in a row a one-shot run ends, throttled or not."""
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


async def test_a_kind_whose_quota_is_refused_holds_up_no_other(tmp_path: Path) -> None:
    """Promise 5: prefetches that the CDN refuses for their quota are tried ever more rarely, and files go meanwhile."""
    async with a_world(tmp_path) as world:
        world.order("quota:100000,action=PushObjectCache")
        await world.store.request([NeedInput("cdn", world.url("p.html"), Scope.PREFETCH)])
        slowest, began, number = 0.0, time.monotonic(), 0
        while time.monotonic() - began < 6.0:
            at, number = time.monotonic(), number + 1
            world.source.deliver(world.write(f"{number}.html", "new"))
            await world.until(lambda: len(world.paths) == number)  # noqa: B023 - awaited at once
            slowest = max(slowest, time.monotonic() - at)
            await asyncio.sleep(0.2)
        refused = world.pipeline.engines[0].account._exhausted[RefreshKind.PREFETCH][1]
        assert 2 <= refused <= 4
        assert slowest < 0.9


async def test_a_source_that_breaks_is_started_anew_and_ends_no_other(tmp_path: Path) -> None:
    """Promise 1: a mistake in a source, of whatever kind, is told, and what it brings afterwards is heard."""
    async with a_world(tmp_path) as world:
        world.source.queue.put_nowait("no delivery")  # type: ignore[arg-type]
        await world.until(lambda: world.source.health.detail)
        assert not world.pipeline.ready
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        assert world.paths == [world.url("a.html")]


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
        assert time.monotonic() - began < 5.0
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
