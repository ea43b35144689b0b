"""
Planning by itself: seconds of one core, memory, and how long an event loop next to it is kept waiting.

The figures stand next to the limits that the planner is held to: a million due changes in 200,000 directories
within 2 s and 1 GiB, 1,200 changes in 100,000 directories within 0.1 s, and no wait above 50 ms.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sqlite3
import tempfile
import time
import tracemalloc

from bench.planning.large import site
from listener.allowances import ALIBABA_DAY
from listener.clock import SystemClock
from listener.pipeline.accounts import Account
from listener.pipeline.layers import Layers
from listener.pipeline.planning_round import ActiveOverrides, PlanningResult, PlanningRound, gc_paused
from listener.pipeline.sender import Queued
from listener.planner import Plan, PlanInput, plan
from listener.router.routing import Sites
from listener.settings import PlannerSettings, Site
from listener.store import open_store
from listener.store.needs import Snapshot
from listener.targets.alibaba_cdn import AlibabaCdn

URL = "https://www.example.com/"


def timed(given: PlanInput) -> tuple[Plan, float]:
    """Plan, and return the seconds of one core that it took; the fairest of three, as the machine is shared."""
    spans = []
    for _ in range(3):
        began = time.process_time()
        made = plan(given)
        spans.append(time.process_time() - began)
    return made, min(spans)


def memory_bytes(given: PlanInput) -> int:
    """Return the most that a plan takes next to what it is given."""
    tracemalloc.start()
    plan(given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def longest_wait_seconds(given: PlanInput) -> float:
    """
    Return how long the loop waits at worst while a thread plans, the fairest of three.

    Time is the process's own, which runs on while another thread keeps the interpreter to itself but not while
    the machine is busy with others. The garbage collector is off, as where the product plans: a full pass over so
    many rows takes longer than all that the planner does in one go.
    """

    async def watch() -> float:
        planning = asyncio.get_running_loop().run_in_executor(None, plan, given)
        worst, before = 0.0, time.process_time()
        while not planning.done():
            await asyncio.sleep(0.001)
            now = time.process_time()
            worst, before = max(worst, now - before), now
        await planning
        return worst

    gc.collect()
    with gc_paused():
        return min(asyncio.run(watch()) for _ in range(3))


OBJECTS, FOLDERS, DUE_FOLDERS, DUE = 10_000_000, 250_000, 3_000, 20_000
"""Of the state file: objects, in so many directories; needs due, in so many of those."""


def fill(connection: sqlite3.Connection) -> None:
    """Write an index of ten million objects and what is due, eight directories below each."""
    rng = random.Random(5)
    folders = [""]
    for v in range(1, FOLDERS):
        folders.append(f"{folders[(v - 1) // 8]}d{v}/")
    each = OBJECTS // FOLDERS
    connection.execute("INSERT INTO root (id, name, seeded) VALUES (1, 'www', 1)")
    trees = ((v + 1, folder.encode(), each) for v, folder in enumerate(folders))
    connection.executemany("INSERT INTO tree (id, root, path, objects) VALUES (?, 1, ?, ?)", trees)
    names = [f"{n}.html".encode() for n in range(each)]
    objects = ((v + 1, name) for v in range(FOLDERS) for name in sorted(names))
    connection.executemany("INSERT INTO object (tree, name, sequence) VALUES (?, ?, 1)", objects)
    connection.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    chosen = rng.sample(range(1, FOLDERS), DUE_FOLDERS)
    places = [(n + 1, URL + folders[v]) for n, v in enumerate(chosen)]
    connection.executemany("INSERT INTO directory (id, target, url) VALUES (?, 1, ?)", places)
    due = {(rng.randrange(DUE_FOLDERS) + 1, f"{rng.randrange(each)}.html") for _ in range(DUE)}
    connection.executemany(
        "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open)"
        " VALUES (?, ?, 0, 1, 0, 0, 1, 0)",
        sorted(due),
    )


async def planning_seconds() -> tuple[float, PlanningResult]:
    """Return what a whole round takes of one core, from the rows of a state file to the attempts that are wanted."""
    target = AlibabaCdn("cdn", AlibabaCdn.Settings(quota={"file": 2000, "directory": 100}))
    clock = SystemClock()
    now = ALIBABA_DAY.start(clock.now()) + 43_200.0
    targets = {"cdn": target}
    sites = Sites([Site(source="www", target="cdn", base_urls=[URL])])
    this = PlanningRound(
        account=Account("main", targets),
        sites=sites,
        layers=Layers(sites, targets, known=targets),
        settings=PlannerSettings(),
        overrides=ActiveOverrides(()),
        queued=Queued(),
        now=now,
        open_at=now,
    )
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{folder}/s.db", owner=True) as store:
            await store._write(fill)

            def timed_round(snapshot: Snapshot) -> tuple[float, PlanningResult]:
                began = time.thread_time()
                result = this.run(snapshot)
                return time.thread_time() - began, result

            spans = [await store.read(timed_round) for _ in range(3)]
    return min(spans, key=lambda span: span[0])


def main() -> None:
    """Print a JSON line a case."""
    large = site(200_000, 1_000_000, spread=True)
    for name, given in (
        ("1,000,000 changes, 200,000 directories, 2000/100", large),
        ("1,000,000 changes, 200,000 directories, 500/0", site(200_000, 1_000_000, spread=True, files=500, tokens=0)),
        ("1,200 changes, 100,000 directories, 500/20", site(100_000, 1_200, spread=False, files=500, tokens=20)),
    ):
        made, seconds = timed(given)
        print(json.dumps({"case": name, "cpu_seconds": round(seconds, 4), "gap": made.gap}), flush=True)
    print(json.dumps({"case": "memory", "mebibytes": round(memory_bytes(large) / 2**20)}), flush=True)
    seconds, result = asyncio.run(planning_seconds())
    case = {"case": f"{DUE:,} due, from a state file of {OBJECTS:,} objects", "cpu_seconds": round(seconds, 4)}
    print(json.dumps({**case, "wanted": len(result.wanted), "deferred": result.waiting}), flush=True)
    print(json.dumps({"case": "longest wait of a loop", "milliseconds": round(longest_wait_seconds(large) * 1000, 1)}))


if __name__ == "__main__":
    main()
