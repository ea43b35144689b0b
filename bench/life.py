"""
A long life: hours of virtual time with changes all the while; memory and state file at the end of each.

Everything but the CDN is real: intake, store, planner, sender and verifier. The CDN takes every request and is done
after five minutes. Time stands still while a thread works, and jumps whenever all wait.

    python -m bench.life --hours 24 --changes 1000
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import selectors
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import structlog
from pydantic import BaseModel

from listener.allowances import Day, for_each_kind
from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Check, Delivery, IndexView, KindLimits, Pace, SourceHealth, UnknownOutcome
from listener.pipeline import Pipeline, store_options
from listener.refresh import Priority, QuotaReading, Receipt, RefreshKind, Task, TaskState
from listener.settings import Settings
from listener.store import open_store
from listener.urls import host_of

START = 1_795_000_000.0
TASK_SECONDS = 300.0
QUOTA = {RefreshKind.FILE: 10_000, RefreshKind.DIRECTORY: 100}
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class VirtualSelector(selectors.DefaultSelector):
    """Waits for nothing: where the loop would, its time goes on, unless a thread is at work."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; move time on where nothing is."""
        found = super().select(0)
        if found or timeout == 0:
            return found
        if self.loop.at_work or timeout is None:
            return super().select(0.05)
        self.loop.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is its own."""

    def __init__(self) -> None:
        selector = VirtualSelector()
        selector.loop = self
        self.now = 0.0
        self.at_work = 0
        super().__init__(selector)

    def time(self) -> float:
        """Return the loop's own time, in seconds."""
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Count what threads do."""
        return self.counted(super().run_in_executor(executor, func, *args))

    def counted(self, future: Any) -> Any:
        """Let time stand still until this is done."""
        self.at_work += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: Any) -> None:
        self.at_work -= 1


class LoopClock:
    """The time of day as the loop has it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """Return seconds since the epoch."""
        return START + self._loop.now


class Busy:
    """A source: so many changes each second, some keys far more often than others."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    roots = ("www",)
    name = "www"

    def __init__(self, *, changes: int, keys: int, seconds: int) -> None:
        self.health = SourceHealth(ready=True)
        self._changes, self._seconds = changes, seconds
        self._keys = [f"{n % 97}/{n}.html" for n in range(keys)]
        self._weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(keys)))
        self.delivered = self.acked = 0

    async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
        """Yield a delivery a second."""
        chance = random.Random(7)
        for second in range(self._seconds):
            await asyncio.sleep(1)
            keys = chance.choices(self._keys, cum_weights=self._weights, k=self._changes)
            stamp = int((START + second) * 1e9)
            changes = [
                Change("www", key, ChangeKind.CONTENT, Fingerprint(1, stamp + n, stamp + n))
                for n, key in enumerate(keys)
            ]
            self.delivered += len(changes)
            yield Delivery(changes, self._ack)

    async def _ack(self) -> None:
        self.acked += 1

    async def check(self) -> Sequence[Check]:
        """Probe nothing."""
        return []


class Obliging:
    """A CDN that takes everything."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    name = account = "cdn"
    unknown_outcome = UnknownOutcome.TASKS
    pace = Pace()
    limits: Mapping[RefreshKind, KindLimits] = {kind: KindLimits(1000) for kind in QUOTA}
    allowances = for_each_kind(QUOTA, Day())

    def __init__(self, loop: VirtualLoop) -> None:
        self._clock = LoopClock(loop)
        self._tasks: dict[str, list[Task]] = {}
        self._ids = itertools.count()
        self.units = 0

    def place(self, url: str) -> str:
        """Return the host."""
        return host_of(url)

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Wait a moment, as a rate limit would."""
        await asyncio.sleep(0.02)

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Take it."""
        await asyncio.sleep(0.1)
        name, now = str(next(self._ids)), self._clock.now()
        self._tasks[name] = [Task(name, url, kind, TaskState.REFRESHING, now) for url in urls]
        self.units += len(urls)
        return Receipt((name,))

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return how far these are; what is done is forgotten once it was reported."""
        found: list[Task] = []
        for name in task_ids:
            tasks = self._tasks.get(name, [])
            if tasks and (tasks[0].created_at or 0) + TASK_SECONDS <= self._clock.now():
                tasks = [one._replace(state=TaskState.COMPLETE) for one in self._tasks.pop(name)]
            found += tasks
        return found

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """Know nothing of others."""
        return []

    async def read_quota(self) -> Mapping[str, QuotaReading]:
        """Tell nothing."""
        return {}

    async def check(self) -> Sequence[Check]:
        """Probe nothing."""
        return []

    async def close(self) -> None:
        """Hold nothing."""


def resident_mebibytes() -> float:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


async def live(folder: Path, loop: VirtualLoop, options: argparse.Namespace) -> None:
    """Run for so many hours, and tell how it stands after each."""
    settings = Settings(
        store={"url": f"sqlite:///{folder}/state.db", "keep_days": options.keep_days},  # type: ignore[arg-type]
        admin={"listen": ""},  # type: ignore[arg-type]
        sources={"www": {"type": "busy"}},
        targets={"cdn": {"type": "obliging"}},
        sites=({"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]},),  # type: ignore[arg-type]
    )
    target = Obliging(loop)
    source = Busy(changes=options.changes, keys=options.keys, seconds=int(options.hours * 3600))
    store_settings = store_options(settings, {"cdn": target})
    async with open_store(settings.store.url, options=store_settings, clock=LoopClock(loop), owner=True) as store:
        pipeline = Pipeline(
            settings, store, make_sources=lambda: {"www": source}, targets={"cdn": target}, clock=LoopClock(loop)
        )
        running = asyncio.create_task(pipeline.run())
        print(
            f"{'hour':>6} {'changes':>12} {'units':>8} {'MiB':>8} {'file MiB':>9} {'log MiB':>8} {'CPU s':>8}",
            flush=True,
        )
        for hour in range(1, int(options.hours) + 1):
            await asyncio.sleep(3600)
            log = folder / "state.db-wal"
            print(
                f"{hour:6} {source.delivered:12} {target.units:8} {resident_mebibytes():8.1f}"
                f" {(folder / 'state.db').stat().st_size / 2**20:9.1f}"
                f" {(log.stat().st_size if log.exists() else 0) / 2**20:8.1f} {time.process_time():8.1f}",
                flush=True,
            )
        pipeline.stop()
        await running
        print(f"deliveries acknowledged: {source.acked} of {int(options.hours * 3600)}; {await store.counts()}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--changes", type=int, default=1_000, help="a second")
    parser.add_argument("--keys", type=int, default=2_000)
    parser.add_argument("--keep-days", type=float, default=0.25, help="of history: so short that it is removed within")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    loop = VirtualLoop()
    wrapped = asyncio.wrap_future

    def counting(future: Future[Any], *, loop: Any = None) -> Any:
        return runner.counted(wrapped(future, loop=loop))

    runner = loop
    asyncio.wrap_future = counting  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        loop.run_until_complete(live(Path(folder), loop, options))
        loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


if __name__ == "__main__":
    main()
