"""How soon a change is requested of the CDN: recorded by the instance that sends or by another one, and with SQLite."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import aiohttp

from tests.postgres.cluster import Cluster
from tests.product.crash.storm import cdn_settings
from tests.product.fleet.daemons import Daemon
from tests.product.fleet.storm import WatchedCdn
from tests.sources.webhook.hooks import BEARER, s3_event

__all__ = ["latencies"]

QUIET_SECONDS = 0.3
PAUSE_SECONDS = (1.2, 2.2)
"""Between two changes, of all lengths, so that they fall anywhere between two looks at the store."""
LEASE_SECONDS = 3.0
MOST_SECONDS = 20.0


async def _requested_after(http: aiohttp.ClientSession, cdn: WatchedCdn, daemon: Daemon, number: int) -> float:
    """Post a change to an instance; return after how many seconds the request for it arrived at the CDN."""
    event, before, began = s3_event(f"{number}.html"), len(cdn.arrived), time.time()
    event["Records"][0]["s3"]["object"].update(eTag=f"{number:032x}", sequencer=f"{number:016X}")
    async with http.post(daemon.hook, data=json.dumps(event).encode(), headers=BEARER) as response:
        assert response.status == 204
    while len(cdn.arrived) == before:
        assert time.time() < began + MOST_SECONDS
        await asyncio.sleep(0.001)
    return cdn.arrived[before][0] - began


def _configure(daemon: Daemon, store: str) -> None:
    """Set the quiet time; and the state file, where it is one, instead of what is about PostgreSQL."""
    config = daemon.state / "listener.toml"
    text = config.read_text().replace("quiet_seconds = 0.1", f"quiet_seconds = {QUIET_SECONDS}")
    if store:
        _, _, rest = text.partition("[coalescer]")
        text = f'[store]\nurl = "{store}"\n[coalescer]{rest}'
    config.write_text(text)


def _leader(daemons: Sequence[Daemon]) -> Daemon:
    return max(daemons, key=lambda daemon: max((at for at, _ in daemon.events("lease.leads")), default=0.0))


async def _measure(folder: Path, ports: Sequence[int], store: str, instances: int, changes: int) -> dict[str, float]:
    (folder / "origin").mkdir()
    settings = cdn_settings(folder, files=20_000, directories=100, slow_seconds=0.0)
    found: dict[str, list[float]] = {}
    with ExitStack() as parts:
        async with WatchedCdn(settings) as cdn, aiohttp.ClientSession() as http:
            daemons = [
                Daemon(
                    folder, f"web-{n}", cdn, ports, lease_seconds=LEASE_SECONDS, prepared=True, parts=parts
                ) for n in range(instances)
            ]  # fmt: skip
            for daemon in daemons:
                _configure(daemon, store)
            try:
                for daemon in daemons:
                    await daemon.start()
                    await daemon.ready(http)
                await asyncio.sleep(2 * LEASE_SECONDS)  # until leases are balanced
                for number in range(changes * instances + 1):
                    await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
                    daemon = daemons[number % instances]
                    where = "sqlite" if store else "same" if daemon is _leader(daemons) else "other"
                    seconds = await _requested_after(http, cdn, daemon, number)
                    if number:  # the first one opens connections
                        found.setdefault(where, []).append(seconds)
            finally:
                for daemon in daemons:
                    if daemon.process is not None:
                        await daemon.end(signal.SIGKILL)
    return {
        f"latency.{where}.{name}_ms": 1000 * value
        for where, each in found.items()
        for name, value in (("median", statistics.median(each)), ("nine_tenths", sorted(each)[len(each) * 9 // 10]))
    }


def latencies(cluster: Cluster, changes: int) -> dict[str, float]:
    """Return milliseconds from a change that is posted to its request: ``sqlite``, ``same`` and ``other`` instance."""
    found: dict[str, float] = {}
    for store, instances in (("", 2), ("sqlite:///{folder}/state.db", 1)):
        with tempfile.TemporaryDirectory(prefix="fleet-latency-") as name:
            place = store.format(folder=name)
            found |= asyncio.run(_measure(Path(name), [cluster.port], place, instances, changes))
    return found
