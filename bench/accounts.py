"""
What many accounts cost an instance, idle and while one of them has changes.

    python -m bench.accounts [--seconds N] [--accounts 1,100,1000] [--sites N] [--instances 1,3] [--postgres]

Each account has a target that accepts everything, and ``--sites`` sites. Without ``--postgres`` one process has a state
file; with it a server of its own is started, and each instance is a process. Counted over the span for each process:
voluntary context switches of all threads, processor time, statements to the database; at its end, resident memory. The
last column is with ten changes a second, all of one account.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import structlog
from pydantic import BaseModel

from bench.fleet import server
from bench.idle import resident_mebibytes, spent
from listener.allowances import Day, for_each_kind
from listener.change import Change
from listener.contracts import Check, Delivery, IndexView, KindLimits, SourceHealth, TargetBase
from listener.pipeline import Pipeline, store_options
from listener.refresh import QuotaReading, Receipt, RefreshKind
from listener.settings import Settings
from listener.store import open_store
from listener.store.leadership import leadership_of
from tests.store.databases import prepare_schema

SETTLE_SECONDS = 20.0
SETTLE_ACCOUNT_SECONDS = 0.06
"""Each is taken over, and its quota read."""
CHANGES_A_SECOND = 10


class Cache(TargetBase):
    """One account's CDN, which accepts everything."""

    limits: ClassVar = {RefreshKind.FILE: KindLimits(100), RefreshKind.DIRECTORY: KindLimits(10)}
    allowances = for_each_kind({RefreshKind.FILE: 100_000, RefreshKind.DIRECTORY: 1_000}, Day())

    def __init__(self, number: int) -> None:
        super().__init__(f"cdn-{number}", None)
        self.account = f"account-{number}"
        self.read = 0

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        return Receipt(("purged",))

    async def read_quota(self) -> dict[str, QuotaReading]:
        self.read += 1
        return {}

    async def check(self) -> Sequence[Check]:
        return []


class Played:
    """A source of the changes that are put into it."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    roots = ("www",)
    name = "www"

    def __init__(self) -> None:
        self.health = SourceHealth(ready=True)
        self.queue: asyncio.Queue[Delivery] = asyncio.Queue()

    async def deliveries(self, _: IndexView) -> AsyncIterator[Delivery]:
        while True:
            yield await self.queue.get()

    async def check(self) -> Sequence[Check]:
        return []


class Figures(NamedTuple):
    """What one process used in a second, and its memory."""

    wake_ups: float
    processor: float
    statements: float
    mebibytes: float
    busy_processor: float
    busy_statements: float


def settings_for(url: str, name: str, accounts: int, sites: int) -> Settings:
    """Return settings with that many accounts, each with as many sites."""
    tables: dict[str, Any] = {
        "store": {"url": url},
        "instance": {"name": name},
        "admin": {"listen": ""},
        "coalescer": {"quiet_seconds": 0.3},
        "sources": {"www": {"type": "played"}},
        "targets": {f"cdn-{number}": {"type": "alibaba-cdn"} for number in range(accounts)},
        "sites": [
            {
                "source": "www",
                "target": f"cdn-{number % accounts}",
                "base_urls": [f"https://site-{number}.example.com/"],
                "include": [f"{number}/**"],
            }
            for number in range(accounts * sites)
        ],
    }
    return Settings(**tables)


def count_statements(counted: list[int]) -> None:
    """Count what is executed from here on, by either driver."""
    import psycopg  # noqa: PLC0415

    from listener.store.sqlite import database  # noqa: PLC0415

    real = psycopg.Cursor.execute

    def execute(self: Any, *args: Any, **options: Any) -> Any:
        counted[0] += 1
        return real(self, *args, **options)

    psycopg.Cursor.execute = execute  # type: ignore[method-assign]
    connect = database.connect

    def traced(*args: Any, **options: Any) -> Any:
        connection = connect(*args, **options)
        connection.set_trace_callback(lambda _: counted.__setitem__(0, counted[0] + 1))
        return connection

    for module in ("listener.store.sqlite.access", "listener.store.sqlite.database"):
        vars(__import__(module, fromlist=["connect"]))["connect"] = traced


class Load(NamedTuple):
    """What to measure."""

    url: str
    accounts: int
    sites: int
    seconds: float


def instance(load: Load, name: str, barrier: Barrier, found: Queue[Figures]) -> None:
    """Be one instance, in a process of its own."""
    counted = [0]
    count_statements(counted)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    url, accounts, sites, seconds = load

    async def run() -> Figures:
        settings = settings_for(url, name, accounts, sites)
        targets: dict[str, Any] = {f"cdn-{number}": Cache(number) for number in range(accounts)}
        options, source = store_options(settings, targets), Played()
        async with open_store(url, options=options, owner=True) as store:
            lead = leadership_of(store, url, accounts=[one.account for one in targets.values()], options=options)
            pipeline = Pipeline(
                settings, store, make_sources=lambda: {"www": source}, targets=targets, leadership=lead,
                state_directory=Path(tempfile.mkdtemp()),
            )  # fmt: skip
            running = asyncio.create_task(pipeline.run())
            await asyncio.sleep(SETTLE_SECONDS + accounts * SETTLE_ACCOUNT_SECONDS)
            await asyncio.to_thread(barrier.wait)
            idle = await used(seconds, counted)
            memory = resident_mebibytes(os.getpid())

            async def ack() -> None:
                pass

            async def change() -> None:
                for number in range(1_000_000):
                    source.queue.put_nowait(Delivery([Change("www", f"0/{name}/{number}.html")], ack))
                    await asyncio.sleep(1 / CHANGES_A_SECOND)

            changing = asyncio.create_task(change())
            busy = await used(seconds, counted)
            changing.cancel()
            await asyncio.to_thread(barrier.wait)
            pipeline.stop()
            await running
            return Figures(*idle, memory, *busy[1:])

    found.put(asyncio.run(run()))


async def used(seconds: float, counted: list[int]) -> tuple[float, float, float]:
    """Return wake-ups, processor time and statements of each second from now on."""
    before, statements = spent(os.getpid()), counted[0]
    await asyncio.sleep(seconds)
    now = spent(os.getpid())
    return (
        (now.wake_ups - before.wake_ups) / seconds,
        (now.processor_seconds - before.processor_seconds) / seconds,
        (counted[0] - statements) / seconds,
    )


def measure(load: Load, instances: int) -> Figures:
    """Return the median of each figure over the instances."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(instances), context.Queue()
    processes = [
        context.Process(target=instance, args=(load, f"bench-{number}", barrier, found)) for number in range(instances)
    ]
    for process in processes:
        process.start()
    figures = [found.get() for _ in processes]
    for process in processes:
        process.join()
    return Figures(*map(statistics.median, zip(*figures, strict=True)))


def main() -> None:
    """Measure each number of accounts and instances."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--accounts", default="1,100,1000")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--instances", default="1,3")
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    print(f"{'':22}{'wake-ups/s':>12}{'CPU':>8}{'statements/s':>14}{'MiB':>7}{'busy: CPU':>12}{'statements/s':>14}")
    for instances in map(int, options.instances.split(",")) if options.postgres else [1]:
        for accounts in map(int, options.accounts.split(",")):
            with ExitStack() as ends:
                if options.postgres:
                    url = ends.enter_context(server()).url()
                    prepare_schema(url)
                else:
                    url = f"sqlite:///{ends.enter_context(tempfile.TemporaryDirectory())}/state.db"
                one = measure(Load(url, accounts, options.sites, options.seconds), instances)
            figures = f"{one.wake_ups:12.1f}{one.processor:8.2%}{one.statements:14.1f}{one.mebibytes:7.0f}"
            busy = f"{one.busy_processor:12.2%}{one.busy_statements:14.1f}"
            print(f"{accounts:5} on {instances} {'postgres' if options.postgres else 'sqlite':10}{figures}{busy}")


if __name__ == "__main__":
    main()
