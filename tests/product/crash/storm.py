"""
A storm: files change while the daemon is killed over and over; in the end the books and the edge are compared.

The emulator, the visitors and the writers live in this process and are never killed; the daemon is the
real command, started again after each SIGKILL. Nothing of the daemon is trusted: what was accepted is
what the emulator's books say, what is fresh is what the edge serves, and the ledger is read from the
state file between one daemon's death and the next one's birth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from listener.alibaba.signature import Credentials
from listener.emulator import Emulator, EmulatorSettings, parse_fault
from listener.refresh import RefreshKind
from tests.keys import KEYS
from tests.stand import free_port

READY_SECONDS = 90.0
SETTLE_SECONDS = 240.0

CONFIG = """
[store]
url = "sqlite:///{folder}/state.db"

[coalescer]
quiet_seconds = 0.1

[verifier]
first_seconds = 0.4
interval_seconds = 0.2

[planner]
reserve = 0.0

[admin]
listen = "127.0.0.1:{port}"

[sources.www]
type = "filesystem"
path = "{folder}/origin"

[targets.cdn]
{target}
[[sites]]
source = "www"
target = "cdn"
base_urls = ["{edge}/"]
min_interval_seconds = 0
"""
TARGET = """type = "alibaba-cdn"
endpoint = "{api}"
limits = {{ task_list_share = 1.0 }}
timeouts = {{ answer_seconds = 3 }}
"""


@dataclass(slots=True)
class Report:
    """What a storm came to."""

    kills: int = 0
    changes: int = 0
    accepted: int = 0
    quota: int = 0
    needed: int | None = None
    """What must have been accepted to the unit, where every file changed once; ``None`` where nobody can say."""
    stale: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    """Instants at which the ledger stood below what the emulator had accepted."""
    above: list[str] = field(default_factory=list)
    """Instants at which it stood above that by more than the units whose outcome was not known."""
    most_unknown: int = 0
    ledger: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every promise held."""
        exact = self.needed is None or self.accepted == self.needed
        books = self.ledger == self.accepted <= self.quota and exact
        return books and not self.stale and not self.below and not self.above


def cdn_settings(folder: Path, *, files: int, directories: int, slow_seconds: float = 0.3) -> EmulatorSettings:
    """Return a CDN with a quota, slow enough that many a crash falls between a request and its answer."""
    return EmulatorSettings(
        origin=str(folder / "origin"),
        credentials=Credentials("testid", "testsecret"),
        api_port=0,
        edge_port=0,
        task_seconds=0.2,
        faults=(parse_fault(f"slow:{slow_seconds},action=RefreshObjectCaches"),),
        quota={RefreshKind.FILE: files, RefreshKind.DIRECTORY: directories},
        calls_per_second={"RefreshObjectCaches": 1000, "DescribeRefreshTasks": 1000, "DescribeRefreshTaskById": 1000},
    )


class Edge:
    """The emulated CDN as its visitors and its books see it."""

    def __init__(self, folder: Path, emulator: Emulator, *, seed: int) -> None:
        """Take the folder whose ``origin`` the emulator serves."""
        self.folder = folder
        self.emulator = emulator
        self.random = random.Random(seed)

    def accepted(self) -> int:
        """Return how many units the emulator accepted."""
        return sum(
            count
            for units in self.emulator.account.ledger.windows().values()
            for kind, count in units.items()
            if str(kind) in ("file", "directory")
        )

    def leave_unanswered(self) -> None:
        """Let the CDN accept the next request without an answer."""
        unanswered = parse_fault("accept-then-timeout:1,action=RefreshObjectCaches")
        self.emulator.faults.order(unanswered, self.emulator.clock.now())

    async def visit(self, http: aiohttp.ClientSession, keys: list[str]) -> None:
        """Have visitors keep the edge's copies, stale ones too."""
        while True:
            await self.served(http, self.random.choice(keys))
            await asyncio.sleep(0.005)

    async def served(self, http: aiohttp.ClientSession, key: str) -> str:
        """Return what the edge serves."""
        async with http.get(f"{self.emulator.edge_url}/{key}") as response:
            return await response.text()

    async def stale(self, http: aiohttp.ClientSession, keys: list[str]) -> list[str]:
        """Return the keys whose copy at the edge is not what the origin has."""
        return [key for key in keys if await self.served(http, key) != (self.folder / "origin" / key).read_text()]


class Storm(Edge):
    """One storm in one folder."""

    target = TARGET
    """Its table in the configuration."""
    site = ""
    """Further keys of its site."""
    credentials: Mapping[str, str] = KEYS
    """Variables with the CDN's key."""

    def __init__(self, folder: Path, emulator: Emulator, *, seed: int, quota: int) -> None:
        """Prepare; nothing runs yet."""
        super().__init__(folder, emulator, seed=seed)
        self.report = Report(quota=quota)
        self.port = free_port()
        self.daemon: asyncio.subprocess.Process | None = None
        self.config = folder / "listener.toml"
        self.config.write_text(
            CONFIG.format(
                folder=folder,
                port=self.port,
                target=self.target.format(api=emulator.api_url),
                edge=emulator.edge_url,
            )
            + self.site
        )

    async def start(self) -> None:
        """Start the daemon."""
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "listener", "run", "--config", str(self.config),
                env={**os.environ, **self.credentials}, stdout=log, stderr=log,
            )  # fmt: skip

    async def kill(self) -> None:
        """End it without a word."""
        assert self.daemon is not None
        if self.daemon.returncode is None:
            self.daemon.send_signal(signal.SIGKILL)
        await self.daemon.wait()
        self.report.kills += 1
        self.compare()

    def compare(self) -> None:
        """Hold the dead daemon's ledger against the emulator's books."""
        books = self.accepted()
        connection = sqlite3.connect(self.folder / "state.db")
        spent, held = connection.execute(
            "SELECT coalesce(sum(spent + others), 0), coalesce(sum(held), 0) FROM ledger"
            " WHERE kind IN ('file', 'directory', 'paths')"
        ).fetchone()
        unknown = connection.execute(
            "SELECT count(*) FROM attempt WHERE held = 1 AND kind IN ('file', 'directory')"
        ).fetchone()[0]
        connection.close()
        self.report.most_unknown = max(self.report.most_unknown, unknown)
        words = f"kill {self.report.kills}: accepted {books}, spent {spent}, held {held}, not known {unknown}"
        if spent + held < books:
            self.report.below.append(words)
        if spent > books or spent + held > books + unknown:
            self.report.above.append(words)

    async def ready(self, http: aiohttp.ClientSession) -> None:
        """Wait until the daemon says that it sees whatever changes from now on."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{self.port}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            assert self.daemon is not None
            assert self.daemon.returncode is None, (self.folder / "daemon.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (self.folder / "daemon.log").read_text()[-3000:]
            await asyncio.sleep(0.02)

    def write(self, key: str) -> None:
        """Change one file, in place or by an atomic rename."""
        path = self.folder / "origin" / key
        self.report.changes += 1
        text = f"{key} {self.report.changes}\n"
        if self.random.random() < 0.5:
            path.write_text(text)
        else:
            beside = path.with_name(f".{path.name}.Tmp123")
            beside.write_text(text)
            beside.rename(path)

    def let_something_fail(self) -> None:
        """Half of the time leave a request unanswered."""
        if self.random.random() < 0.5:
            self.leave_unanswered()

    async def drain(self) -> None:
        """Wait until the daemon has everything that changed; it watches the files themselves."""

    async def settle(self, http: aiohttp.ClientSession) -> None:
        """Wait until the daemon says that nothing is left to do."""
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet = 0
        while quiet < 10:
            async with http.get(f"http://127.0.0.1:{self.port}/api/status") as response:
                status = await response.json()
            left = [status[name] for name in ("pending", "in_flight", "failed", "parked", "unconfirmed")]
            quiet = 0 if any(left) else quiet + 1
            assert time.monotonic() < deadline, f"{status}\n{(self.folder / 'daemon.log').read_text()[-3000:]}"
            await asyncio.sleep(0.1)


async def storm(folder: Path, *, kills: int, seed: int, keys: int, once: bool) -> Report:
    """
    Run one storm.

    Args:
        folder: an empty folder.
        kills: how often the daemon is killed.
        seed: of every random choice.
        keys: how many files there are.
        once: change every file once only, with a quota just above that, so that nothing may be paid twice.
    """
    began = time.monotonic()
    names = make_origin(folder, keys)
    quota = keys + 2 if once else 10_000
    options = cdn_settings(folder, files=quota, directories=0 if once else 100)
    async with Emulator(options) as emulator, aiohttp.ClientSession() as http:
        run = Storm(folder, emulator, seed=seed, quota=quota + (0 if once else 100))
        await endure(run, http, names, partial(change_files, run, names, kills=kills, once=once), kills=kills)
        run.report.needed = keys if once else None
        run.report.accepted = run.accepted()
        run.report.ledger = spent_units(folder)
        run.report.seconds = round(time.monotonic() - began, 1)
        return run.report


def make_origin(folder: Path, keys: int) -> list[str]:
    """Write that many files, and return their keys."""
    names = [f"d{number % 7}/{number}.html" for number in range(keys)]
    for name in names:
        path = folder / "origin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first\n")
    return names


async def endure(
    run: Storm,
    http: aiohttp.ClientSession,
    names: list[str],
    change: Callable[[], Coroutine[Any, Any, None]],
    *,
    kills: int,
) -> None:
    """Kill the daemon so often while files change, let the last one finish, and report what is stale."""
    await run.start()
    await run.ready(http)
    await run.stale(http, names)
    visitors = asyncio.create_task(run.visit(http, names))
    changing = asyncio.create_task(change())
    for _ in range(kills):
        await live_a_while(run, http)
        await run.kill()
        await run.start()
    await changing
    await run.ready(http)
    await run.drain()
    await run.settle(http)
    visitors.cancel()
    run.report.stale = await run.stale(http, names)
    await run.kill()
    run.report.kills -= 1


async def live_a_while(run: Storm, http: aiohttp.ClientSession) -> None:
    """Let something fail; mostly let the daemon get to work, sometimes kill it while it starts."""
    run.let_something_fail()
    if run.random.random() < 0.85:
        await run.ready(http)
        await asyncio.sleep(run.random.uniform(0.0, 0.9))
    else:
        await asyncio.sleep(run.random.uniform(0.0, 0.6))


async def change_files(run: Storm, names: list[str], *, kills: int, once: bool) -> None:
    """Change each file once, or any of them until the last kill."""
    if once:
        left = list(names)
        run.random.shuffle(left)
        pause = max(0.01, kills * 1.2 / len(left))
        for name in left:
            run.write(name)
            await asyncio.sleep(run.random.uniform(0, 2 * pause))
        return
    while run.report.kills < kills:
        run.write(run.random.choice(names))
        await asyncio.sleep(run.random.uniform(0.0, 0.05))


def spent_units(folder: Path) -> int:
    """Return the units that the ledger counts as spent, in all."""
    connection = sqlite3.connect(folder / "state.db")
    (spent,) = connection.execute("SELECT coalesce(sum(spent + others), 0) FROM ledger").fetchone()
    connection.close()
    return int(spent)


def command(
    storm: Callable[..., Coroutine[Any, Any, dict[str, object]]],
    is_good: Callable[[dict[str, object]], bool],
    description: str | None,
) -> int:
    """Run a storm in which each file changes once from the command line, and print its report."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        report = asyncio.run(storm(Path(folder), kills=given.kills, seed=given.seed, keys=given.keys))
    print(json.dumps(report | {"good": is_good(report)}))
    return 0 if is_good(report) else 1


def main() -> int:
    """Run a storm from the command line and print its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--once", action="store_true", help="each file changes once, with a quota just above that")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        report = asyncio.run(storm(Path(folder), kills=given.kills, seed=given.seed, keys=given.keys, once=given.once))
    print(json.dumps({name: getattr(report, name) for name in Report.__slots__} | {"good": report.good}))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
