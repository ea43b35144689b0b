"""
Routing and merging: nanoseconds and bytes per change, compared with the barest loop that could do the same.

The peer of routing quotes each key by the standard library and puts the base in front: no site, no
filter, no check. The peer of merging puts each change into a dictionary by its key: no acks, no order,
no lanes. ``--changes`` sets how many; each figure is the best of five runs, memory is traced in a run of its own.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from urllib.parse import quote

from listener.change import Change
from listener.coalescer import Inbox
from listener.contracts import Delivery
from listener.router import RoutedNeed, Router
from listener.settings import Site

BASE = "https://www.example.com/"
RUNS = 5


def keys(count: int, name: str, folder_files: int = 20) -> list[str]:
    """Return keys as a site has them, three folders deep."""
    return [_key(at // folder_files, f"{name}-{at}.html") for at in range(count)]


def _key(folder: int, name: str) -> str:
    return f"section-{folder % 7}/topic-{folder % 101}/page-{folder}/{name}"


async def ack() -> None:
    """Acknowledge nothing."""


def best_ns(count: int, work: Callable[[], object]) -> float:
    """Return the best time per change, in nanoseconds."""
    times = []
    for _ in range(RUNS):
        gc.collect()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) / count * 1e9


def traced_bytes(count: int, work: Callable[[], object]) -> float:
    """Return what the result of the work holds, in bytes per change."""
    gc.collect()
    tracemalloc.start()
    kept = work()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return held / count


def route_all(router: Router, changes: Sequence[Change]) -> None:
    """Route every change."""
    for change in changes:
        router.route(change)


def kept(router: Router, changes: Sequence[Change]) -> list[list[RoutedNeed]]:
    """Route every change and keep what comes of it."""
    return [router.route(change) for change in changes]


def merge_all(deliveries: Sequence[Delivery]) -> Inbox:
    """Add every delivery to one inbox."""
    inbox = Inbox(max_changes=len(deliveries) + 1)
    for delivery in deliveries:
        inbox.add(delivery)
    return inbox


def merge_and_take(deliveries: Sequence[Delivery]) -> Inbox:
    """Add every delivery and take everything in commits of 5,000."""
    inbox = merge_all(deliveries)
    while not inbox.idle:
        inbox.take(5000)
    return inbox


def row(what: str, ours_ns: float, peer_ns: float, held_bytes: float | None = None) -> None:
    """Print one line of the table."""
    memory = "" if held_bytes is None else f"{held_bytes:8.0f}"
    times = f"{1e9 / ours_ns:12,.0f} | {ours_ns:7.0f} | {peer_ns:7.0f} | {ours_ns / peer_ns:5.1f}"
    print(f"| {what:<44} | {times} | {memory:>8} |")


def routing(count: int) -> None:
    """Measure the router on new and on known folders, plain and Chinese names."""
    site = Site.model_validate({"source": "www", "target": "cdn", "base_urls": [BASE]})
    narrow = site.model_copy(update={"exclude": ("**/*.tmp", "drafts/**"), "prefix": "section-1/"})
    for name, label in (("page", "ASCII"), ("页面", "Chinese")):
        names = keys(count, name)
        changes = [Change("www", key) for key in names]
        peer = best_ns(count, lambda names=names: [BASE + quote(key) for key in names])
        router = Router([site])
        held = traced_bytes(count, lambda r=router, c=changes: kept(r, c))
        row(
            f"route, {label} names, known folders",
            best_ns(count, lambda r=router, c=changes: route_all(r, c)),
            peer,
            held,
        )
    names = keys(count, "page", folder_files=1)
    changes = [Change("www", key) for key in names]
    peer = best_ns(count, lambda: [BASE + quote(key) for key in names])
    row("route, each key in a folder of its own", best_ns(count, lambda: route_all(Router([site]), changes)), peer)
    names = keys(count, "page")
    changes = [Change("www", key) for key in names]
    peer = best_ns(count, lambda: [BASE + quote(key) for key in names])
    filtered = Router([site, narrow])
    row("route, two sites, one with patterns", best_ns(count, lambda: route_all(filtered, changes)), peer)
    clean = Router([site.model_copy(update={"strip_suffixes": (".html",), "also": ("{path}.gz -> {path}",)})])
    row("route, clean URLs and a pattern: 2 addresses", best_ns(count, lambda: route_all(clean, changes)), peer)
    odd = [change._replace(key=change.key.replace(".html", "[1].html")) for change in changes]
    plain = Router([site])
    row("route, brackets in names: 2 spellings", best_ns(count, lambda: route_all(plain, odd)), peer)


def merging(count: int) -> None:
    """Measure the inbox on distinct keys, on keys that change ten times, and with an ack for each change."""
    for times in (1, 10):
        names = keys(count // times, "page") * times
        changes = [Change("www", key, event_time=float(at)) for at, key in enumerate(names)]
        peer = best_ns(count, lambda changes=changes: {change[:2]: change for change in changes})
        for label, deliveries in (
            ("no ack", [Delivery([change]) for change in changes]),
            ("an ack each", [Delivery([change], ack) for change in changes]),
        ):
            held = traced_bytes(count // times, lambda deliveries=deliveries: merge_all(deliveries))
            took = best_ns(count, lambda deliveries=deliveries: merge_and_take(deliveries))
            row(f"merge and take, each key {times} x, {label}", took, peer, held)


def main() -> None:
    """Print both tables as one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=100_000, help="changes in each run (default: %(default)s)")
    count = parser.parse_args().changes
    print(f"| {'what':<44} | {'changes/s':>12} | {'ns':>7} | {'peer ns':>7} | {'ratio':>5} | {'bytes':>8} |")
    print(f"|{'-' * 46}|{'-' * 14}|{'-' * 9}|{'-' * 9}|{'-' * 7}|{'-' * 10}|")
    routing(count)
    merging(count)
    print("\nbytes: of routing, the needs of one change with their URLs; of merging, one key in the inbox.")


if __name__ == "__main__":
    main()
