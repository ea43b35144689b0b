"""
Durable changes per second, compared with plain SQLite; bytes per need; and how long the writer is ever held.

    python -m bench.store [--needs N] [--json] [--only rates|size]

Rates: keys are routed by the real router and recorded with index row and need, 2,000 a commit, each commit synced.
"Plain" is ``executemany`` of upserts of the same rows into the same two tables (indexes and triggers included), ids
known beforehand, batches and pragmas the same, by the sqlite3 module alone. Each number is the median of the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from listener.allowances import Day, for_each_kind
from listener.change import Change, ChangeKind, Fingerprint
from listener.coalescer import Inbox
from listener.contracts import Delivery
from listener.refresh import RefreshKind
from listener.router.routing import Sites
from listener.settings import Site
from listener.store import Store, open_store
from listener.store.batches import Batch
from listener.store.needs import Snapshot
from listener.store.sqlite.database import prepare
from listener.store.transitions import AttemptRequest

BASE = "https://www.example.com/"
COMMIT_KEYS = 2_000
PER_DIRECTORY = 200
CHECKPOINT_SECONDS = 1.0
RUNS = 3
_sites = Sites([Site(source="www", target="cdn", base_urls=(BASE,))])


def change(number: int, version: int = 0) -> Change:
    stamp = 1_800_000_000_000_000_000 + number * 1000 + version
    key = f"assets/{number // PER_DIRECTORY:06d}/picture-{number:09d}.jpg"
    return Change("www", key, ChangeKind.CONTENT, Fingerprint(40_000 + number % 1000, stamp, stamp, number))


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bench-store-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Timed:
    """Wall and processor seconds of what is inside."""

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


async def checkpoints(store: Store) -> None:
    while True:
        await asyncio.sleep(CHECKPOINT_SECONDS)
        await store.checkpoint()


@contextmanager
def beside(coroutine: Any) -> Iterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()


async def ours(deliveries: Sequence[list[Change]]) -> tuple[Timed, list[list[Change]]]:
    """Feed deliveries through the inbox as the pipeline does; return the time and what was committed."""
    inbox, committed, done = Inbox(), [], False
    with folder() as path:
        async with open_store(f"sqlite:///{path}/s.db", owner=True) as store:
            await store.recover()

            async def feed() -> None:
                nonlocal done
                for changes in deliveries:
                    while inbox.full:
                        await asyncio.sleep(0)
                    inbox.add(Delivery(changes))
                    await asyncio.sleep(0)
                done = True

            with Timed() as timed, beside(checkpoints(store)), beside(feed()):
                while not (done and inbox.idle):
                    taken = inbox.take(COMMIT_KEYS)
                    if taken.changes:
                        await store.record([Batch(taken.changes)], _sites.route, _sites.folder)
                        committed.append(taken.changes)
                    else:
                        await asyncio.sleep(0)
    return timed, committed


_NEED = """
INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, due_at, state, open)
VALUES (?, ?, 0, ?, ?, ?, ?, 0, 0)
ON CONFLICT DO UPDATE SET sequence = excluded.sequence, due_at = min(excluded.due_at, window_first + 30.0), open = 0
"""
_OBJECT = """
INSERT INTO object (tree, name, size_bytes, mtime_ns, ctime_ns, inode, etag, access, sequence)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,
  inode = excluded.inode, etag = excluded.etag, access = excluded.access, sequence = excluded.sequence
"""


def plain(batches: Sequence[list[Change]]) -> Timed:
    """Write the same rows in the same batches with nothing around them."""
    rows, ids, now = [], {}, time.time()
    for sequence, batch in enumerate(batches):
        needs, objects = [], []
        for one in batch:
            place, _, name = one.key.rpartition("/")
            number = ids.setdefault(place, len(ids) + 1)
            needs.append((number, name, sequence, now, now, now + 1))
            objects.append((number, name.encode(), *(one.fingerprint or Fingerprint()), sequence))
        rows.append((sorted(needs), sorted(objects)))
    with folder() as path:
        connection = prepare(path / "s.db")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO directory (id, target, url) VALUES (?, 1, ?)", [(n, BASE + p + "/") for p, n in ids.items()]
        )
        connection.executemany(
            "INSERT INTO tree (id, root, path) VALUES (?, 1, ?)", [(n, p.encode() + b"/") for p, n in ids.items()]
        )
        connection.execute("COMMIT")
        last = time.perf_counter()
        with Timed() as timed:
            for needs, objects in rows:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_NEED, needs)
                connection.executemany(_OBJECT, objects)
                connection.execute("COMMIT")
                if time.perf_counter() - last > CHECKPOINT_SECONDS:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    last = time.perf_counter()
        connection.close()
    return timed


def hot(keys: int) -> list[list[Change]]:
    """Each key ten times: storms of 2,000 keys, each storm going round its keys ten times; 100 changes a delivery."""
    order = [change(n, v) for s in range(0, keys, 2_000) for v in range(10) for n in range(s, min(keys, s + 2_000))]
    return [order[at : at + 100] for at in range(0, len(order), 100)]


def distinct(keys: int) -> list[list[Change]]:
    return [[change(n) for n in range(at, at + 100)] for at in range(0, keys, 100)]


async def rates(keys: int) -> dict[str, float]:
    found: dict[str, float] = {}
    cases: tuple[tuple[str, Callable[[int], list[list[Change]]], int], ...] = (
        ("ten_changes_a_key", hot, keys // 5),
        ("distinct_keys", distinct, keys),
    )
    for name, make, count in cases:
        deliveries = make(count)
        changes = sum(map(len, deliveries))
        runs = []
        for _ in range(RUNS):
            mine, batches = await ours(deliveries)
            runs.append((mine, plain(batches), sum(map(len, batches))))
        found |= {
            f"{name}.changes": changes,
            f"{name}.rows": statistics.median(rows for *_, rows in runs),
            f"{name}.per_second": changes / statistics.median(mine.wall for mine, *_ in runs),
            f"{name}.per_cpu_second": changes / statistics.median(mine.cpu for mine, *_ in runs),
            f"{name}.rows_per_cpu_second": statistics.median(rows / mine.cpu for mine, _, rows in runs),
            f"{name}.plain_rows_per_second": statistics.median(rows / other.wall for _, other, rows in runs),
            f"{name}.plain_rows_per_cpu_second": statistics.median(rows / other.cpu for _, other, rows in runs),
            f"{name}.ratio_wall": statistics.median(other.wall / mine.wall for mine, other, _ in runs),
            f"{name}.ratio_cpu": statistics.median(other.cpu / mine.cpu for mine, other, _ in runs),
        }
    return found


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def longest(store: Store) -> tuple[float, float]:
    """Return the longest pause and the most processor time of one, in milliseconds since the last call."""
    found = store.longest_group_seconds * 1000, store.longest_work_seconds * 1000
    store._writer.longest_group_seconds = store._writer.longest_work_seconds = 0.0
    return found


async def size(needs: int) -> dict[str, float]:
    found: dict[str, float] = {"needs": needs}

    async def phase(name: str, step: Any) -> Any:
        with Timed() as timed:
            result = await step
        pause, work = longest(store)
        found[f"{name}.seconds"], found[f"{name}.longest_pause_ms"] = timed.wall, pause
        found[f"{name}.longest_work_ms"] = work
        print(f"{name}: {timed.wall:.1f} s, pause {pause:.0f} ms, processor {work:.0f} ms", file=sys.stderr)
        return result

    with folder() as path:
        async with open_store(f"sqlite:///{path}/s.db", owner=True) as store:
            await store.recover()
            await store.record([Batch([change(needs)])], _sites.route, _sites.folder)
            before = resident_bytes()

            async def fill(start: int, stop: int) -> None:
                for at in range(start, stop, COMMIT_KEYS):
                    await store.record(
                        [Batch([change(n) for n in range(at, min(stop, at + COMMIT_KEYS))])],
                        _sites.route,
                        _sites.folder,
                    )

            with beside(checkpoints(store)):
                await phase("record", fill(0, needs))
                found["memory_bytes_per_need"] = (resident_bytes() - before) / needs
                await store.checkpoint()
                found["disk_bytes_per_need"] = (path / "s.db").stat().st_size / needs
                found["disk_and_wal_bytes_per_need"] = sum(f.stat().st_size for f in path.iterdir()) / needs
                await asyncio.sleep(1.1)
                longest(store)
                await phase("promote_due", store.promote_due())
                await phase("counts", store.counts())
                await phase("loads", store.read(Snapshot.loads))
                wanted = AttemptRequest(
                    "cdn", RefreshKind.DIRECTORY, BASE + "assets/", True, "bench", time.time(), covered=needs
                )
                allowances = for_each_kind({RefreshKind.DIRECTORY: 10}, Day())
                (made,) = await phase("hold", store.hold([wanted], account="main", allowances=allowances))
                await store.mark_sending([made.id])
                await store.accept({made.id: "1"}, next_look_at=0.0)
                await phase("counts_in_flight", store.counts())
                spread = [change(n * (needs // 20_000 or 1), 1) for n in range(20_000)]
                await phase("record_spread", store.record([Batch(spread)], _sites.route, _sites.folder))
                await store.complete([made])
                await phase("sweep", store.sweep(made))
                await phase("counts_after", store.counts())
                await phase("upkeep", store.upkeep(keep_seconds=1e9))
    found["longest_work_ms"] = max(value for name, value in found.items() if name.endswith("_work_ms"))
    found["longest_pause_ms"] = max(value for name, value in found.items() if name.endswith("_pause_ms"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--needs", type=int, default=1_000_000, help="how large a store is built for sizes and pauses")
    parser.add_argument("--keys", type=int, default=100_000, help="how many distinct keys the rates are measured with")
    parser.add_argument("--only", choices=("rates", "size"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, float] = {}
    if options.only != "size":
        found |= asyncio.run(rates(options.keys))
    if options.only != "rates":
        found |= asyncio.run(size(options.needs))
    found["sqlite_version"] = sqlite3.sqlite_version  # type: ignore[assignment]
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:40} {value if isinstance(value, str) else f'{value:,.2f}'}")


if __name__ == "__main__":
    main()
