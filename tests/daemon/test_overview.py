"""What the status page and the metrics are made from: since when, how long it took, why a URL is stale."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from listener.daemon.freshness import BOUNDS_SECONDS, Freshness
from listener.store import open_store
from listener.store.staleness import Surroundings
from tests.store.steps import BASE, Bench, FakeClock, content, file, folder, subtree

GIVEN = Surroundings(0.0, True, {"cdn": "main"})


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands until it is moved."""
    return FakeClock()


@pytest.fixture
async def bench(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Bench]:
    """An owned store on a file of its own."""
    async with open_store(f"sqlite:///{tmp_path}/state.db", clock=clock, owner=True) as store:
        await store.recover()
        yield Bench(store, clock)


async def states_of(bench: Bench, key: str) -> list[tuple[str, str]]:
    """Return state and scope of whatever makes this key's URL stale."""
    rows = await bench.store.stale(GIVEN, url=BASE + key)
    return [(row.state, row.scope) for row in rows]


async def test_a_url_is_stale_for_its_own_change_and_for_those_above(bench: Bench) -> None:
    """Its own need through all its states, a directory's above it, nothing below it or next to it."""
    assert await states_of(bench, "a/b.html") == []
    await bench.change(content("a/b.html"), wait=0)
    assert await states_of(bench, "a/b.html") == [("waiting", "exact")]
    bench.clock.advance(60)
    await bench.store.promote_due()
    assert await states_of(bench, "a/b.html") == [("deferred", "exact")]
    assert (
        await states_of(bench, "a/")
        == await states_of(bench, "a/c.html")
        == await states_of(bench, "a/b.html?x=1")
        == []
    )
    made = await bench.send(file("a/b.html"))
    assert await states_of(bench, "a/b.html") == [("in_flight", "exact")]
    await bench.store.fail([made[0].id], retry_at=bench.clock.now() + 60, error="Internal Error")
    assert await states_of(bench, "a/b.html") == [("failed", "exact")]
    await bench.change(subtree("a/"), wait=0)
    assert sorted(await states_of(bench, "a/c/d.html")) == [("waiting", "subtree")]
    assert sorted(await states_of(bench, "a/b.html")) == [("failed", "exact"), ("waiting", "subtree")]
    assert await states_of(bench, "a/") == [("waiting", "subtree")]
    assert await states_of(bench, "b.html") == await states_of(bench, "") == []


async def test_what_a_directory_refresh_covers_is_in_flight(bench: Bench) -> None:
    """As far as its watermark reaches; what changes later is stale of its own, and what it completed is fresh."""
    await bench.change(content("a/b.html"), content("a/x/c.html"), content("d.html"))
    made = await bench.send(folder("a/"))
    assert await states_of(bench, "a/b.html") == await states_of(bench, "a/x/c.html") == [("in_flight", "exact")]
    assert await states_of(bench, "d.html") == [("deferred", "exact")]
    await bench.change(content("a/b.html", 2))
    assert await states_of(bench, "a/b.html") == [("deferred", "exact")]
    await bench.store.complete(made)
    assert await states_of(bench, "a/x/c.html") == []  # before the sweep, too
    await bench.finish(made)
    assert await states_of(bench, "a/x/c.html") == []


async def test_each_state_has_its_beginning(bench: Bench) -> None:
    """The oldest change of each state, and only of states that hold any."""
    assert (await bench.store.counts()).since == {}
    began = bench.clock.now()
    await bench.change(content("a.html"))
    await bench.change(content("b.html"))
    assert (await bench.store.counts()).since == {"pending": began, "deferred": began}
    made = await bench.send(file("a.html"))
    assert (await bench.store.counts()).since == {"pending": began + 60, "deferred": began + 60, "in_flight": began}
    await bench.store.park([made[0].id], error="refused")
    assert (await bench.store.counts()).since == {"pending": began + 60, "deferred": began + 60, "parked": began}
    await bench.change(content("c.html"), wait=0)
    made = await bench.send(file("b.html"))
    await bench.store.unconfirm([made[0].id], next_look_at=None, error="never ended")
    assert (await bench.store.counts()).since == {"pending": began + 120, "parked": began, "unconfirmed": began + 60}
    rows = await bench.store.stale(GIVEN)
    assert [(row.state, row.url, row.reason) for row in rows if row.state == "unconfirmed"] == [
        ("unconfirmed", BASE + "b.html", "never ended")
    ]


async def finished(bench: Bench, key: str, seconds: float) -> None:
    """Change a file and have it fresh so many seconds after the change."""
    began = bench.clock.now()
    await bench.change(content(key, int(began)), wait=min(60.0, seconds))
    made = await bench.send(file(key)._replace(stale_since=began))
    bench.clock.advance(began + seconds - bench.clock.now())
    await bench.finish(made)


async def update(freshness: Freshness, bench: Bench) -> None:
    """Update the figures, once the rest since the last update is over."""
    await asyncio.sleep(2)
    await freshness.update(bench.store)


async def test_times_are_counted_once_and_forgotten_in_time(bench: Bench) -> None:
    """Each attempt counts once, however often the figures are updated; none from before the start; a day passes."""
    await finished(bench, "before.html", 60)
    bench.clock.advance(1)
    freshness = Freshness(bench.clock)
    for seconds in (60, 90, 300, 3000):
        await finished(bench, f"{seconds}.html", seconds)
        for _ in range(3):
            await update(freshness, bench)
    histogram = freshness.histograms()["cdn", "file"]
    assert (sum(histogram.buckets), round(histogram.sum_seconds)) == (4, 3450)
    assert freshness.outcomes == {("cdn", "file", "complete"): 4}
    spans = freshness.spans()
    assert (spans["hour"].refreshes, spans["day"].refreshes) == (5, 5)
    assert (spans["day"].p50_seconds, spans["day"].p99_seconds) == (90, 3000)
    assert spans["day"].buckets[BOUNDS_SECONDS.index(60.0)] == 2
    bench.clock.advance(2000)
    assert (freshness.spans()["hour"].refreshes, freshness.spans()["day"].refreshes) == (1, 5)
    bench.clock.advance(86400)
    await update(freshness, bench)
    assert freshness.spans()["day"].refreshes == 0
    assert freshness.spans()["day"].p99_seconds is None
    assert sum(freshness.histograms()["cdn", "file"].buckets) == 4


async def test_what_failed_is_an_outcome_and_no_time(bench: Bench) -> None:
    """A failed attempt is counted as such; its URL's time is that of the attempt that heals it."""
    freshness = Freshness(bench.clock)
    await bench.change(content("a.html"))
    made = await bench.send(file("a.html"))
    await bench.store.fail([made[0].id], retry_at=bench.clock.now() + 60, error="Internal Error")
    await update(freshness, bench)
    await bench.store.end_backoff([made[0].id])
    await update(freshness, bench)
    assert freshness.outcomes == {("cdn", "file", "failed"): 1}
    assert freshness.histograms() == {}


async def test_an_end_that_shows_late_is_counted(bench: Bench) -> None:
    """A stalled disk makes an end readable after one that came later: it is not passed over."""
    freshness = Freshness(bench.clock)
    await bench.change(content("a.html"), content("b.html"))
    early, late = await bench.send(file("a.html"), file("b.html"))
    await bench.finish([late])
    await update(freshness, bench)
    bench.clock.advance(-5)
    await bench.finish([early])
    bench.clock.advance(5)
    await update(freshness, bench)
    assert freshness.outcomes == {("cdn", "file", "complete"): 2}
    bench.clock.advance(-7200)
    await finished(bench, "c.html", 60)
    await update(freshness, bench)
    assert freshness.outcomes == {("cdn", "file", "complete"): 3}
