"""
What is left of a tree that vanished: the size of the state file then, and how long the removal holds the writer.

    python -m bench.vanished [--directories 4200] [--files 50]

The tree is scanned by the real source into the real store. Then it is deleted, every deletion is sent to the emulator
in another process, whose quota is ample, and settled. From then on the clock is moved, by an hour, a day and so on, and
upkeep runs as the daemon runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import structlog

from bench.path import emulated
from listener.pipeline import Pipeline, store_options
from listener.settings import Settings
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.store import Store, open_store
from listener.store.retention import Configured
from listener.targets.alibaba_cdn import AlibabaCdn

DAY_SECONDS = 86400.0
SEEN_SECONDS = 10.0
"""In which every deletion is recorded."""
KEEP_SECONDS = 30 * DAY_SECONDS
STEPS = {"an hour": 3600.0, "a day": 1.1 * DAY_SECONDS, "16 days": 16 * DAY_SECONDS, "32 days": 32 * DAY_SECONDS}
NAMES = Configured(frozenset({"www"}), frozenset({"cdn"}), frozenset({"www"}), frozenset({"cdn"}))


class MovedClock:
    """The machine's clock, moved."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self.ahead_seconds


def make_tree(root: Path, directories: int, files: int) -> None:
    """Write so many directories with so many files each."""
    for number in range(directories):
        folder = root / f"{number // 100}" / f"{number % 100}"
        folder.mkdir(parents=True)
        for name in range(files):
            (folder / f"{name}.html").write_text("x")
    (root / "kept.html").write_text("x")  # an empty tree would stop at the deletion guard


def settings(folder: Path) -> Settings:
    """Return the settings of the run: nothing is held back."""
    tables: dict[str, Any] = {
        "store": {"url": f"sqlite:///{folder}/state.db"},
        "planner": {"reserve": 0.0},
        "verifier": {"first_seconds": 1, "interval_seconds": 1},
        "sources": {"www": {"type": "filesystem", "path": f"{folder}/www"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
    }
    return Settings(**tables)


async def report(store: Store, what: str, began: float) -> None:
    """Print a line."""
    await store.checkpoint()
    size = [path.stat().st_size / 2**20 for path in (store.path, Path(f"{store.path}-wal")) if path.exists()]
    with closing(sqlite3.connect(store.path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
        free = connection.execute("PRAGMA freelist_count").fetchone()[0] * 4096 / 2**20
    most = ", ".join(f"{name} {count:,}" for name, count in sorted(rows.items(), key=lambda row: -row[1])[:6] if count)
    print(
        f"{what:22} {time.monotonic() - began:7.1f} s {size[0]:8.1f} {free:7.1f} {sum(size[1:]):7.1f}   {most}",
        flush=True,
    )


async def until(condition: Any) -> None:
    """Wait until the condition holds."""
    while not await condition():
        await asyncio.sleep(0.5)


async def live(folder: Path, target: AlibabaCdn, clock: MovedClock, options: argparse.Namespace) -> None:
    """Scan, delete and send in a daemon's pipeline, and settle."""
    chosen = settings(folder)
    source = FilesystemSource("www", FilesystemSettings(path=folder / "www", stable_seconds=0, max_delete_share=1.0))
    kept = store_options(chosen, {"cdn": target})
    async with open_store(chosen.store.url, options=kept, owner=True, clock=clock) as store:
        pipeline = Pipeline(chosen, store, make_sources=lambda: {"www": source}, targets={"cdn": target}, clock=clock)
        running = asyncio.create_task(pipeline.run())

        async def is_scanned() -> bool:
            return source.health.ready and await store.seeded("www")

        async def is_settled() -> bool:
            counts = await store.counts()
            return not (counts.pending or counts.in_flight or counts.failed)

        began = time.monotonic()
        await until(is_scanned)
        await report(store, "indexed", began)
        began = time.monotonic()
        for path in (folder / "www").glob("*/"):
            await asyncio.to_thread(shutil.rmtree, path)
        await asyncio.sleep(SEEN_SECONDS)
        await report(store, "deleted", began)
        await until(is_settled)
        await report(store, "sent and settled", began)
        pipeline.stop()
        await running


async def age(folder: Path, clock: MovedClock) -> None:
    """Move the clock and let upkeep run."""
    for what, seconds in STEPS.items():
        clock.ahead_seconds = seconds
        async with open_store(f"sqlite:///{folder}/state.db", owner=True, clock=clock) as store:
            began = time.monotonic()
            await store.upkeep(keep_seconds=KEEP_SECONDS, configured=NAMES)
            work, group = store.longest_work_seconds, store.longest_group_seconds
            await report(store, f"{what} later", began)
            print(f"{'':22} the writer was held for {1000 * group:.1f} ms at most, {1000 * work:.1f} of them at work")


async def run(options: argparse.Namespace) -> None:
    """Run everything."""
    with tempfile.TemporaryDirectory(prefix="vanished-") as name:
        folder, clock = Path(name), MovedClock()
        make_tree(folder / "www", options.directories, options.files)
        print(f"{'':22} {'wall':>9} {'file MiB':>8} {'free':>7} {'log':>7}   rows")
        async with emulated(folder, task_seconds=5.0) as target:
            await live(folder, target, clock, options)
        await age(folder, clock)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def main() -> None:
    """Measure."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directories", type=int, default=4_200)
    parser.add_argument("--files", type=int, default=50, help="in each")
    with suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
