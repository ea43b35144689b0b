"""
Durable changes per second with several instances on one PostgreSQL, compared with SQLite and with bare statements.

    python -m bench.fleet [--seconds N] [--runs N] [--json]

A server of its own is started with Debian's programs, with fsync on. Each instance is a process that records 500
changes at a time, one batch after the other: first keys that are new, then the same keys again. "Bare" is one client
that upserts the same columns of needs and index rows from arrays, two statements a commit, without anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NoReturn

import psycopg

from bench.store import change
from listener.change import Change
from listener.refresh import NeedInput
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


def route(one: Change) -> Sequence[NeedInput]:
    return [NeedInput("cdn", f"https://www.example.com/{one.key}")]


async def record(store: Store, first: int, seconds: float) -> int:
    """Record for so long; return how many changes were durable."""
    done = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        version, at = divmod(done, KEYS)
        await store.record([Batch([change(first + at + n, version) for n in range(BATCH)])], route)
        done += BATCH
    return done


def instance(url: str, number: int, seconds: float, barrier: Barrier, found: Queue[int]) -> None:
    """Be one instance, in a process of its own."""

    async def run() -> int:
        options = StoreOptions(instance=f"bench-{number}")
        async with open_store(url, owner=True, options=options) as store:
            await record(store, number * 1_000_000, 0.3)
            await asyncio.to_thread(barrier.wait)
            return await record(store, number * 1_000_000, seconds)

    found.put(asyncio.run(run()))


def rate(url: str, instances: int, seconds: float) -> float:
    """Return the changes per second of so many instances together."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(instances), context.Queue()
    processes = [
        context.Process(target=instance, args=(url, number, seconds, barrier, found)) for number in range(instances)
    ]
    for process in processes:
        process.start()
    total = sum(found.get() for _ in processes)
    for process in processes:
        process.join()
    return total / seconds


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    with server() as cluster:
        for _ in range(given.runs):
            with tempfile.TemporaryDirectory() as folder:
                url = f"sqlite:///{Path(folder)}/state.db"
                found.setdefault("sqlite", []).append(rate(url, 1, given.seconds))
            for count in (1, 2, 4):
                with cluster.database() as name:
                    found.setdefault(f"postgresql.{count}", []).append(rate(cluster.url(name), count, given.seconds))
            with cluster.database() as name:
                found.setdefault("bare", []).append(bare(cluster.url(name), given.seconds))
    if given.json:
        print(json.dumps({name: round(statistics.median(each)) for name, each in found.items()}))
        return
    for name, each in found.items():
        print(f"{name:14} {statistics.median(each):10,.0f} changes/s  ({min(each):,.0f} to {max(each):,.0f})")


if __name__ == "__main__":
    main()
