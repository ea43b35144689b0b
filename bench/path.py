"""
The whole path: changes per second from delivery to an accepted batch, against the emulator.

The emulator runs in a process of its own, so that the CPU seconds reported are those of the listener alone:
merging, routing, recording, planning, holding, signing and sending. Next to it stands the peer in the
same run: a bare loop that signs and sends the same URLs in batches of 1,000 and keeps no books.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import structlog
from pydantic import BaseModel

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Check, Delivery, IndexView, SourceHealth
from listener.pipeline import Pipeline, store_options
from listener.refresh import RefreshKind
from listener.settings import Settings
from listener.store import open_store
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS

HOSTS = 10
BATCH = 1_000
EMULATOR = """
import asyncio, sys
from listener.emulator import Emulator, EmulatorSettings
from listener.refresh import RefreshKind
from listener.alibaba.signature import Credentials
async def main():
    settings = EmulatorSettings(origin=sys.argv[1], credentials=Credentials("testid", "testsecret"), api_port=0,
        edge_port=0, task_seconds=float(sys.argv[2]), quota={RefreshKind.FILE: 10**9, RefreshKind.DIRECTORY: 0},
        urls_per_domain_minute=10**9, calls_per_second={"RefreshObjectCaches": 10**6})
    async with Emulator(settings) as emulator:
        print(emulator.api_url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


class Burst:
    """A source that delivers a number of distinct changes as fast as they are taken, and ends."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    roots = ("www",)
    name = "www"

    def __init__(self, changes: Sequence[Change]) -> None:
        """Keep what to deliver."""
        self.health = SourceHealth(ready=True)
        self._changes = changes

    async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
        """Yield everything, 1,000 at a time."""
        for start in range(0, len(self._changes), BATCH):
            yield Delivery(self._changes[start : start + BATCH])
            await asyncio.sleep(0)

    async def check(self) -> Sequence[Check]:
        """Probe nothing."""
        return []


def changes(count: int) -> list[Change]:
    """Return distinct changes, a hundred to a folder."""
    return [
        Change("www", f"section-{n // 100}/page-{n:07d}.html", ChangeKind.CONTENT, Fingerprint(n, n * 10**9, n, n))
        for n in range(count)
    ]


def settings(folder: Path) -> Settings:
    """Return the settings of the run: one site, nothing held back."""
    tables: dict[str, Any] = {
        "store": {"url": f"sqlite:///{folder}/state.db"},
        "planner": {"reserve": 0.0},
        "sources": {"www": {"type": "burst"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
    }
    return Settings(**tables)


async def ours(folder: Path, target: AlibabaCdn, count: int) -> tuple[float, float]:
    """Run the pipeline over the burst; return wall and CPU seconds, the quiet time taken off the first."""
    chosen = settings(folder)
    source = Burst(changes(count))
    store = open_store(chosen.store.url, options=store_options(chosen, {"cdn": target}), owner=True)
    async with store:
        pipeline = Pipeline(chosen, store, make_sources=lambda: {"www": source}, targets={"cdn": target})  # type: ignore[dict-item]
        wall, cpu = time.perf_counter(), time.process_time()
        await pipeline.run(until_idle=True, follow=False)
        took = time.perf_counter() - wall, time.process_time() - cpu
        spent = (await store.budget("main", target.allowances[0])).spent
        # The live quota corrected the ledger by what the bare loop spent before.
        assert spent == 2 * count, f"{spent} of {2 * count} accepted"
    return took[0] - chosen.coalescer.quiet_seconds, took[1]


async def bare(target: AlibabaCdn, count: int) -> tuple[float, float]:
    """Sign and send the same URLs; return wall and CPU seconds."""
    urls = ["https://www.example.com/" + change.key for change in changes(count)]
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, BATCH):
        await target.submit(RefreshKind.FILE, urls[start : start + BATCH], force=False)
    return time.perf_counter() - wall, time.process_time() - cpu


@asynccontextmanager
async def emulated(folder: Path, *, task_seconds: float = 600.0) -> AsyncIterator[AlibabaCdn]:
    """Start an emulator with ample quota in another process, and yield a target that sends to it."""
    emulator = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", EMULATOR, str(folder), str(task_seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert emulator.stdout is not None
    assert emulator.stdin is not None
    endpoint = (await emulator.stdout.readline()).decode().strip()
    limits = {"calls_per_second": 10_000, "urls_per_domain_minute": 10**9}
    target = AlibabaCdn(
        "cdn", AlibabaCdn.Settings(endpoint=endpoint, limits=limits), environment={**os.environ, **KEYS}
    )  # type: ignore[call-arg]
    try:
        yield target
    finally:
        await target.close()
        emulator.stdin.close()
        await emulator.wait()


async def run(count: int) -> dict[str, float]:
    """Measure both against one emulator."""
    with tempfile.TemporaryDirectory() as name:
        async with emulated(Path(name)) as target:
            bare_wall, bare_cpu = await bare(target, count)
            wall, cpu = await ours(Path(name), target, count)
    return {
        "changes": count,
        "changes_per_second": round(count / wall),
        "changes_per_cpu_second": round(count / cpu),
        "bare_urls_per_second": round(count / bare_wall),
        "bare_urls_per_cpu_second": round(count / bare_cpu),
        "ratio_cpu": round(bare_cpu / cpu, 3),
    }


def main() -> None:
    """Print one JSON line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=50_000)
    print(json.dumps(asyncio.run(run(parser.parse_args().changes))))


if __name__ == "__main__":
    main()
