"""
A fleet on one PostgreSQL compared with SQLite: durable changes per second, latency, and hot keys.

    python -m bench.fleet [--only rates|latency|hot] [--seconds N] [--runs N] [--changes N] [--requests N] [--json]

A server of its own is started with Debian's programs, with fsync on. Rates: each instance is a process that records 500
changes at a time, by the real router, one batch after the other: first keys that are new, then the same keys again.
"Bare" is one client that upserts the same columns of needs and index rows from arrays, two statements a commit, without
anything else. Processor time is of all clients and of the whole server. Latency: from a change that is posted to its
request at the CDN. Hot keys: so many changes of the same 5,000 keys, also while a foreign snapshot is held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NoReturn

import psycopg

from bench.fleet_hot import hot_keys
from bench.fleet_latency import latencies
from bench.store import _sites, change
from listener.store import Store, open_store
from listener.store.batches import Batch
from listener.store.store import StoreOptions
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import postgres_programs

BATCH = 500
KEYS = 10_000
TABLES = ("bare_need", "bare_object")


@contextmanager
def server() -> Iterator[Cluster]:
    """Run a PostgreSQL that keeps what it confirms."""

    def absent(name: str) -> NoReturn:
        raise SystemExit(f"{name} is not installed")

    programs = postgres_programs(absent)
    cluster = Cluster.copied(programs, Cluster.initialise(programs), durable=True, shared_buffers="256MB")
    try:
        yield cluster.start()
    finally:
        cluster.remove()


async def record(store: Store, first: int, seconds: float) -> int:
    """Record for so long; return how many changes were durable."""
    done = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        version, at = divmod(done, KEYS)
        await store.record(
            [Batch([change(first + at + n, version) for n in range(BATCH)])], _sites.route, _sites.folder
        )
        done += BATCH
    return done


def instance(url: str, number: int, seconds: float, barrier: Barrier, found: Queue[tuple[int, float]]) -> None:
    """Be one instance, in a process of its own."""

    async def run() -> tuple[int, float]:
        options = StoreOptions(instance=f"bench-{number}")
        async with open_store(url, owner=True, options=options) as store:
            await record(store, number * 1_000_000, 0.3)
            await asyncio.to_thread(barrier.wait)
            began = time.process_time()
            done = await record(store, number * 1_000_000, seconds)
            return done, time.process_time() - began

    found.put(asyncio.run(run()))


def rate(url: str, instances: int, seconds: float, cluster: Cluster | None = None) -> dict[str, float]:
    """Return the changes per second of so many instances together, and the processor time of 1,000 changes."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(instances + 1), context.Queue()
    processes = [
        context.Process(target=instance, args=(url, number, seconds, barrier, found)) for number in range(instances)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    served = server_seconds(cluster)
    results = [found.get() for _ in processes]
    served = server_seconds(cluster) - served
    for process in processes:
        process.join()
    done = sum(changes for changes, _ in results)
    spent = sum(processor for _, processor in results)
    return {"per_second": done / seconds, "client_ms": 1e6 * spent / done, "server_ms": 1e6 * served / done}


def server_seconds(cluster: Cluster | None) -> float:
    """Return the processor time of a server so far, processes that ended included."""
    if cluster is None:
        return 0.0
    main, total = (cluster.data / "postmaster.pid").read_text().split()[0], 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state = path.read_text().rpartition(")")[2].split()
            if path.parent.name == main:
                total += sum(map(int, state[11:15]))
            elif state[1] == main:
                total += sum(map(int, state[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def bare(url: str, seconds: float) -> float:
    """Return the changes per second of two plain statements in each commit."""
    with psycopg.connect(url) as connection:
        for table in TABLES:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (name text PRIMARY KEY, sequence bigint)".encode())
        connection.commit()
        done, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            names = [change(done % KEYS + n).key for n in range(BATCH)]
            for table in TABLES:
                connection.execute(
                    f"INSERT INTO {table} SELECT * FROM unnest(%s::text[], %s::bigint[]) ON CONFLICT (name)"
                    f" DO UPDATE SET sequence = greatest({table}.sequence, excluded.sequence)".encode(),
                    (names, [done] * BATCH),
                )
            connection.commit()
            done += BATCH
    return done / seconds


def rates(cluster: Cluster, seconds: float, runs: int) -> dict[str, float]:
    """Return medians of all rates, by what was measured."""
    found: dict[str, list[float]] = {}

    def note(name: str, values: dict[str, float]) -> None:
        for what, value in values.items():
            found.setdefault(f"{name}.{what}", []).append(value)

    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            note("sqlite", rate(f"sqlite:///{Path(folder)}/state.db", 1, seconds))
        for count in (1, 2, 4):
            with cluster.database() as name:
                note(f"postgresql.{count}", rate(cluster.url(name), count, seconds, cluster))
        with cluster.database() as name:
            note("bare", {"per_second": bare(cluster.url(name), seconds)})
    return {
        **{name: statistics.median(each) for name, each in found.items()},
        **{f"{name}.most": max(each) for name, each in found.items() if name.endswith("per_second")},
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rates", "latency", "hot"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20, help="changes for each latency")
    parser.add_argument("--changes", type=int, default=1_000_000, help="of hot keys")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, float] = {}
    with server() as cluster:
        if given.only in (None, "rates"):
            found |= rates(cluster, given.seconds, given.runs)
        if given.only in (None, "latency"):
            found |= latencies(cluster, given.requests)
        if given.only in (None, "hot"):
            found |= hot_keys(cluster, given.changes)
    found["load_average"] = os.getloadavg()[0]
    if given.json:
        print(json.dumps({name: round(float(value), 1) for name, value in found.items()}))
        return
    for name, value in found.items():
        print(f"{name:36} {float(value):12,.1f}")


if __name__ == "__main__":
    main()
