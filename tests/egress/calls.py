"""
One call by each client that leaves the machine, in a process of its own; prints what became of each as JSON.

Usage: ``python -m tests.egress.calls SCHEME PORT``; proxies, keys and trusted certificates come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from listener.alibaba import KeyInUse, key_source
from listener.clock import SystemClock
from listener.edge.prober import Prober
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.transport import MnsTransport
from listener.sources.sqs.boto import SqsTransport
from listener.sources.sqs.settings import SqsSettings
from listener.sources.webhook.authentication.certificates import fetcher
from listener.targets.alibaba_cdn import AlibabaCdn
from listener.telemetry import configure_logging

HOSTS = ("cdn", "mns", "sqs", "certificate", "edge")


async def main(scheme: str, port: str) -> dict[str, str]:
    """Make the calls."""
    origin = {name: f"{scheme}://{name}.cloud.test:{port}" for name in HOSTS}
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "cdn": lambda: cdn(origin["cdn"]),
        "mns": lambda: mns(origin["mns"]),
        "sqs": lambda: sqs(origin["sqs"]),
        "certificate": lambda: fetcher()(f"{origin['certificate']}/a.pem"),
        "edge": lambda: edge(f"{origin['edge']}/a.html"),
    }
    return {name: await outcome(call) for name, call in calls.items()}


async def outcome(call: Callable[[], Awaitable[Any]]) -> str:
    """Return ``ok``, or the error with its hint."""
    try:
        await call()
    except Exception as error:  # noqa: BLE001 - what it says is looked at
        return f"{error} [{getattr(error, 'hint', '')}]"
    return "ok"


async def cdn(endpoint: str) -> None:
    """Read the quota."""
    settings = AlibabaCdn.Settings.model_validate({"endpoint": endpoint, "timeouts": {"tries": 1}})
    target = AlibabaCdn("cdn", settings)
    try:
        await target.read_quota()
    finally:
        await target.close()


async def mns(endpoint: str) -> None:
    """Receive a message."""
    settings = MnsSettings.model_validate({"endpoint": endpoint, "queue": "e"})
    transport = MnsTransport(settings, keys=KeyInUse(key_source(settings, os.environ)), clock=SystemClock())
    try:
        await transport.receive(wait_seconds=0)
    finally:
        await transport.close()


async def sqs(origin: str) -> None:
    """Receive a message."""
    transport = SqsTransport(SqsSettings.model_validate({"queue_url": f"{origin}/111122223333/e"}))
    try:
        await transport.receive(wait_seconds=0)
    finally:
        await transport.close()


async def edge(url: str) -> None:
    """Probe a URL."""
    async with Prober(sites=[url], per_minute=6000, clock=SystemClock()) as prober:
        await prober.ask(url)


if __name__ == "__main__":
    configure_logging()
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
