"""What several kinds spend together, and one kind of several allowances, from a change to the reset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from listener.allowances import DAY_SECONDS, Allowance, Day, Month, Rolling
from listener.errors import QuotaExhausted
from listener.pipeline.accounts import RESET_GUARD_SECONDS
from listener.refresh import RefreshKind, Scope
from listener.store import NeedInput
from tests.pipeline.scripted import BASE, Scripted, a_world_of
from tests.pipeline.test_planner_sharing import NO_RESERVE
from tests.pipeline.world import World

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time

FILE, DIRECTORY = RefreshKind.FILE, RefreshKind.DIRECTORY


def a_target(*allowances: Allowance) -> Scripted:
    """Return a target with these allowances."""
    target = Scripted()
    target.allowances = allowances
    return target


def urls_of(target: Scripted) -> int:
    """Return how many URLs were sent."""
    return sum(len(sent.urls) for sent in target.sent)


async def request(world: World, *keys: str) -> None:
    """Request these URLs as a person does: unpaced, whatever is left."""
    await world.store.request(
        [NeedInput("cdn", BASE + key, Scope.SUBTREE if key.endswith("/") else Scope.EXACT) for key in keys],
        urgent=True,
    )


async def pass_reset(world: World, end: float) -> None:
    """Move the clock behind a reset and its guard."""
    world.clock.ahead += end - world.clock.now() + RESET_GUARD_SECONDS + 1.0


async def test_files_and_directories_spend_one_allowance_of_a_month(tmp_path: Path) -> None:
    """Never more than it has; the rest goes out once the next month has begun."""
    paths = Allowance(name="paths", limit=3, window=Month(), costs={FILE: 1, DIRECTORY: 1})
    target = a_target(paths)
    async with a_world_of(tmp_path, target, extra=NO_RESERVE) as world:
        await request(world, "a", "b", "c/", "d", "e/")
        await world.until(lambda: urls_of(target) == 3)
        budget = await world.store.budget("main", paths)
        assert (budget.spent + budget.held, budget.left) == (3, 0)
        await pass_reset(world, Month().end(world.clock.now()))
        await world.until(lambda: urls_of(target) == 5)
        budget = await world.store.budget("main", paths)
        assert (budget.spent + budget.held, budget.left) == (2, 1)


async def test_a_day_and_thirty_days_both_have_to_pay(tmp_path: Path) -> None:
    """Two a day, and three of thirty days: the third day brings nothing, the day after the first has left does."""
    day = Allowance(name="file", limit=2, window=Day(), costs={FILE: 1})
    month = Allowance(name="file-30-days", limit=3, window=Rolling(30), costs={FILE: 1})
    target = a_target(day, month)
    async with a_world_of(tmp_path, target, extra=NO_RESERVE) as world:
        await request(world, *"abcde")
        for expected in (2, 3, 3):
            await world.until(lambda expected=expected: urls_of(target) == expected)
            await pass_reset(world, Day().end(world.clock.now()))
        assert (await world.store.budget("main", day)).left == 2
        assert (await world.store.budget("main", month)).left == 0
        world.clock.ahead += 28 * DAY_SECONDS
        await world.until(lambda: urls_of(target) == 5)
        assert (await world.store.budget("main", month)).spent == 3


async def test_an_allowance_that_the_cdn_refuses_closes_only_what_spends_it(tmp_path: Path) -> None:
    """Files wait and are sent again; directories may go meanwhile, and the account has no problem."""
    own = [Allowance(name=kind.value, limit=9, window=Day(), costs={kind: 1}) for kind in (FILE, DIRECTORY)]
    target = a_target(*own)
    target.answers.append(QuotaExhausted("used up", allowance="file"))
    closed: list[tuple[bool, bool, str]] = []
    async with a_world_of(tmp_path, target, extra=NO_RESERVE) as world:
        (engine,) = world.pipeline.engines

        note = engine.sender._not_sent

        def noted(kind: RefreshKind, error: QuotaExhausted) -> None:
            note(kind, error)
            now, account = world.clock.now(), engine.account
            waits = [account.closed_until_for(each) > now for each in (FILE, DIRECTORY)]
            closed.append((waits[0], waits[1], account.closed_reason))

        engine.sender._not_sent = noted  # type: ignore[method-assign, assignment]
        await request(world, "a")
        await world.until(lambda: urls_of(target) == 2)
    assert closed == [(True, False, "")]


@pytest.mark.parametrize(("object_dollars", "kinds"), [(0.001, {DIRECTORY: 1}), (0.1, {FILE: 10})])
async def test_what_is_paid_is_compared_with_what_it_saves(
    tmp_path: Path, object_dollars: float, kinds: dict[RefreshKind, int]
) -> None:
    """Ten paid paths, or one that evicts twenty objects: as an object is worth in dollars by the settings."""
    both = {FILE: 1, DIRECTORY: 1}
    target = a_target(Allowance(name="paths", limit=5000, window=Month(), costs=both, free=0, unit_dollars=0.005))
    async with a_world_of(tmp_path, target, extra={"planner": {"object_dollars": object_dollars}}) as world:
        world.clock.ahead += Month().end(world.clock.now()) - world.clock.now() + DAY_SECONDS
        files = [world.write(f"a/{n}.html", "old") for n in range(30)]
        world.source.deliver(*files, seed=True)
        world.source.deliver(*files[:10])
        await world.until(lambda: target.sent != [])
        await world.settled()
    sent = Counter[RefreshKind]()
    for one in target.sent:
        sent[one.kind] += len(one.urls)
    assert sent == kinds
