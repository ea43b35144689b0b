"""A huge plan is made next to the event loop, which goes on; and next to the garbage collector, which waits."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from listener.pipeline.accounts import Account
from listener.pipeline.engine import Dispatcher, Outcome, rest_seconds
from listener.pipeline.layers import Layers
from listener.pipeline.planning_round import gc_paused
from listener.pipeline.sender import Queued
from listener.refresh import Attempt, Priority, RefreshKind
from listener.router.routing import Sites
from listener.settings import PlannerSettings, Site
from listener.store import Store, open_store
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS
from tests.pipeline.world import MovableClock

pytestmark = pytest.mark.looptime(False)  # threads keep real time

DIRECTORIES = 40_000
NEEDS = 3
"""In each directory."""
LOOP_SECONDS = 0.2
"""Far below the second and more that such a plan takes, far above the milliseconds that are left to the loop."""


class Queue:
    """Where held attempts go: takes them, and has room for ever."""

    def __init__(self) -> None:
        self.held: list[Attempt] = []

    def put(self, attempts: Sequence[Attempt], priority: Priority) -> None:
        self.held += attempts

    def queued(self) -> Queued:
        return Queued()


async def fill(store: Store) -> None:
    """Make needs ready all over a large tree, in few statements."""

    def insert(connection: Any) -> int:
        connection.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
        urls = [(1, f"https://www.example.com/d{n % 300}/e{n % 9000}/f{n}/") for n in range(DIRECTORIES)]
        connection.executemany("INSERT INTO directory (target, url) VALUES (?, ?)", urls)
        ids = [row[0] for row in connection.execute("SELECT id FROM directory")]
        needs = ((id_, f"{n}.html", float(id_)) for id_ in ids for n in range(NEEDS))
        connection.executemany(
            "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open)"
            " VALUES (?, ?, 0, 1, ?, 0, 1, 0)",
            needs,
        )
        return 0

    await store._write(insert)


async def watched(dispatcher: Dispatcher) -> tuple[Outcome, int, float]:
    """Plan, and return how often the loop turned meanwhile and its longest work in one go, in processor seconds."""
    planning = asyncio.ensure_future(dispatcher.plan())
    turns, worst, before = 0, 0.0, time.thread_time()
    while not planning.done():
        await asyncio.sleep(0.001)
        now = time.thread_time()
        turns, worst, before = turns + 1, max(worst, now - before), now
    return await planning, turns, worst


async def test_the_loop_goes_on_while_a_huge_plan_is_made(tmp_path: Path) -> None:
    """
    With 120,000 needs due in 40,000 directories no piece of the loop's own work is long, and it turns all the while.

    Measured in the loop's own processor time, which neither another thread nor another process adds to.
    """
    clock = MovableClock()
    cdn = AlibabaCdn("cdn", AlibabaCdn.Settings(endpoint="http://127.0.0.1:9"), clock=clock, environment=KEYS)  # type: ignore[arg-type]
    site = Site(source="www", target="cdn", base_urls=["https://www.example.com/"], max_ttl_seconds=3e7)  # type: ignore[arg-type]
    queue = Queue()
    async with open_store(f"sqlite:///{tmp_path}/s.db", clock=clock, owner=True) as store:
        await fill(store)
        account = Account("main", {"cdn": cdn})
        await store._write(lambda c: c.execute("UPDATE need SET window_first = ?", (clock.now(),)).rowcount)
        sites = Sites([site])
        dispatcher = Dispatcher(
            account, store, sites, clock, settings=PlannerSettings(), sender=queue,  # type: ignore[arg-type]
            layers=Layers(sites, account.targets, known=account.targets),
        )  # fmt: skip
        # What other tests left in this process is no work of the loop's, wherever the collector may walk over it.
        gc.collect()
        gc.freeze()
        try:
            outcome, turns, worst = await watched(dispatcher)
        finally:
            gc.unfreeze()
        assert outcome.held == len(queue.held) > 0
        assert outcome.deferred
        assert turns >= 20
        assert worst < LOOP_SECONDS
        held = {attempt.kind for attempt in queue.held}
        assert RefreshKind.FILE in held
    await cdn.close()


def test_the_garbage_collector_is_off_until_the_last_plan_is_made() -> None:
    """Two plans at once: it runs again when both are done, and stays off where somebody had turned it off."""
    assert gc.isenabled()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with gc_paused():
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with gc_paused():
        thread.start()
        assert inside.wait(20)
    assert not gc.isenabled()
    leave.set()
    thread.join(20)
    assert gc.isenabled()
    gc.disable()
    try:
        with gc_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("took_seconds", "is_fruitless", "rest"),
    [
        (0.0, True, 0.0),
        (0.02, False, 0.08),
        (0.02, True, 0.18),
        (1.0, True, 5.0),
        (3.0, True, 12.0),
        (3.0, False, 12.0),
    ],
)
def test_planning_rests_longer_where_it_finds_nothing_to_send(
    took_seconds: float, is_fruitless: bool, rest: float
) -> None:
    """While changes go on and no quota is left; but what is urgent waits no longer than 5 s for that."""
    assert rest_seconds(took_seconds, is_fruitless=is_fruitless) == pytest.approx(rest)
