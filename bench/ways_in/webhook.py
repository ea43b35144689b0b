"""
Requests by HTTP: the source with token, decoding, intake and state file, compared with a bare aiohttp handler.

The bare handler is an ``aiohttp.web.Application`` that reads the same body as JSON and answers 204: it checks
nothing and keeps nothing. Senders are one process with a number of connections, each waiting for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping

from aiohttp import web

from bench.ways_in.durable import settings
from listener.pipeline.intake import Intake, StoreRetry
from listener.router.routing import Sites
from listener.sources.webhook import WebhookSettings, WebhookSource
from listener.store import open_store

__all__ = ["measure"]

TOKEN = "0123456789abcdef0123456789abcdef"
CONNECTIONS = (64, 256)
"""Senders at once; as many changes share one commit at most, since each waits for its answer."""
ROUNDS = 3
SENDER = """
import asyncio, json, sys
host, port, token, count, connections, first = sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:7])
def event(n):
    one = {"eventVersion": "2.2", "eventSource": "aws:s3", "awsRegion": "eu-central-1",
        "eventName": "ObjectCreated:Put", "eventTime": "2026-11-22T10:00:00.000Z",
        "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "192.0.2.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG"},
        "s3": {"s3SchemaVersion": "1.0", "configurationId": "cdn", "bucket": {"name": "site",
        "ownerIdentity": {"principalId": "A3NL1KOZZKExample"}, "arn": "arn:aws:s3:::site"},
        "object": {"key": f"section-{n // 100}/page-{n:07d}.html", "size": n, "eTag": f"{n:032x}",
        "sequencer": f"{n:016X}"}}}
    return json.dumps({"Records": [one]}).encode()
async def send(numbers):
    reader, writer = await asyncio.open_connection(host, port)
    for n in numbers:
        body = event(n)
        writer.write(b"POST / HTTP/1.1\\r\\nHost: h\\r\\nContent-Type: application/json\\r\\nUser-Agent: bench\\r\\n"
            b"Authorization: Bearer " + token.encode() + b"\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        assert head.startswith(b"HTTP/1.1 204 "), head
    writer.close()
async def main():
    await asyncio.gather(*(send(range(first + each, first + count, connections)) for each in range(connections)))
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def bare() -> AsyncIterator[str]:
    """Serve a handler that reads JSON and answers."""

    async def answer(request: web.Request) -> web.Response:
        assert (await request.json())["Records"]
        return web.Response(status=204)

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def ours() -> AsyncIterator[str]:
    """Serve the source, with everything up to the state file behind it."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = settings(f"sqlite:///{folder}/state.db")
        source = WebhookSource("events", WebhookSettings(listen="127.0.0.1:0", token=TOKEN))  # type: ignore[arg-type]
        async with open_store(chosen.store.url, owner=True) as store:
            intake = Intake(
                lambda: {"events": source}, store, Sites(chosen.sites), retry=StoreRetry(), committed=lambda: None
            )
            tasks = [asyncio.create_task(intake.read("events")), asyncio.create_task(intake.commit())]
            while not source.health.ready:
                await asyncio.sleep(0.01)
            try:
                yield source.address
            finally:
                assert source.health.figures["accepted"] == source.health.figures["requests"]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def run(
    serve: Callable[[], contextlib.AbstractAsyncContextManager[str]], count: int, connections: int
) -> tuple[float, float]:
    """Send so many requests; return wall and CPU seconds of this process."""
    async with serve() as address:
        host, _, port = address.rpartition(":")
        await sender(host, port, 2 * connections, connections, first=10**6)
        wall, cpu = time.perf_counter(), time.process_time()
        await sender(host, port, count, connections, first=0)
        return time.perf_counter() - wall, time.process_time() - cpu


async def sender(host: str, port: str, count: int, connections: int, *, first: int) -> None:
    """Send from a process of its own."""
    arguments = (host, port, TOKEN, str(count), str(connections), str(first))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SENDER, *arguments)
    assert await process.wait() == 0


async def measure(count: int) -> Mapping[str, float | str]:
    """Measure both in turn, several times, for each number of connections; the figures are medians."""
    figures: dict[str, float | str] = {}
    for connections in CONNECTIONS:
        figures |= await measure_with(count, connections)
    return figures


async def measure_with(count: int, connections: int) -> Mapping[str, float | str]:
    """Measure with so many connections."""
    taken: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for name, serve in (("bare", bare), ("ours", ours)):
            taken[name].append(await run(serve, count, connections))
    wall = {name: statistics.median(one[0] for one in runs) for name, runs in taken.items()}
    cpu = {name: statistics.median(one[1] for one in runs) for name, runs in taken.items()}
    ratios = [bare_cpu / cpu_ for (_, bare_cpu), (_, cpu_) in zip(taken["bare"], taken["ours"], strict=True)]
    found = {
        "requests_per_second": round(count / wall["ours"]),
        "requests_per_cpu_second": round(count / cpu["ours"]),
        "bare_requests_per_second": round(count / wall["bare"]),
        "bare_requests_per_cpu_second": round(count / cpu["bare"]),
        "ratio_cpu": round(cpu["bare"] / cpu["ours"], 3),
        "ratio_cpu_each": json.dumps([round(ratio, 3) for ratio in ratios]),
    }
    return {f"{name}_{connections}_connections": value for name, value in found.items()}
