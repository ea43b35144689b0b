"""A name that came and went before anything was requested for it needs no refresh; every other end does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Change
from listener.coalescer import merge
from listener.refresh import Scope
from listener.store import NeedInput, open_store
from listener.store.batches import Batch
from listener.store.store import StoreOptions
from tests import ROOT
from tests.store.steps import BASE, Bench, FakeClock, content, deleted, file, folder, route, subtree


def birth(key: str) -> Change:
    """The first change of an object that nobody knew."""
    return content(key, is_birth=True)


async def test_a_name_that_came_and_went_needs_nothing(bench: Bench) -> None:
    """Written twice and removed within the quiet time: no need is left, nor an object."""
    await bench.change(birth("a/tmp"), wait=0)
    await bench.change(content("a/tmp", 2), wait=0)
    await bench.change(deleted("a/tmp"))
    assert await bench.ready() == {}
    assert bench.index() == {}
    bench.assert_counted()


async def test_it_needs_nothing_either_when_both_were_merged(bench: Bench) -> None:
    """The two changes were one before they were recorded; a need that was there before stays."""
    await bench.change(merge(birth("tmp"), deleted("tmp")))
    assert await bench.ready() == {}
    await bench.change(content("page"))
    await bench.finish(await bench.send(file("page")))
    await bench.change(deleted("page"), wait=0)
    await bench.change(merge(birth("page"), deleted("page")))
    assert await bench.ready() == {"": 1}


async def test_a_directory_that_came_and_went_needs_nothing(bench: Bench) -> None:
    """A tree that was unpacked next to its place and removed again."""
    await bench.change(birth("t/1"), birth("t/2"), wait=0)
    await bench.change(subtree("t/", gone=True))
    assert await bench.ready() == {}
    bench.assert_counted()


@pytest.mark.parametrize("again", [birth("t/page"), content("t/page", 2, finished=False)], ids=["birth", "unfinished"])
async def test_what_comes_back_in_the_batch_of_its_end_counts_last(tmp_path: Path, again: Change) -> None:
    """A known directory is removed and made again: its deletions are written before what is there now."""
    options, clock = StoreOptions(expand_limit=5), FakeClock()
    async with open_store(f"sqlite:///{tmp_path}/state.db", clock=clock, owner=True, options=options) as store:
        bench = Bench(store, clock)
        await bench.change(content("t/page"), content("t/other"), seed=True, wait=0)
        await bench.change(subtree("t/", gone=True), again, wait=0)
        assert bench.sql("SELECT open, birth FROM need WHERE name = 'page'") == [(int(not again.finished), None)]
        await bench.change(deleted("t/page"))
        assert await bench.ready() == {"t/": 2}


@pytest.mark.parametrize("why", ["ripe", "asked", "deleted before", "known", "requested", "covered"])
async def test_every_other_end_is_refreshed(bench: Bench, why: str) -> None:
    """It existed after the quiet time, a person asked, it ended before, it was known, or something was requested."""
    first = content("page") if why == "known" else birth("page")
    if why == "deleted before":
        await bench.change(content("page"))
        await bench.finish(await bench.send(file("page")))
        await bench.change(deleted("page"), wait=0)
    await bench.change(first, wait=60 if why in ("ripe", "requested", "covered") else 0)
    if why == "asked":
        await bench.store.request([NeedInput("cdn", BASE + "page", Scope.EXACT)])
    elif why == "requested":
        await bench.send(file("page"))
        await bench.change(content("page", 2), wait=0)
    elif why == "covered":
        await bench.send(folder(""))
        await bench.change(content("page", 2), wait=0)
    await bench.change(deleted("page"))
    assert await bench.stale("page") != []
    assert await bench.ready() == {"": 1}


async def test_another_name_of_the_url_keeps_its_need(clock: FakeClock, tmp_path: Path) -> None:
    """Two objects are served at one URL: the end of the one that was new says nothing of the other."""

    def to_one(change: Change) -> Sequence[NeedInput]:
        return [NeedInput("cdn", f"{BASE}page", Scope.EXACT)]

    async with open_store(f"sqlite:///{tmp_path}/s.db", clock=clock, owner=True) as store:
        bench = Bench(store, clock)
        for other in (birth("other"), content("other"), deleted("other")):
            for first, second in ((birth("new"), other), (other, birth("new"))):
                await store.record([Batch([first])], to_one)
                await store.record([Batch([second])], to_one)
                await store.record([Batch([deleted("new")])], to_one)
                assert await bench.stale("page") == ["waiting"]
                clock.advance(60)
                await store.promote_due()
                await bench.finish(await bench.send(file("page")))
                assert await bench.stale("page") == []


async def test_another_name_keeps_its_need_also_among_known_ones(bench: Bench) -> None:
    """Where most of a batch is known, needs are raised by another statement: it too knows one object from another."""
    await bench.change(*(content(f"x{number}") for number in range(4)), wait=0)
    known = [content(f"x{number}", 2) for number in range(4)]

    def to_one(change: Change) -> Sequence[NeedInput]:
        return [NeedInput("cdn", BASE + ("page" if change.key in ("new", "other") else change.key), Scope.EXACT)]

    for changes in ([birth("new"), *known], [*known, content("other")], [deleted("new")]):
        await bench.store.record([Batch(changes)], to_one)
    assert await bench.stale("page") == ["waiting"]


RECORD_A_BIRTH = """
import asyncio, sys
from tests.store.steps import Bench, FakeClock, content
from listener.store import open_store

async def main():
    async with open_store(sys.argv[1], clock=FakeClock(), owner=True) as store:
        await Bench(store, store.clock).change(content("a/tmp", is_birth=True), wait=0)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("outage_seconds", "further_seconds", "ready"),
    [(0.1, 0, {}), (15, 0, {}), (15, 9.9, {}), (15, 10.1, {"a/": 1}), (29.5, 0.6, {"a/": 1}), (31, 0, {"a/": 1})],
)
async def test_a_name_that_went_while_no_process_ran_needs_nothing(
    clock: FakeClock, tmp_path: Path, outage_seconds: float, further_seconds: float, ready: dict[str, int]
) -> None:
    """Another process recorded its birth; its end counts once its window is over, or the time of a first scan."""
    url = f"sqlite:///{tmp_path}/s.db"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RECORD_A_BIRTH, url]
    await asyncio.to_thread(subprocess.run, command, env=environment, check=True)
    clock.advance(outage_seconds)
    async with open_store(url, clock=clock, owner=True) as store:
        bench = Bench(store, clock)
        await store.recover()
        if further_seconds:  # else its end is found before anything turns due
            clock.advance(further_seconds)
            await store.promote_due()
        await bench.change(deleted("a/tmp"), scan=await store.sequence())
        assert await bench.ready() == ready
        assert bench.index() == {}


async def test_what_was_sent_before_a_crash_is_refreshed_when_it_ends(clock: FakeClock, tmp_path: Path) -> None:
    """The request for a new name was written when the process died: a visitor's copy may be the result."""
    url = f"sqlite:///{tmp_path}/s.db"
    async with open_store(url, clock=clock, owner=True) as store:
        bench = Bench(store, clock)
        await bench.change(birth("tmp"))
        await store.mark_sending([one.id for one in await bench.hold(file("tmp"))])
    async with open_store(url, clock=clock, owner=True) as store:
        bench = Bench(store, clock)
        await store.recover()
        await bench.change(deleted("tmp"), wait=0)
        assert await bench.stale("tmp") == ["waiting"]


STEPS = ["come", "write", "go", "pass", "rest", "ask", "send", "crash"]


@given(st.lists(st.sampled_from(STEPS), max_size=16))
async def test_any_order_keeps_what_is_owed(tmp_path_factory: pytest.TempPathFactory, steps: Sequence[str]) -> None:
    """A URL is owed a refresh from any change on, but for a life within one window, crashes included."""
    clock, url = FakeClock(), f"sqlite:///{tmp_path_factory.mktemp('s')}/s.db"
    store = open_store(url, clock=clock, owner=True)
    bench, is_there, owed, mtime, first, due = Bench(store, clock), False, "", 1, 0.0, 0.0
    for step in steps:
        mtime += 1
        now = clock.now()
        if step in ("come", "write") and is_there is (step == "write"):
            first = first if owed else now
            is_there, owed, due = True, owed or ("birth" if step == "come" else "change"), min(now + 1, first + 30)
            await store.record([Batch([content("k", mtime, is_birth=step == "come")])], route)
        elif step == "go" and is_there:
            is_there, owed = False, "" if owed == "birth" and now <= first + 30 else "change"
            await store.record([Batch([deleted("k")])], route)
        elif step in ("pass", "rest"):
            clock.advance(60 if step == "rest" else 0.4)
            await store.promote_due()
            owed = "change" if owed and clock.now() >= due else owed
        elif step == "ask":
            owed = "change"
            await store.request([NeedInput("cdn", BASE + "k", Scope.EXACT)])
        elif step == "send" and await bench.stale("k") == ["deferred"]:
            owed = ""
            await bench.finish(await bench.send(file("k")))
        elif step == "crash":
            await store.close()
            clock.advance(11)
            store = open_store(url, clock=clock, owner=True)
            bench = Bench(store, clock)
            await store.recover()
            due = max(due, min(clock.now() + 1, first + 30))
        assert bool(await bench.stale("k")) is bool(owed), step
    bench.assert_counted()
    await store.close()
