"""
Planning by itself: seconds of one core, memory, and how long an event loop beside it is kept waiting.

The figures stand beside the limits that the planner is held to: a million due changes in 200,000 directories
within 2 s and 1 GiB, 1,200 changes in 100,000 directories within 0.1 s, and no wait above 50 ms.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
import tracemalloc

from listener.planner import Budget, DirectoryLoad, Plan, PlanInput, plan
from listener.refresh import RefreshKind

DAY = 86_400.0


def site(directories: int, due: int, *, spread: bool, files: int = 2000, tokens: int = 100) -> PlanInput:
    """Make a site of so many directories, eight below each, and changes all over it or in a few hundred of them."""
    rng = random.Random(5)
    urls = ["https://www.example.com/"]
    for v in range(1, directories):
        urls.append(f"{urls[(v - 1) // 8]}d{v}/")
    objects = [int(rng.paretovariate(1.1) * 5) % 3000 + 1 for _ in urls]
    changed = [0] * directories
    places = range(directories) if spread else [rng.randrange(directories) for _ in range(250)]
    for _ in range(due):
        changed[rng.choice(places)] += 1
    objects = [max(pair) for pair in zip(objects, changed, strict=True)]
    for v in range(directories - 1, 0, -1):
        objects[(v - 1) // 8] += objects[v]
    weights = dict(zip(urls, objects, strict=True))
    return PlanInput(
        now=0.0,
        loads=[DirectoryLoad("cdn", url, n, oldest=-rng.random()) for url, n in zip(urls, changed, strict=True) if n],
        budgets={RefreshKind.FILE: Budget(files, files, DAY), RefreshKind.DIRECTORY: Budget(tokens, tokens, DAY)},
        weights=weights.__getitem__,
    )


def timed(given: PlanInput) -> tuple[Plan, float]:
    """Plan, and return the seconds of one core that it took; the fairest of three, as the machine is shared."""
    spans = []
    for _ in range(3):
        began = time.process_time()
        made = plan(given)
        spans.append(time.process_time() - began)
    return made, min(spans)


def memory_bytes(given: PlanInput) -> int:
    """Return the most that a plan takes beside what it is given."""
    tracemalloc.start()
    plan(given)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def longest_wait_seconds(given: PlanInput) -> float:
    """
    Return how long the loop waits at worst while a thread plans, the fairest of three.

    Time is the process's own, which runs on while another thread keeps the interpreter to itself but not while
    the machine is busy with others. The input is frozen, as a full pass of the garbage collector over so many
    rows takes longer than all that the planner does in one go.
    """
    gc.freeze()

    async def watch() -> float:
        planning = asyncio.get_running_loop().run_in_executor(None, plan, given)
        worst, before = 0.0, time.process_time()
        while not planning.done():
            await asyncio.sleep(0.001)
            now = time.process_time()
            worst, before = max(worst, now - before), now
        await planning
        return worst

    worst = min(asyncio.run(watch()) for _ in range(3))
    gc.unfreeze()
    return worst


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
    print(json.dumps({"case": "longest wait of a loop", "milliseconds": round(longest_wait_seconds(large) * 1000, 1)}))


if __name__ == "__main__":
    main()
