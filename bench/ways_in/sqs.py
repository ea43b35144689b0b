"""
S3 events by a queue: our source beside a bare loop that receives and deletes, and does nothing else.

The queue is the fake of the tests, in a process of its own, filled before. Both the loop and the source ask
for ten messages at a time over as many connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import boto3

from listener.sources.sqs import SqsSettings, SqsSource
from ways_in.durable import Took, durably

TESTS = Path(__file__).resolve().parents[2] / "tests/sqs"
KEYS = {"AWS_ACCESS_KEY_ID": "testid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_EC2_METADATA_DISABLED": "true"}
CONNECTIONS = 4
ROUNDS = 3
QUEUE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from fake_sqs import FakeSqs
from sqs_world import s3_event
async def main():
    async with FakeSqs(check_signatures=False) as sqs:
        url = sqs.queue()
        for number in range(int(sys.argv[2])):
            sqs.send(s3_event(f"section-{number // 100}/page-{number:07d}.html"))
        empty = asyncio.get_running_loop().create_future()
        queue = sqs.queues["events"].messages
        sqs.on_delete = lambda _: len(queue) == 1 and empty.set_result(None)
        print(url, flush=True)
        await empty
        print("empty", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


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


def receive_and_delete(client: Any, url: str) -> None:
    """Do what any reader must, until the queue is empty."""
    while messages := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        entries = [{"Id": str(at), "ReceiptHandle": one["ReceiptHandle"]} for at, one in enumerate(messages)]
        client.delete_message_batch(QueueUrl=url, Entries=entries)


async def bare(messages: int) -> Took:
    """Receive and delete with boto3 in threads; return what it took, the client's making included."""
    async with filled(messages) as queue:
        origin = queue.url.partition("/123456789012")[0]
        wall, cpu = time.perf_counter(), time.process_time()
        client = boto3.Session().client("sqs", region_name="eu-central-1", endpoint_url=origin)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in range(CONNECTIONS):
                pool.submit(receive_and_delete, client, queue.url)
            await queue.empty()
            return Took(time.perf_counter() - wall, time.process_time() - cpu)


async def ours(messages: int, transport: str) -> Took:
    """Read the queue into a state file; return what it took, the client's making included."""
    async with filled(messages) as queue:
        settings = SqsSettings(
            queue_url=queue.url, region="eu-central-1", transport=transport, pollers=CONNECTIONS, wait_seconds=1
        )  # type: ignore[arg-type]

        async def started() -> None:
            return None

        return await durably(SqsSource("events", settings), keys=messages, started=started, done=queue.empty)


async def measure(messages: int) -> dict[str, float | str]:
    """Return messages per second and per CPU second of each, and how they compare."""
    os.environ.update(KEYS)
    rounds: dict[str, list[Took]] = {"bare": [], "boto3": [], "aiohttp": []}
    for _ in range(ROUNDS):  # by turns, since the machine is shared
        rounds["bare"].append(await bare(messages))
        for transport in ("boto3", "aiohttp"):
            rounds[transport].append(await ours(messages, transport))
    took = {name: Took(*map(median, zip(*each, strict=True))) for name, each in rounds.items()}
    figures: dict[str, float | str] = {}
    for name, one in took.items():
        figures[f"{name}_messages_per_second"] = round(messages / one.wall_seconds)
        figures[f"{name}_messages_per_cpu_second"] = round(messages / one.cpu_seconds)
    figures["ratio_boto3_to_bare"] = round(took["bare"].cpu_seconds / took["boto3"].cpu_seconds, 2)
    figures["ratio_aiohttp_to_boto3"] = round(took["boto3"].cpu_seconds / took["aiohttp"].cpu_seconds, 2)
    return figures


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))))
