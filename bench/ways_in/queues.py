"""
Events in a queue, SQS or MNS: our source compared with a bare loop that receives and deletes, and does nothing else.

The queue is the fake of the tests, in a process of its own, filled before. Loop and source receive and delete full
batches over as many connections. The bare loop of SQS is boto3 in threads; that of MNS signs each call, finds receipt
handles with a regular expression, and decodes nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import boto3
from yarl import URL

from bench.ways_in.durable import Took, durably
from listener.alibaba.signature import Credentials, sign_mns
from listener.sources.mns import MnsSettings, MnsSource
from listener.sources.queue.source import QueueSource
from listener.sources.sqs import SqsSettings, SqsSource
from tests import ROOT
from tests.keys import KEYS as MNS_KEYS
from tests.sources.queue.backends import AWS_ENVIRONMENT as AWS_KEYS

__all__ = ["measure_mns", "measure_sqs"]

CONNECTIONS = 4
ROUNDS = 3
QUEUE = """
import asyncio, sys
from tests.sources.queue.backends import FakeMns, FakeSqs, MnsBackend, SqsBackend
async def main():
    service = FakeSqs(check_signatures=False) if sys.argv[1] == "sqs" else FakeMns()
    async with service:
        backend = SqsBackend(service) if sys.argv[1] == "sqs" else MnsBackend(service)
        await backend.send(*(f"section-{n // 100}/page-{n:07d}.html" for n in range(int(sys.argv[2]))))
        if sys.argv[1] == "mns":
            service.queue.visibility_seconds = 600
        messages = service.queues["events"].messages
        empty = asyncio.get_running_loop().create_future()
        service.on_delete = lambda _: len(messages) == 1 and empty.set_result(None)
        print(service.url, flush=True)
        await empty
        print("empty", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""
HANDLE = re.compile(rb"<ReceiptHandle>[^<]*</ReceiptHandle>")
HEAD = b'<?xml version="1.0" encoding="utf-8"?><ReceiptHandles xmlns="http://mns.aliyuncs.com/doc/v1/">'
RESOURCE = "/queues/events/messages"


class Filled:
    """A queue in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    async def empty(self) -> None:
        """Wait until every message was deleted."""
        assert self._process.stdout is not None
        assert (await self._process.stdout.readline()).strip() == b"empty"


@asynccontextmanager
async def filled(service: str, messages: int) -> AsyncIterator[Filled]:
    """Run a queue with so many messages in it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", QUEUE, service, str(messages), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Filled(process, (await process.stdout.readline()).decode().strip())
    finally:
        process.stdin.close()
        await process.wait()


def sqs_url(queue: Filled) -> str:
    """Return the URL of the queue."""
    return f"{queue.url}/123456789012/events"


def receive_and_delete(client: Any, url: str) -> None:
    """Do what any reader must, until the queue is empty."""
    while messages := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        entries = [{"Id": str(at), "ReceiptHandle": one["ReceiptHandle"]} for at, one in enumerate(messages)]
        client.delete_message_batch(QueueUrl=url, Entries=entries)


async def bare_sqs(queue: Filled) -> None:
    """Receive and delete with boto3 in threads, the making of the client included."""
    client = boto3.Session().client("sqs", region_name="eu-central-1", endpoint_url=queue.url)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in range(CONNECTIONS):
            pool.submit(receive_and_delete, client, sqs_url(queue))
        await queue.empty()


async def call(http: aiohttp.ClientSession, url: str, method: str, resource: str, body: bytes = b"") -> bytes:
    """Make one signed call."""
    key = Credentials("testid", "testsecret")
    headers = sign_mns(method=method, resource=resource, body=body, credentials=key, now=time.time())
    async with http.request(method, URL(url + resource, encoded=True), data=body or None, headers=headers) as response:
        return await response.read()


async def bare_mns(queue: Filled) -> None:
    """Receive and delete over several connections."""

    async def loop(http: aiohttp.ClientSession) -> None:
        receiving = f"{RESOURCE}?numOfMessages=16&waitseconds=0"
        while handles := HANDLE.findall(await call(http, queue.url, "GET", receiving)):
            await call(http, queue.url, "DELETE", RESOURCE, HEAD + b"".join(handles) + b"</ReceiptHandles>")

    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(loop(http) for _ in range(CONNECTIONS)), queue.empty())


def source_of(service: str, queue: Filled) -> QueueSource[Any]:
    """Return our source of a queue."""
    common = {"pollers": CONNECTIONS, "figures_interval_seconds": 0}
    if service == "sqs":
        url = sqs_url(queue)
        return SqsSource(
            "events",
            SqsSettings(queue_url=url, region="eu-central-1", wait_seconds=1, **common),  # type: ignore[arg-type]
        )
    settings = MnsSettings(endpoint=queue.url, queue="events", **common)  # type: ignore[arg-type]
    return MnsSource("events", settings, environment=MNS_KEYS)


async def bare(service: str, messages: int) -> Took:
    """Receive and delete; return what it took."""
    async with filled(service, messages) as queue:
        wall, cpu = time.perf_counter(), time.process_time()
        await (bare_sqs if service == "sqs" else bare_mns)(queue)
        return Took(time.perf_counter() - wall, time.process_time() - cpu)


async def ours(service: str, messages: int) -> Took:
    """Read the queue into a state file; return what it took."""
    async with filled(service, messages) as queue:

        async def started() -> None:
            return None

        return await durably(source_of(service, queue), keys=messages, started=started, done=queue.empty)


async def measure(service: str, messages: int) -> dict[str, float | str]:
    """Measure both in turn, several times; the figures are medians."""
    os.environ.update(AWS_KEYS)
    taken: dict[str, list[Took]] = {"bare": [], "ours": []}
    for _ in range(ROUNDS):
        for name, run in (("bare", bare), ("ours", ours)):
            taken[name].append(await run(service, messages))
    figures: dict[str, float | str] = {}
    for name, runs in taken.items():
        figures[f"{name}_messages_per_second"] = round(messages / statistics.median(one.wall_seconds for one in runs))
        cpu_seconds = statistics.median(one.cpu_seconds for one in runs)
        figures[f"{name}_messages_per_cpu_second"] = round(messages / cpu_seconds)
    ratios = [peer.cpu_seconds / own.cpu_seconds for peer, own in zip(taken["bare"], taken["ours"], strict=True)]
    return figures | {"ratio_cpu": round(statistics.median(ratios), 3)}


async def measure_sqs(messages: int) -> dict[str, float | str]:
    """Measure SQS."""
    return await measure("sqs", messages)


async def measure_mns(messages: int) -> dict[str, float | str]:
    """Measure MNS."""
    return await measure("mns", messages)
