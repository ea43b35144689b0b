"""
A storm over a fleet: three instances on one PostgreSQL, and whatever leads them is taken away over and over.

The emulator, visitors and senders live in this process; the daemons are the real command. Nothing of a daemon is
trusted but when it says that it begins to lead: what was accepted is what the CDN's books say, what is fresh is what
the edge serves, who sent is known by the port at which a request arrived, and the ledger is read from the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
from aiohttp import web

from listener.emulator import Emulator
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import postgres_programs
from tests.product.crash.storm import Edge, cdn_settings
from tests.product.fleet.daemons import Daemon
from tests.product.fleet.events import EVENTS, Events
from tests.product.fleet.servers import Servers, servers_of
from tests.product.fleet.verdict import Leads, Report, Request, older_requests, takeovers, unordered_terms
from tests.sources.webhook.hooks import BEARER, s3_event

INSTANCES = 3
SENDERS = 4
LEASE_SECONDS = 3.0
TAKEOVER_SECONDS = LEASE_SECONDS + 2.0
SETTLE_SECONDS = 120.0
QUIET_SECONDS = 3.0
POST_SECONDS = 4.0
BOOKS = """
SELECT coalesce(sum(spent + others), 0)::int, coalesce(sum(held), 0)::int, (SELECT count(*) FROM late_answer)::int
FROM ledger WHERE kind IN ('file', 'directory')"""
USUAL = ("kill", "end", "freeze", "cut", "crash")


class WatchedCdn(Emulator):
    """The emulator, with a note of when requests arrive and at which port, and of refusals for want of quota."""

    def __init__(self, *arguments: Any) -> None:
        """Note nothing yet."""
        super().__init__(*arguments)
        self.arrived: list[tuple[float, int]] = []
        self.over_quota = 0

    def _application(self) -> web.Application:
        application = super()._application()

        @web.middleware
        async def note(request: web.Request, handler: Any) -> web.StreamResponse:
            if request.headers.get("x-acs-action") == "RefreshObjectCaches":
                self.arrived.append((time.time(), int(request.host.rpartition(":")[2])))
            response: web.StreamResponse = await handler(request)
            if isinstance(response, web.Response) and "QuotaExceeded." in (response.text or ""):
                self.over_quota += 1
            return response

        application.middlewares.append(note)
        return application


class FleetStorm(Edge):
    """One storm in one folder."""

    def __init__(self, folder: Path, cdn: WatchedCdn, servers: Servers, *, seed: int, keys: int) -> None:
        """Prepare; nothing runs yet."""
        super().__init__(folder, cdn, seed=seed)
        self.cdn = cdn
        self.servers = servers
        self.report = Report(LEASE_SECONDS, seed=seed)
        self.names = [f"d{number % 7}/{number}.html" for number in range(keys)]
        self.daemons: list[Daemon] = []
        self.ending = False
        for name in self.names:
            path = folder / "origin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("first\n")

    async def send(self, http: aiohttp.ClientSession, sender: int) -> None:
        """Change files of this sender's own, and post each change to any instance until one confirms it."""
        chance, number = random.Random(f"{self.report.seed} {sender}"), 0
        while not self.ending:
            number += 1
            key = chance.choice(self.names[sender::SENDERS])
            (self.folder / "origin" / key).write_text(f"{key} {sender} {number}\n")
            self.report.changes += 1
            event = s3_event(key)
            event["Records"][0]["s3"]["object"].update(eTag=f"{number:032x}", sequencer=f"{number:016X}")
            body = json.dumps(event).encode()
            while not await self._post(http, chance.choice(self.daemons), body):
                await asyncio.sleep(0.05)
            if chance.random() < 0.1:  # delivered twice
                await self._post(http, chance.choice(self.daemons), body)
            await asyncio.sleep(chance.uniform(0.0, 0.4))

    async def _post(self, http: aiohttp.ClientSession, daemon: Daemon, body: bytes) -> bool:
        with suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=POST_SECONDS)
            async with http.post(daemon.hook, data=body, headers=BEARER, timeout=timeout) as response:
                return response.status == 204
        return False

    async def settle(self, http: aiohttp.ClientSession) -> None:
        """Wait until an instance says, for some time, that nothing is left to do."""
        deadline, quiet_since, left = time.monotonic() + SETTLE_SECONDS, time.monotonic(), {}
        while time.monotonic() - quiet_since < QUIET_SECONDS:
            with suppress(aiohttp.ClientError, TimeoutError):
                status = await self.random.choice(self.daemons).status(http)
                counts = ("pending", "in_flight", "failed", "parked", "unconfirmed")
                left = {name: status.get(name, "?") for name in counts}
                if any(left.values()):
                    quiet_since = time.monotonic()
            if time.monotonic() > deadline:
                self.report.stale.append(f"not at rest: {left}")
                return
            await asyncio.sleep(0.2)

    def compare(self, *, frozen: bool) -> None:
        """Hold the ledger against the CDN's books, which it may never be below."""
        books = self.accepted()
        spent, held, late = self.servers.rows(BOOKS)[0]
        if spent + held + late < books and not frozen:
            self.report.below.append(f"at {time.time():.3f}: accepted {books}, spent {spent}, held {held}, late {late}")

    async def judge(self, http: aiohttp.ClientSession, events: Events) -> None:
        """Fill in the report, with everything at rest."""
        report = self.report
        report.stale += await self.stale(http, self.names)
        ((report.ledger, report.held, report.late),) = await asyncio.to_thread(self.servers.rows, BOOKS)
        report.accepted, report.over_quota = self.accepted(), self.cdn.over_quota
        report.events = dict(events.done)
        report.loses_commits = "lose" in events.done
        leads = sorted(
            Leads(at, daemon.name, fields["term"])
            for daemon in self.daemons
            for at, fields in daemon.events("lease.leads")
        )
        names = {daemon.api_wire.port: daemon.name for daemon in self.daemons}
        requests = [Request(at, names[port]) for at, port in self.cdn.arrived]
        report.requests, report.terms = len(requests), max((one.term for one in leads), default=0)
        report.older, report.older_frozen = older_requests(requests, leads, events.freezes, slack_seconds=3.0)
        if not report.loses_commits:
            report.older += unordered_terms(leads)
        for loss, seconds in takeovers(events.losses, leads).items():
            if seconds is None or seconds > TAKEOVER_SECONDS:
                report.late_takeovers.append(f"{loss}: {seconds}")
            if seconds is not None:
                report.takeover_seconds.append(round(seconds, 2))
        for daemon in self.daemons:
            report.failed_starts += daemon.failed_starts
            report.broken += [f"{daemon.name}: {text}" for text in daemon.broken]
            text = daemon.log.read_text()
            if "Traceback" in text:
                report.tracebacks.append(f"{daemon.name}: {text[text.index('Traceback') :][:2000]}")
        report.warnings = dict(
            Counter(
                fields["event"]
                for daemon in self.daemons
                for _, fields in daemon.events("warning", "error", "critical")
            )
        )


async def storm(
    folder: Path, servers: Servers, *, events: int, seed: int, kinds: Sequence[str] = USUAL, keys: int = 100,
    prepared: bool = True,
) -> Report:  # fmt: skip
    """
    Run one storm.

    Args:
        folder: an empty folder.
        servers: the database.
        events: how often something is taken away.
        seed: of every choice.
        kinds: of events, names of :data:`~tests.product.fleet.events.EVENTS`.
        keys: how many files there are.
        prepared: whether statements may be kept prepared.
    """
    began = time.monotonic()
    (folder / "origin").mkdir()
    timeout = aiohttp.ClientTimeout(total=10)
    settings = cdn_settings(folder, files=20_000, directories=100)
    with ExitStack() as parts:
        async with WatchedCdn(settings) as cdn, aiohttp.ClientSession(timeout=timeout) as http:
            run = FleetStorm(folder, cdn, servers, seed=seed, keys=keys)
            for number in range(INSTANCES):
                run.daemons.append(
                    Daemon(
                        folder, f"web-{number}", cdn, servers.ports, lease_seconds=LEASE_SECONDS, prepared=prepared,
                        parts=parts,
                    )
                )  # fmt: skip
            try:
                for daemon in run.daemons:
                    await daemon.start()
                    await daemon.ready(http)
                await _blow(run, http, Events(run, kinds), events)
            finally:
                for daemon in run.daemons:
                    if daemon.process is not None:
                        await daemon.end(signal.SIGKILL)
    run.report.seconds = round(time.monotonic() - began, 1)
    return run.report


async def _blow(run: FleetStorm, http: aiohttp.ClientSession, events: Events, number: int) -> None:
    await run.stale(http, run.names)
    visitors = asyncio.create_task(run.visit(http, run.names))
    senders = [asyncio.create_task(run.send(http, one)) for one in range(SENDERS)]
    for _ in range(number):
        await asyncio.sleep(run.random.uniform(0.1, 0.9))
        await events.one()
        if "lose" not in events.done:
            await asyncio.to_thread(run.compare, frozen=bool(events.freezes))
    run.ending = True
    await asyncio.wait_for(asyncio.gather(*senders), SETTLE_SECONDS)
    for daemon in run.daemons:
        await daemon.ready(http)
    await run.settle(http)
    visitors.cancel()
    await run.judge(http, events)


def main() -> int:
    """Run a storm from the command line and print its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--kinds", default=",".join(USUAL), help=f"of {', '.join(EVENTS)}")
    parser.add_argument("--pool", action="store_true", help="through PgBouncer in transaction mode")
    parser.add_argument("--keep", type=Path, help="an empty folder for the logs, which is kept")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    initial = Cluster.initialise(programs := postgres_programs(_absent))
    pool = (shutil.which("pgbouncer", path="/usr/sbin:/usr/bin") or _absent("pgbouncer")) if given.pool else ""
    standby = bool({"promote", "lose"} & set(kinds))
    with ExitStack() as parts:
        parts.callback(shutil.rmtree, initial)
        folder = given.keep or Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="fleet-storm-")))
        servers = parts.enter_context(servers_of((programs, initial), pool_command=pool, standby=standby))
        if standby and "lose" not in kinds:
            servers.wait_for_standby()
        report = asyncio.run(
            storm(folder, servers, events=given.events, seed=given.seed, kinds=kinds, keys=given.keys,
                  prepared=not given.pool)
        )  # fmt: skip
    print(json.dumps({**asdict(report), "problems": report.problems}))
    return 1 if report.problems else 0


def _absent(what: str) -> NoReturn:
    raise SystemExit(f"{what} is not installed")


if __name__ == "__main__":
    sys.exit(main())
