"""Large plans account for every change, within bounded memory, and in a thread that leaves the loop to others."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from bench.planning.large import site
from listener.planner import plan


@pytest.mark.parametrize("tokens", [(2000, 100), (500, 0)])
def test_a_large_plan_accounts_for_every_change(tokens: tuple[int, int]) -> None:
    """Of 100,000 due changes in 20,000 directories each is covered, sent or deferred, once."""
    made = plan(site(20_000, 100_000, spread=True, files=tokens[0], tokens=tokens[1]))
    covered = sum(directory.covers for directory in made.directories)
    assert covered + sum(f.take for f in made.files) + sum(d.needs for d in made.deferred) == 100_000


def test_twelve_hundred_changes_of_a_large_site_are_planned_exactly() -> None:
    """1,200 changes in a site of 100,000 directories stay within the bound of work: no gap to the optimum."""
    assert plan(site(100_000, 1_200, spread=False, files=500, tokens=20)).gap == 0


@pytest.mark.slow
def test_memory_of_a_large_plan_is_bounded() -> None:
    """Planning 300,000 changes takes less than a third of a gibibyte next to what it is given."""
    given = site(60_000, 300_000, spread=True)
    tracemalloc.start()
    plan(given)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**30 / 3


@pytest.mark.looptime(False)
async def test_the_event_loop_goes_on_while_a_large_plan_is_made() -> None:
    """The planner never keeps the interpreter to itself: a loop next to its thread turns all the while."""
    given = site(60_000, 300_000, spread=True)
    planning = asyncio.get_running_loop().run_in_executor(None, plan, given)
    turns = 0
    while not planning.done():
        await asyncio.sleep(0.001)
        turns += 1
    await planning
    assert turns >= 5
