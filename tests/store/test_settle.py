"""Promises 3 and 5 in odd corners: nothing is settled that an attempt did not cover, nothing set aside stays hidden."""

from __future__ import annotations

import pytest

from listener.refresh import RefreshKind, Scope
from listener.store import NeedInput
from listener.store.needs import Snapshot
from listener.store.store import SLICE_ROWS
from listener.store.transitions import AttemptRequest
from tests.store.steps import BASE, Bench, FakeClock, content, file, folder


def params(key: str, *, force: bool) -> AttemptRequest:
    """A wish to refresh a path with any query."""
    return AttemptRequest("cdn", RefreshKind.IGNORE_PARAMS, BASE + key, force, "test", 0.0)


async def _forced_params(bench: Bench) -> None:
    """Make an all-params need that needs force."""
    await bench.store.request([NeedInput("cdn", BASE + "a.html", Scope.ALL_PARAMS)])
    await bench.store._write(lambda c: c.execute("UPDATE need SET needs_force = 1").rowcount)


@pytest.mark.parametrize("force", [True, False])
async def test_a_revalidation_with_any_query_settles_nothing_that_needs_force(bench: Bench, *, force: bool) -> None:
    """Promise 3: an ignore-params attempt without force does not cover what needs force; a forced one does."""
    await _forced_params(bench)
    await bench.finish(await bench.send(params("a.html", force=force)))
    assert await bench.stale("a.html") == ([] if force else ["ready"])


async def test_an_unconfirmed_file_that_fails_for_good_stands_among_the_dead_letters(bench: Bench) -> None:
    """Promise 5: when the task of an unconfirmed attempt fails too often after all, a person finds and retries it."""
    await bench.change(content("a.html"))
    (made,) = await bench.send(file("a.html"))
    await bench.store.unconfirm([made.id], next_look_at=None, error="never ended")
    await bench.store.park([made.id], error="failed 8 times")
    assert await bench.stale("a.html") == ["parked"]
    assert [letter.subject for letter in await bench.store.dead_letters()] == [BASE + "a.html"]


async def test_a_clock_set_back_moves_what_waits_and_nothing_newer(bench: Bench, clock: FakeClock) -> None:
    """Sequences decide, never clocks: what waited is due when it was meant to be, what came since keeps its time."""
    await bench.change(content("old.html"), wait=0)
    due = await bench.store.next_due()
    assert due is not None
    clock.advance(-7200)
    await bench.change(content("new.html"), wait=0)
    newer = await bench.store.next_due()
    await bench.store.set_back(7200)
    assert [row[0] for row in bench.sql("SELECT due_at FROM need ORDER BY name")] == [newer, due - 7200]


async def test_a_clock_set_back_moves_many_in_slices(bench: Bench, clock: FakeClock) -> None:
    """Each need once, however many wait and however many of them for the same moment."""
    for _ in range(3):
        await bench.change(*(content(f"{clock.now():.0f}/{n}") for n in range(SLICE_ROWS // 2 + 50)), wait=0)
        clock.advance(1)
    before = [row[0] for row in bench.sql("SELECT due_at FROM need ORDER BY due_at")]
    clock.advance(-7200)
    await bench.store.set_back(7200)
    assert [row[0] for row in bench.sql("SELECT due_at FROM need ORDER BY due_at")] == [at - 7200 for at in before]


async def test_an_attempt_that_seems_to_be_of_the_future_delays_nothing(bench: Bench, clock: FakeClock) -> None:
    """After the clock was set back, the shortest interval between two attempts is not reckoned from the future."""
    await bench.change(content("a.html"))
    await bench.finish(await bench.send(file("a.html")))
    clock.advance(-7200)
    await bench.change(content("a.html", 2))
    assert len(await bench.hold(file("a.html", min_interval_seconds=30.0))) == 1


async def test_the_loads_count_the_needs_that_need_force(bench: Bench) -> None:
    """Promise 7: the planner learns what a directory without force could not heal."""
    await bench.change(content("d/a"), content("d/b"))
    await bench.store._write(lambda c: c.execute("UPDATE need SET needs_force = 1 WHERE name = 'a'").rowcount)
    (load,) = await bench.store.read(Snapshot.loads)
    assert (load.exact, load.forced, load.forced_all_params) == (2, 1, 0)
    await bench.send(folder("d/", force=False))
    (load,) = await bench.store.read(Snapshot.loads)
    assert (load.exact, load.forced) == (1, 1)
