"""Promise 3: a change during flight re-arms; sequences decide, never clocks."""

from __future__ import annotations

from listener.refresh import AttemptState
from tests.store.steps import BASE, Bench, content, file, folder


async def test_a_need_ends_when_its_attempt_completes(bench: Bench) -> None:
    """Nothing is left of a need once the attempt that covers it is complete, and not before."""
    await bench.change(content("a.html"))
    made = await bench.send(file("a.html"))
    assert await bench.stale("a.html") == ["attempted"]
    await bench.finish(made)
    assert await bench.stale("a.html") == []
    assert (await bench.store.counts()).pending == 0


async def test_a_change_during_flight_outlives_the_attempt(bench: Bench) -> None:
    """What changed after the quota was held is still needed after the attempt completes."""
    await bench.change(content("a.html"))
    made = await bench.send(file("a.html"))
    await bench.change(content("a.html", 2), wait=0)
    await bench.finish(made)
    assert await bench.stale("a.html") == ["waiting"]


async def test_a_newer_change_may_be_sent_while_the_older_attempt_flies(bench: Bench) -> None:
    """The second attempt settles the second change, whichever of the two completes first."""
    await bench.change(content("a.html"))
    first = await bench.send(file("a.html"))
    await bench.change(content("a.html", 2))
    second = await bench.send(file("a.html"))
    assert len(second) == 1
    await bench.finish(first)
    assert await bench.stale("a.html") == ["attempted"]
    await bench.finish(second)
    assert await bench.stale("a.html") == []


async def test_clocks_decide_nothing(bench: Bench) -> None:
    """A change recorded after the hold survives although the clock was set back by an hour in between."""
    await bench.change(content("a.html"))
    made = await bench.send(file("a.html"))
    bench.clock.advance(-3600)
    await bench.change(content("a.html", 2), wait=0)
    await bench.finish(made)
    assert await bench.stale("a.html") == ["waiting"]


async def test_a_directory_attempt_covers_what_was_recorded_before_it(bench: Bench) -> None:
    """A directory settles everything below it up to its watermark, and nothing next to it or later."""
    await bench.change(*(content(key) for key in ("a/1", "a/b/2", "a/b/c/3", "ab/4", "5")))
    made = await bench.send(folder("a/"))
    assert await bench.ready() == {"ab/": 1, "": 1}
    await bench.change(content("a/b/2", 2))
    await bench.change(content("a/new"))
    assert await bench.ready() == {"ab/": 1, "": 1, "a/b/": 1, "a/": 1}
    await bench.finish(made)
    assert [await bench.stale(key) for key in ("a/1", "a/b/2", "a/b/c/3", "a/new")] == [[], ["ready"], [], ["ready"]]
    assert (await bench.store.counts()).pending == 4


async def test_a_waiting_need_is_covered_too(bench: Bench) -> None:
    """A change that was recorded, though its quiet time is not over, is settled by a directory attempt."""
    await bench.change(content("a/1"), wait=0)
    await bench.finish(await bench.send(folder("a/")))
    assert await bench.stale("a/1") == []


async def test_an_unfinished_write_is_covered_by_nothing(bench: Bench) -> None:
    """A file still being written when the directory is sent is needed afterwards, also once it counts as finished."""
    await bench.change(content("a/big", finished=False), wait=0)
    made = await bench.send(folder("a/"))
    bench.clock.advance(60)
    await bench.store.promote_due()
    await bench.finish(made)
    assert await bench.stale("a/big") == ["ready"]


async def test_a_revalidation_does_not_heal_what_needs_force(bench: Bench) -> None:
    """Without force a directory leaves a need whose validator did not advance, in the plan and after the sweep."""
    bench.store._recorder.unforced = frozenset({"cdn"})
    await bench.change(content("a/old", 5), content("a/new", 5))
    await bench.finish(await bench.send(folder("a/")))
    await bench.change(content("a/old", 4), content("a/new", 6))
    made = await bench.send(folder("a/", force=False))
    assert await bench.ready() == {"a/": 1}
    await bench.finish(made)
    assert await bench.stale("a/old") == ["ready"]
    assert await bench.stale("a/new") == []


async def test_a_failed_attempt_gives_its_need_back_after_a_back_off(bench: Bench) -> None:
    """A failed file is counted as failed, then ready again; its directory twin likewise."""
    await bench.change(content("x"), content("a/1"))
    one, two = await bench.send(file("x"), folder("a/"))
    for attempt in (one, two):
        await bench.store.fail([attempt.id], retry_at=bench.clock.now() + 60, error="Internal Error")
    counts = await bench.store.counts()
    assert (counts.failed, counts.pending) == (2, 0)
    assert await bench.ready() == {}
    bench.clock.advance(61)
    over = await bench.store.attempts_in(AttemptState.FAILED, due_by=bench.clock.now())
    await bench.store.end_backoff([attempt.id for attempt in over])
    assert await bench.ready() == {"": 1, "a/": 1}
    again = await bench.hold(file("x"))
    assert again[0].tries == 2


async def test_unconfirmed_is_reported_and_not_sent_again(bench: Bench) -> None:
    """A task that never ends keeps its need, in a state of its own, until it is changed or ends after all."""
    await bench.change(content("x"), content("y"))
    one, two = await bench.send(file("x"), file("y"))
    for attempt in (one, two):
        await bench.store.unconfirm([attempt.id], next_look_at=None, error="an hour unfinished")
    assert (await bench.store.counts()).unconfirmed == 2
    assert await bench.ready() == {}
    await bench.change(content("x", 2))
    assert await bench.stale("x") == ["ready"]
    await bench.finish([two])
    assert await bench.stale("y") == []
    assert (await bench.store.counts()).unconfirmed == 0


async def test_after_a_flight_staleness_counts_from_the_change_during_it(bench: Bench) -> None:
    """Once the older change is settled, the need is stale only since the newer one."""
    await bench.change(content("x"))
    made = await bench.send(file("x"))
    during = bench.clock.now()
    await bench.change(content("x", 2))
    await bench.finish(made)
    (need,) = await bench.store.explain(BASE + "x")
    assert need["stale_since"] == during


async def test_a_hot_file_is_due_by_its_cap_and_not_at_every_change(bench: Bench) -> None:
    """A file that never rests is ready once its cap is over; the window restarts with the attempt."""
    started = bench.clock.now()
    ready_after = None
    for second in range(60):
        await bench.change(content("hot", second), wait=0)
        bench.clock.advance(0.5)
        if await bench.store.promote_due() and ready_after is None:
            ready_after = bench.clock.now() - started
            await bench.send(file("hot"))
            due = await bench.store.next_due()
            assert due is None
    assert ready_after == 30.0
