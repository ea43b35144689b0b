"""
Routing and merging: changes per second, and bytes of memory per change that waits in the inbox.

    python -m bench.coalesce [--keys N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence

from bench.store import BASE, PER_DIRECTORY, change
from listener.change import Change
from listener.coalescer import Inbox
from listener.contracts import Delivery
from listener.router import Router
from listener.settings import Site

RUNS = 5


def per_second(work: Callable[[], int]) -> float:
    """Return the median rate, by processor time."""
    rates = []
    for _ in range(RUNS):
        began = time.process_time()
        count = work()
        rates.append(count / (time.process_time() - began))
    return statistics.median(rates)


def routed(changes: Sequence[Change]) -> int:
    router = Router([Site(source="www", target="cdn", base_urls=(BASE,))])
    for one in changes:
        router.route(one)
    return len(changes)


def merged(changes: Sequence[Change], times: int) -> int:
    inbox = Inbox(max_changes=10**9)
    for _ in range(times):
        for at in range(0, len(changes), 100):
            inbox.add(Delivery(changes[at : at + 100]))
    while not inbox.idle:
        inbox.take(2_000)
    return times * len(changes)


def memory(keys: int) -> float:
    """Return the bytes that one waiting change costs the inbox, apart from the change itself."""
    changes = [change(number) for number in range(keys)]
    tracemalloc.start()
    inbox = Inbox(max_changes=10**9)
    for at in range(0, keys, 100):
        inbox.add(Delivery(changes[at : at + 100]))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    changes = [change(number) for number in range(min(options.keys, 200_000))]
    found = {
        "routed_per_cpu_second": per_second(lambda: routed(changes)),
        "merged_per_cpu_second.distinct": per_second(lambda: merged(changes, 1)),
        "merged_per_cpu_second.ten_a_key": per_second(lambda: merged(changes[:20_000], 10)),
        "inbox_bytes_per_change": memory(options.keys),
        "keys_per_directory": PER_DIRECTORY,
    }
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:40} {value:,.0f}")


if __name__ == "__main__":
    main()
