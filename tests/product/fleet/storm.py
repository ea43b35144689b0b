"""
A storm over a fleet: three daemons on one PostgreSQL while its leader is killed, frozen and cut off.

The emulator, the writers and the wires to the database live in this process. The daemons are the real command. What was
accepted is what the emulator's books say, what is fresh is what the edge serves, the ledger is read from the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from listener.alibaba.signature import Credentials
from listener.emulator import Emulator, EmulatorSettings, parse_fault
from listener.refresh import RefreshKind
from listener.store.postgres.migrations import SCHEMA
from tests.keys import KEYS
from tests.postgres.cluster import Cluster
from tests.postgres.wire import Wire, wire
from tests.stand import free_port

LEASE_SECONDS = 3.0
INSTANCES = 3
READY_SECONDS = 90.0
SETTLE_SECONDS = 180.0
QUOTA = 5_000
ACTIONS = ("RefreshObjectCaches", "DescribeRefreshTasks", "DescribeRefreshTaskById")
EVENTS = ("kill", "freeze", "cut", "stop server")

CONFIG = """
[store]
url = "{url}"
[instance]
name = "web-{number}"
[fleet]
lease_seconds = {lease}
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
type = "alibaba-cdn"
endpoint = "{api}"
[[sites]]
source = "www"
target = "cdn"
base_urls = ["{edge}/"]
min_interval_seconds = 0
"""


@dataclass
class Report:
    """What a storm came to."""

    events: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    takeovers_seconds: list[float] = field(default_factory=list)
    terms: int = 0
    accepted: int = 0
    ledger: int = 0
    held: int = 0
    late_answers: int = 0
    stale: list[str] = field(default_factory=list)
    left: str = ""
    overspent: list[tuple[int, int]] = field(default_factory=list)
    """Accepted, and spent and held at the same moment, where the ledger was below."""
    log: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether everything is fresh, each unit is booked, and take-overs were quick."""
        booked = self.accepted == self.ledger <= QUOTA and not self.held and not self.late_answers
        quick = all(seconds <= LEASE_SECONDS + 2 for seconds in self.takeovers_seconds)
        return booked and quick and not (self.stale or self.left or self.overspent or self.log.get("Traceback"))


class Fleet:
    """The daemons, each with a wire of its own to the database."""

    def __init__(self, folder: Path, cluster: Cluster, database: str, emulator: Emulator, wires: list[Wire]) -> None:
        self.folder = folder
        self.cluster = cluster
        self.database = database
        self.emulator = emulator
        self.wires = wires
        self.ports = [free_port() for _ in wires]
        self.processes: list[asyncio.subprocess.Process | None] = [None] * len(wires)
        for number, (port, one) in enumerate(zip(self.ports, wires, strict=True)):
            url = cluster.url(database, port=one.port, tcp_user_timeout=2000)
            text = CONFIG.format(
                url=url, number=number, lease=LEASE_SECONDS, port=port, folder=folder,
                api=emulator.api_url, edge=emulator.edge_url,
            )  # fmt: skip
            self._config(number).write_text(text)

    def _config(self, number: int) -> Path:
        return self.folder / f"web-{number}.toml"

    def log(self, number: int) -> Path:
        """Where a daemon logs."""
        return self.folder / f"web-{number}.log"

    def process(self, number: int) -> asyncio.subprocess.Process:
        """Return a daemon's process."""
        process = self.processes[number]
        assert process is not None
        return process

    async def start(self, number: int) -> None:
        """Start a daemon."""
        environment = {**os.environ, **KEYS, "LISTENER_CONFIG": str(self._config(number))}
        with self.log(number).open("ab") as log:
            self.processes[number] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "listener", "run", env=environment, stdout=log, stderr=log, cwd=self.folder
            )

    async def kill(self, number: int) -> None:
        """Kill a daemon, frozen or not."""
        process = self.process(number)
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def restart_ended(self) -> None:
        """Do what a service manager does: one that found no database at its start is started again."""
        for number in range(len(self.wires)):
            if self.process(number).returncode is not None:
                last = self.log(number).read_text().rstrip().splitlines()[-2:]
                assert last[0].startswith("error: PostgreSQL"), last
                await self.start(number)

    async def ready(self, http: aiohttp.ClientSession, number: int) -> None:
        """Wait until a daemon notices every change."""

        async def is_ready() -> bool:
            await self.restart_ended()
            try:
                timeout = aiohttp.ClientTimeout(total=3)
                async with http.get(f"http://127.0.0.1:{self.ports[number]}/readyz", timeout=timeout) as response:
                    return response.status == 200
            except (aiohttp.ClientError, TimeoutError):
                return False

        deadline = time.monotonic() + READY_SECONDS
        while not await is_ready():
            assert time.monotonic() < deadline, self.log(number).read_text()[-2000:]
            await asyncio.sleep(0.1)

    async def value(self, statement: str) -> Any:
        """Read one value past the daemons."""
        return await asyncio.to_thread(self.cluster.value, statement, database=self.database)

    async def leader(self) -> tuple[int | None, int]:
        """Return who leads, and the number of the term."""
        row = await self.value(
            f"SELECT row(coalesce(instance, ''), term)::text FROM {SCHEMA}.lease WHERE name = 'main'"
        )
        name, _, term = str(row or "(,0)").strip("()").partition(",")
        return (int(name.removeprefix("web-")) if name else None), int(term)

    @property
    def accepted(self) -> int:
        """Return how many files and directories the CDN accepted."""
        windows = self.emulator.account.ledger.windows().values()
        return sum(count for units in windows for kind, count in units.items() if str(kind) in ("file", "directory"))

    async def booked(self) -> tuple[int, int]:
        """Return what the ledger has as spent, by whomever, and as held."""
        sums = f"FROM {SCHEMA}.ledger WHERE kind IN ('file', 'directory')"
        spent = await self.value(f"SELECT coalesce(sum(spent + others), 0)::bigint {sums}")
        return int(spent), int(await self.value(f"SELECT coalesce(sum(held), 0)::bigint {sums}"))


async def until(condition: Callable[[], Any], seconds: float) -> bool:
    """Wait until a condition, a coroutine function, holds; return whether it did."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


class Storm:
    """One storm."""

    def __init__(self, fleet: Fleet, http: aiohttp.ClientSession, *, seed: int, keys: int) -> None:
        self.fleet = fleet
        self.http = http
        self.random = random.Random(seed)
        self.report = Report()
        self.keys = [f"d{number % 7}/{number}.html" for number in range(keys)]

    def write(self, key: str) -> None:
        """Change a file at the origin."""
        path = self.fleet.folder / "origin" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        self.report.changes += 1
        path.write_text(f"{key} {self.report.changes}\n")

    async def served(self, key: str) -> str:
        """Return what the edge has."""
        async with self.http.get(f"{self.fleet.emulator.edge_url}/{key}") as response:
            return await response.text()

    async def change(self) -> None:
        """Change and visit files, for ever."""
        while True:
            self.write(self.random.choice(self.keys))
            await self.served(self.random.choice(self.keys))
            await asyncio.sleep(self.random.uniform(0.0, 0.1))

    async def run(self, events: int) -> Report:
        """Let it blow, then become calm, and compare."""
        fleet = self.fleet
        for key in self.keys:
            self.write(key)
        for number in range(INSTANCES):
            await fleet.start(number)
        for number in range(INSTANCES):
            await fleet.ready(self.http, number)
        for key in self.keys:
            await self.served(key)
        changing = asyncio.create_task(self.change())
        for number in range(events):
            await asyncio.sleep(self.random.uniform(0.3, 2.0))
            await self.event(EVENTS[number % len(EVENTS)])
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
        await self.become_calm()
        return self.report

    async def event(self, what: str) -> None:
        """Do something to the leader, or in one of four cases to any instance; wait for what follows."""
        fleet, report = self.fleet, self.report
        await fleet.restart_ended()
        report.events[what] = report.events.get(what, 0) + 1
        if self.random.random() < 0.5:
            fault = parse_fault("accept-then-timeout:1,action=RefreshObjectCaches")
            fleet.emulator.faults.order(fault, fleet.emulator.clock.now())
        leader, term = await fleet.leader()
        hit = leader if leader is not None and self.random.random() < 0.75 else self.random.randrange(INSTANCES)
        began = time.monotonic()

        async def is_taken() -> bool:
            return (await fleet.leader())[1] > term

        async def followed() -> None:
            if hit == leader:
                await until(is_taken, 30)
                report.takeovers_seconds.append(round(time.monotonic() - began, 1))

        if what == "kill":
            await fleet.kill(hit)
            await followed()
            accepted = fleet.accepted
            booked = sum(await fleet.booked())
            if booked < accepted:
                report.overspent.append((accepted, booked))
            await fleet.start(hit)
        elif what == "freeze":
            fleet.process(hit).send_signal(signal.SIGSTOP)
            await followed()
            await asyncio.sleep(self.random.uniform(0, 2))
            fleet.process(hit).send_signal(signal.SIGCONT)
        elif what == "cut":
            await asyncio.to_thread(fleet.wires[hit].cut)
            await followed()
            await asyncio.sleep(self.random.uniform(0, 2))
            await asyncio.to_thread(fleet.wires[hit].mend)
        else:
            await asyncio.to_thread(fleet.cluster.stop, "immediate")
            await asyncio.sleep(self.random.uniform(0, 2))
            await asyncio.to_thread(fleet.cluster.start)

    async def become_calm(self) -> None:
        """Wait until nothing is left to do, and compare everything."""
        fleet, report = self.fleet, self.report
        for number in range(INSTANCES):
            await fleet.ready(self.http, number)
        open_rows = (
            f"SELECT (SELECT count(*) FROM {SCHEMA}.need) + (SELECT count(*) FROM {SCHEMA}.attempt WHERE active = 1)"
            f" + (SELECT count(*) FROM {SCHEMA}.late_answer)"
        )

        async def is_settled() -> bool:
            for _ in range(5):
                if await fleet.value(open_rows):
                    return False
                await asyncio.sleep(0.2)
            return True

        if not await until(is_settled, SETTLE_SECONDS):
            report.left = str(await fleet.value(f"SELECT json_agg(a) FROM {SCHEMA}.attempt a WHERE active = 1"))[:2000]
        for key in self.keys:
            if await self.served(key) != (fleet.folder / "origin" / key).read_text():
                report.stale.append(key)
        report.accepted = fleet.accepted
        report.ledger, report.held = await fleet.booked()
        report.late_answers = await fleet.value(f"SELECT count(*) FROM {SCHEMA}.late_answer")
        report.terms = (await fleet.leader())[1]
        logs = "".join(fleet.log(number).read_text() for number in range(INSTANCES))
        words = (
            "lease.leads",
            "lease.expired",
            "lease.fenced",
            "sender.answer_late",
            "lease.late_answers",
            "Traceback",
        )
        report.log = {word: logs.count(word) for word in words}


async def storm(folder: Path, cluster: Cluster, *, events: int, seed: int, keys: int = 40) -> Report:
    """Run a storm; the cluster is the storm's own."""
    (folder / "origin").mkdir(parents=True)
    options = EmulatorSettings(
        origin=str(folder / "origin"), credentials=Credentials(**CREDENTIALS), api_port=0, edge_port=0,
        task_seconds=0.2, quota={RefreshKind.FILE: QUOTA, RefreshKind.DIRECTORY: 0},
        faults=(parse_fault("slow:0.3,action=RefreshObjectCaches"),),
        calls_per_second=dict.fromkeys(ACTIONS, 1000),
    )  # fmt: skip
    with ExitStack() as stack:
        database = stack.enter_context(cluster.database())
        wires = [stack.enter_context(wire(cluster.port)) for _ in range(INSTANCES)]
        async with Emulator(options) as emulator, aiohttp.ClientSession() as http:
            fleet = Fleet(folder, cluster, database, emulator, wires)
            try:
                return await Storm(fleet, http, seed=seed, keys=keys).run(events)
            finally:
                for number, process in enumerate(fleet.processes):
                    if process is not None:
                        await fleet.kill(number)


CREDENTIALS = {
    "access_key_id": KEYS["ALIBABA_CLOUD_ACCESS_KEY_ID"],
    "access_key_secret": KEYS["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
}


def main() -> None:
    """Run a storm and print its report."""
    import shutil
    import tempfile

    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=75)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else Path(str(shutil.which("initdb"))).parent
    initial = Cluster.initialise(programs)
    cluster = Cluster.copied(programs, initial, durable=True).start()
    folder = Path(tempfile.mkdtemp(prefix="fleet-storm-"))
    try:
        report = asyncio.run(storm(folder, cluster, events=arguments.events, seed=arguments.seed))
        print(json.dumps({**asdict(report), "good": report.good}))
    finally:
        cluster.remove()
        shutil.rmtree(initial)
    if not report.good:
        sys.exit(f"not good; logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
