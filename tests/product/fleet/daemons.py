"""The daemons of a fleet, as a user starts them, each behind wires to the database and to the CDN's API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from listener.emulator import Emulator
from tests.keys import KEYS
from tests.postgres.wire import wire
from tests.sources.webhook.hooks import TOKEN
from tests.stand import free_port

READY_SECONDS = 90.0
RESTART_SECONDS = 0.5
CONFIG = """
[store]
url = "{store}"
prepared = {prepared}

[instance]
name = "{name}"

[fleet]
lease_seconds = {lease_seconds}

[coalescer]
quiet_seconds = 0.1

[verifier]
first_seconds = 0.4
interval_seconds = 0.2

[planner]
reserve = 0.0

[admin]
listen = "127.0.0.1:{admin_port}"

[sources.www]
type = "webhook"
listen = "127.0.0.1:{hook_port}"
commit_seconds = 2

[targets.cdn]
type = "alibaba-cdn"
endpoint = "http://127.0.0.1:{api_port}"
limits = {{ task_list_share = 1.0 }}
timeouts = {{ answer_seconds = 2 }}

[[sites]]
source = "www"
target = "cdn"
base_urls = ["{edge}/"]
min_interval_seconds = 0
"""


class Daemon:
    """One instance: its name stays the same over all its processes."""

    def __init__(
        self,
        folder: Path,
        name: str,
        emulator: Emulator,
        servers: Sequence[int],
        *,
        lease_seconds: float,
        prepared: bool,
        parts: ExitStack,
    ) -> None:
        """
        Make its wires and write its configuration; nothing runs yet.

        Args:
            folder: of the storm.
            name: of the instance.
            emulator: the CDN.
            servers: ports of the database, each of a server or pool.
            lease_seconds: how long leases last.
            prepared: whether statements may be kept prepared.
            parts: ends the wires.
        """
        self.name = name
        self.state = folder / name
        self.state.mkdir()
        self.log = self.state / "log"
        self.admin_port, hook_port = free_port(), free_port()
        self.hook = f"http://127.0.0.1:{hook_port}/"
        self.store_wires = [parts.enter_context(wire(port)) for port in servers]
        self.api_wire = parts.enter_context(wire(int(emulator.api_url.rpartition(":")[2])))
        self.process: asyncio.subprocess.Process | None = None
        self.failed_starts = 0
        """How often it ended while it started, and was started again, as by systemd: the database was away."""
        self.broken: list[str] = []
        """What it logged last before it ended by itself while it ran."""
        self._watching: asyncio.Task[None] | None = None
        self._config = self.state / "listener.toml"
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.store_wires)
        self._config.write_text(
            CONFIG.format(
                store=f"postgresql://postgres@{hosts}/postgres", prepared=str(prepared).lower(), name=name,
                lease_seconds=lease_seconds, admin_port=self.admin_port, hook_port=hook_port,
                api_port=self.api_wire.port, edge=emulator.edge_url,
            )
        )  # fmt: skip

    async def start(self) -> None:
        """Start the command, and again whenever it ends by itself."""
        await self._spawn()
        self._watching = asyncio.create_task(self._watch())

    async def _spawn(self) -> None:
        secret = {"LISTENER_SOURCES__WWW__TOKEN": TOKEN, "STATE_DIRECTORY": str(self.state)}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("cdn-listener"), "run", "--config", str(self._config),
                env={**os.environ, **KEYS, **secret}, stdout=log, stderr=log,
            )  # fmt: skip

    async def _watch(self) -> None:
        while True:
            assert self.process is not None
            begin = self.log.stat().st_size
            await self.process.wait()
            logged = self.log.read_bytes()[begin:].decode()
            if '"daemon.running"' in logged:
                self.broken.append(logged[-1000:])
            self.failed_starts += 1
            await asyncio.sleep(RESTART_SECONDS)
            await self._spawn()

    async def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals, *, seconds: float = 40.0) -> None:
        """Send a signal that ends it, and wait for the end; kill it where that takes longer."""
        await self._unwatch()
        assert self.process is not None
        if self.process.returncode is None:
            self.send(number)
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise

    def cut(self) -> None:
        """Part it from the database: nothing arrives, and nothing is closed."""
        for each in self.store_wires:
            each.cut()

    def mend(self) -> None:
        """Join it to the database again."""
        for each in self.store_wires:
            each.mend()

    async def ready(self, http: aiohttp.ClientSession) -> None:
        """Wait until it says that it receives changes."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{self.admin_port}/readyz") as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            assert time.monotonic() < deadline, f"{self.name} is not ready: {self.log.read_text()[-3000:]}"
            await asyncio.sleep(0.05)

    async def status(self, http: aiohttp.ClientSession) -> dict[str, Any]:
        """Return its status."""
        async with http.get(f"http://127.0.0.1:{self.admin_port}/api/status") as response:
            return dict(await response.json())

    def events(self, *names: str) -> Iterator[tuple[float, dict[str, Any]]]:
        """Return what it logged with these names or levels, each with its time in seconds since the epoch."""
        for line in self.log.read_text().splitlines():
            with suppress(ValueError):  # a line of a killed process may be cut off
                fields = json.loads(line)
                if fields["event"] not in names and fields["level"] not in names:
                    continue
                yield datetime.fromisoformat(fields["timestamp"]).timestamp(), fields
