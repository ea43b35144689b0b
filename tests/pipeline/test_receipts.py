"""What a receipt says decides what happens to each URL of its request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from listener.allowances import Day, for_each_kind
from listener.change import Change, ChangeKind
from listener.contracts import Eviction, KindLimits, Pace
from listener.errors import BatchRejected, WindowFull
from listener.refresh import AttemptState, Receipt, RefreshKind, Scope, Task, TaskState
from listener.store import NeedInput
from listener.store.controls import ControlKind, Controls, Place
from listener.store.staleness import Surroundings
from tests.pipeline.scripted import BASE, Scripted, WithTasks, a_world_of
from tests.pipeline.world import World

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


def change(*keys: str) -> list[Change]:
    """Return a change of each of these keys."""
    return [Change("www", key) for key in keys]


async def accepted(world: World) -> list[str]:
    """Return the URLs in flight."""
    return [one.url for one in await world.store.attempts_in(AttemptState.ACCEPTED)]


async def test_a_receipt_without_tasks_is_final(tmp_path: Path) -> None:
    """What it accepts is complete at once, and paid for once."""
    async with a_world_of(tmp_path, target := Scripted(), first_seconds=3600.0) as world:
        world.source.deliver(*change("a.html", "b.html"))
        await world.settled()
        assert sorted(url for one in target.sent for url in one.urls) == [f"{BASE}a.html", f"{BASE}b.html"]
        assert await world.ledger() == (2, 0)


@pytest.mark.parametrize("target", [Scripted, WithTasks])
async def test_a_receipt_may_settle_after_a_time(tmp_path: Path, target: type[Scripted]) -> None:
    """Until then the URL is in flight, also where the target has tasks at other times; afterwards it is fresh."""
    async with a_world_of(tmp_path, target(Receipt(settles_after_seconds=300.0)), first_seconds=0.2) as world:
        world.source.deliver(*change("a.html"))
        await world.until(lambda: accepted(world))
        await asyncio.sleep(0.5)  # longer than the first look at a task takes
        assert await accepted(world) == [f"{BASE}a.html"]
        world.clock.ahead += 301
        await world.settled()


async def test_a_task_may_be_of_the_whole_request(tmp_path: Path) -> None:
    """It names no URL: each of the request is complete with it, and none before."""
    target = WithTasks(Receipt(("I1",)))
    target.listed = [Task("I1", None, RefreshKind.FILE, TaskState.REFRESHING)]
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(*change("a.html", "b.html"))
        await world.until(lambda: accepted(world))
        await asyncio.sleep(0.5)
        assert len(await accepted(world)) == 2
        target.listed = [Task("I1", None, RefreshKind.FILE, TaskState.COMPLETE)]
        await world.settled()
        assert len(target.sent) == 1


async def test_urls_that_a_receipt_refuses_are_rejected_and_the_rest_is_accepted(tmp_path: Path) -> None:
    """By one request, which is paid for as far as it was accepted."""
    target = Scripted(Receipt(refused={f"{BASE}b.html": "not of this zone"}))
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(*change("a.html", "b.html", "c.html"))

        async def is_rejected() -> bool:
            counts = await world.store.counts()
            return (counts.pending, counts.in_flight, counts.parked) == (0, 0, 1)

        await world.until(is_rejected)
        assert len(target.sent) == 1
        assert await world.ledger() == (2, 0)
        (row,) = await world.store.explain(f"{BASE}b.html")
        assert row["reason"] == "not of this zone"
        (attempt,) = await world.store.history(url=f"{BASE}b.html")
        assert attempt["state"] == "failed"


async def test_urls_that_some_caches_did_not_drop_stay_stale_and_are_sent_again(tmp_path: Path) -> None:
    """Each backs off by itself, with the reason; what changes meanwhile is not held up; the account is not closed."""
    reason = "10.0.0.6:6081 does not answer"
    down = Receipt(unfinished={f"{BASE}a.html": reason})
    async with a_world_of(tmp_path, target := Scripted(down, Receipt(), down)) as world:
        world.source.deliver(*change("a.html"))

        async def failed() -> bool:
            return (await world.store.counts()).failed == 1

        await world.until(failed)
        (row,) = await world.store.explain(f"{BASE}a.html")
        assert row["reason"] == reason
        assert reason in world.pipeline.engines[0].report.problem
        world.source.deliver(*change("b.html"))
        await world.until(lambda: len(target.sent) == 2)
        assert target.sent[1].urls == (f"{BASE}b.html",)
        await world.until(lambda: not world.pipeline.engines[0].report.problem)
        world.clock.ahead += 6
        await world.until(lambda: len(target.sent) == 3)
        await world.until(failed)
        world.clock.ahead += 6
        await asyncio.sleep(0.3)
        assert len(target.sent) == 3  # twice as long
        world.clock.ahead += 6
        await world.settled()
        assert [one.urls for one in target.sent[2:]] == [(f"{BASE}a.html",)] * 2
        assert not world.pipeline.engines[0].report.problem
        assert await world.ledger() == (2, 0)


async def test_what_one_cache_rejects_is_sent_to_the_one_that_was_away(tmp_path: Path) -> None:
    """It is set aside once each cache has answered for it, and not before: the other may hold an old copy."""
    url = f"{BASE}a.html"
    away = Receipt(refused={url: "10.0.0.5 rejects it"}, unfinished={url: "10.0.0.6 does not answer"})
    target = Scripted(away, Receipt(refused={url: "10.0.0.5 rejects it"}))
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(*change("a.html"))

        async def counted(**expected: int) -> bool:
            counts = await world.store.counts()
            return all(getattr(counts, name) == number for name, number in expected.items())

        await world.until(lambda: counted(failed=1))
        (row,) = await world.store.explain(url)
        assert row["reason"] == "10.0.0.6 does not answer; 10.0.0.5 rejects it"
        world.clock.ahead += 6
        await world.until(lambda: counted(parked=1, failed=0))
        assert [one.urls for one in target.sent] == [(url,)] * 2
        (row,) = await world.store.explain(url)
        assert row["reason"] == "10.0.0.5 rejects it"
        assert await world.ledger() == (0, 0)


async def test_a_refusal_that_names_urls_needs_no_search(tmp_path: Path) -> None:
    """Those are set aside, and one more request sends the rest."""
    target = Scripted(BatchRejected("invalid", urls=[f"{BASE}k2", f"{BASE}k7"]))
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(*change(*(f"k{n}" for n in range(8))))

        async def is_done() -> bool:
            counts = await world.store.counts()
            return (counts.pending, counts.in_flight, counts.parked) == (0, 0, 2)

        await world.until(is_done)
        assert [len(one.urls) for one in target.sent] == [8, 6]


@pytest.mark.parametrize("scope", [Scope.SUBTREE, Scope.ALL_PARAMS, Scope.PREFETCH])
async def test_what_the_target_cannot_do_says_so(tmp_path: Path, scope: Scope) -> None:
    """It stays stale with the reason; nothing is tried, and what is in the same folder goes on."""
    target = Scripted()
    target.limits = {RefreshKind.FILE: KindLimits(10)}  # type: ignore[misc]
    url = f"{BASE}d/" if scope is Scope.SUBTREE else f"{BASE}d/a.html"
    async with a_world_of(tmp_path, target) as world:
        await world.store.request([NeedInput("cdn", url, scope)])
        world.source.deliver(*change("d/b.html"))
        await world.until(lambda: target.sent)

        async def reasons() -> list[str]:
            found = await world.store.stale(Surroundings(world.clock.now(), True, {"cdn": "main"}))
            return [one.reason for one in found]

        async def is_said() -> bool:
            return any("the target cdn has no request for" in one for one in await reasons())

        await world.until(is_said)
        assert "cancel" in (await reasons())[0]
        assert [one.urls for one in target.sent] == [(f"{BASE}d/b.html",)]


async def test_a_used_up_rate_limit_holds_back_one_kind(tmp_path: Path) -> None:
    """Files wait, and no directory stands in for them; a directory that is due goes at once."""
    target = Scripted(WindowFull("800 URLs a second", retry_after_seconds=60.0))
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(*change(*(f"d/{n}.html" for n in range(6))))
        await world.until(lambda: world.pipeline.engines[0].report.problem)
        world.source.deliver(Change("www", "old/", ChangeKind.SUBTREE))
        await world.until(lambda: len(target.sent) == 2)
        await asyncio.sleep(0.3)
        assert [one.kind for one in target.sent] == [RefreshKind.FILE, RefreshKind.DIRECTORY]
        assert await world.ledger() == (0, 0)
        world.clock.ahead += 61
        await world.settled()
        assert [one.kind for one in target.sent[2:]] == [RefreshKind.FILE]
        assert not world.pipeline.engines[0].report.problem


async def test_a_target_says_when_its_tasks_are_looked_at_first(tmp_path: Path) -> None:
    """Sooner than ``verifier.first_seconds``, where it knows better."""
    target = WithTasks(Receipt(("I1",)))
    target.pace = Pace(first_look_seconds=0.1)
    target.listed = [Task("I1", None, RefreshKind.FILE, TaskState.COMPLETE)]
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        world.source.deliver(*change("a.html"))
        await world.settled()


@pytest.mark.parametrize("scope", [Scope.EXACT, Scope.SUBTREE])
async def test_a_soft_kind_evicts_only_what_needs_it(tmp_path: Path, scope: Scope) -> None:
    """A file whose validator did not advance would be kept: it is dropped, also by a request of its own."""
    target = Scripted()
    target.limits = {  # type: ignore[misc]
        RefreshKind.FILE: KindLimits(10, eviction=Eviction.EITHER),
        RefreshKind.DIRECTORY: KindLimits(1, eviction=Eviction.EITHER),
    }
    target.allowances = for_each_kind(dict.fromkeys(target.limits, 100), Day())
    async with a_world_of(tmp_path, target) as world:
        end = "/" if scope is Scope.SUBTREE else ""
        await Controls(world.store).put(ControlKind.PAUSE, [Place()], seconds=None)
        await world.store.request([NeedInput("cdn", f"{BASE}{key}{end}", scope) for key in ("advanced", "stands")])
        await world.store._write(
            lambda connection: (
                connection.execute(
                    "UPDATE need SET needs_force = 1 WHERE name = 'stands' OR directory IN"
                    " (SELECT id FROM directory WHERE url LIKE '%stands/')"
                ).rowcount
            )
        )
        await Controls(world.store).remove(ControlKind.PAUSE, [Place()])
        await world.settled()
        force = {url: one.force for one in target.sent for url in one.urls}
        assert force == {f"{BASE}advanced{end}": False, f"{BASE}stands{end}": True}
