"""
OSS events by a queue of MNS: our source beside a bare loop over aiohttp that receives and deletes.

The queue is the fake of the tests, in a process of its own, filled before. Both sign each call, ask for sixteen
messages at a time and delete sixteen at a time, over as many connections; the bare loop finds receipt handles
by a regular expression, reads no message and keeps nothing. Besides, the bare handler of ``webhook``, which reads
JSON a request and keeps nothing either.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from yarl import URL

from listener.alibaba.signature import Credentials, sign_mns
from listener.sources.mns import MnsSettings, MnsSource
from ways_in import webhook
from ways_in.durable import Took, durably

__all__ = ["measure"]

TESTS = Path(__file__).resolve().parents[2] / "tests/mns"
KEY = Credentials("testid", "testsecret")
KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret"}
CONNECTIONS = 4
HANDLER_CONNECTIONS = 64
ROUNDS = 3
QUEUE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from fake_mns import FakeMns
from oss_messages import body_of, event
async def main():
    async with FakeMns() as mns:
        count = int(sys.argv[2])
        await mns.send(*(body_of(event("ObjectCreated:PutObject", f"section-{n // 100}/page-{n:07d}.html"))
            for n in range(count)))
        mns.queue.visibility_seconds = 600
        empty = asyncio.get_running_loop().create_future()
        mns.on_delete = lambda _: len(mns.queue.messages) == 1 and empty.set_result(None)
        print(mns.url, flush=True)
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
async def filled(messages: int) -> AsyncIterator[Filled]:
    """Run a queue with so many messages in it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", QUEUE, str(TESTS), str(messages),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Filled(process, (await process.stdout.readline()).decode().strip())
    finally:
        process.stdin.close()
        await process.wait()


async def call(http: aiohttp.ClientSession, url: str, method: str, resource: str, body: bytes = b"") -> bytes:
    """Make one signed call."""
    headers = sign_mns(method=method, resource=resource, body=body, credentials=KEY, now=time.time())
    async with http.request(method, URL(url + resource, encoded=True), data=body or None, headers=headers) as response:
        return await response.read()


async def receive_and_delete(http: aiohttp.ClientSession, url: str) -> None:
    """Do what any reader must, until the queue is empty."""
    receiving = f"{RESOURCE}?numOfMessages=16&waitseconds=0"
    while handles := HANDLE.findall(await call(http, url, "GET", receiving)):
        await call(http, url, "DELETE", RESOURCE, HEAD + b"".join(handles) + b"</ReceiptHandles>")


async def bare(messages: int) -> Took:
    """Receive and delete; return what it took."""
    async with filled(messages) as queue, aiohttp.ClientSession() as http:
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(receive_and_delete(http, queue.url) for _ in range(CONNECTIONS)), queue.empty())
        return Took(time.perf_counter() - wall, time.process_time() - cpu)


async def ours(messages: int) -> Took:
    """Read the queue into a state file; return what it took."""
    async with filled(messages) as queue:
        settings = MnsSettings(endpoint=queue.url, queue="events", pollers=CONNECTIONS, figures_interval_seconds=0)

        async def started() -> None:
            return None

        source = MnsSource("events", settings, environment=KEYS)
        return await durably(source, keys=messages, started=started, done=queue.empty)


async def measure(messages: int) -> dict[str, float | str]:
    """Measure all in turn, several times; the figures are medians."""
    taken: dict[str, list[Took]] = {"handler": [], "bare": [], "ours": []}
    for _ in range(ROUNDS):
        taken["handler"].append(Took(*await webhook.run(webhook.bare, messages, HANDLER_CONNECTIONS)))
        taken["bare"].append(await bare(messages))
        taken["ours"].append(await ours(messages))
    figures: dict[str, float | str] = {}
    for name, runs in taken.items():
        figures[f"{name}_messages_per_second"] = round(messages / statistics.median(one.wall_seconds for one in runs))
        figures[f"{name}_messages_per_cpu_second"] = round(
            messages / statistics.median(one.cpu_seconds for one in runs)
        )
    for name, peer in (("ratio_cpu", "bare"), ("ratio_cpu_to_handler", "handler")):
        ratios = [p.cpu_seconds / o.cpu_seconds for p, o in zip(taken[peer], taken["ours"], strict=True)]
        figures[name] = round(statistics.median(ratios), 3)
        figures[f"{name}_each"] = json.dumps([round(ratio, 3) for ratio in ratios])
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))))
