"""Whatever answers in place of SQS costs bounded memory and time, and the source goes on by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from listener.contracts import SourceState
from listener.sources.sqs import SqsSettings, SqsSource, boto
from listener.sources.sqs.boto import LARGEST_REPLY_BYTES
from tests.sources.queue.backends import reading, s3_event
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)

TYPE = "application/x-amz-json-1.0"
Parts = Callable[[], AsyncIterator[bytes]]


def whole(body: bytes) -> Parts:
    """Return an answer of one part."""

    async def parts() -> AsyncIterator[bytes]:
        yield body

    return parts


async def endless() -> AsyncIterator[bytes]:
    """Answer for ever."""
    while True:
        yield b"x" * 65_536


async def slow() -> AsyncIterator[bytes]:
    """Answer a byte now and then, each well within the time for one read."""
    while True:
        yield b" "
        await asyncio.sleep(0.02)


class Hostile:
    """A server that answers every request with ``parts``."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.sent_bytes = 0
        self.answers = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.answers += 1
        response = web.StreamResponse(headers={"Content-Type": TYPE})
        await response.prepare(request)
        async for part in self.parts():
            await response.write(part)
            self.sent_bytes += len(part)
        return response


@asynccontextmanager
async def hostile(parts: Parts) -> AsyncIterator[Hostile]:
    """Serve until the end of the block."""
    server = Hostile(parts)
    application = web.Application()
    application.router.add_post("/", server.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/123456789012/events"
    try:
        yield server
    finally:
        await runner.cleanup()


def source_at(server: Hostile) -> SqsSource:
    """Return a source that takes the server for SQS."""
    settings = {"queue_url": server.url, "region": "eu-central-1", "wait_seconds": 1, "figures_interval_seconds": 0}
    return SqsSource("events", SqsSettings.model_validate(settings | {"pollers": 1}))


MESSAGE = {"MessageId": "1", "ReceiptHandle": "h", "Body": "{}"}
ANSWERS = {
    "nested": b"[" * 90_000,
    "many objects": b'{"Messages":[' + b"{}," * 200_000 + b"{}]}",
    "no list": b'{"Messages":7}',
    "no id": json.dumps({"Messages": [MESSAGE | {"MessageId": "\ud800"}]}).encode(),
    "no body": json.dumps({"Messages": [MESSAGE | {"Body": 7}]}).encode(),
    "no time": json.dumps({"Messages": [MESSAGE | {"Attributes": [1]}]}).encode(),
    "compressed": b"\x1f\x8b\x08",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_is_no_answer_of_sqs_is_reported(aws_keys: None, name: str) -> None:
    """The source is degraded, says what is wrong, and asks again: no answer ends it."""
    async with (
        hostile(whole(ANSWERS[name])) as server,
        reading(source_at(server)) as taker,
    ):
        health = taker.source.health
        await until(lambda: health.state is SourceState.DEGRADED)
        assert ("objects and lists" if name == "many objects" else "SQS") in health.detail
        answers = server.answers
        await until(lambda: server.answers > answers, "it asks again")
        server.parts = whole(json.dumps({"Messages": [MESSAGE | {"Body": s3_event("a.html")}]}).encode())
        await until(lambda: taker.keys == ["a.html"])


async def test_an_answer_without_end_is_cut_off(aws_keys: None) -> None:
    """No more is read of it than ten messages can have."""
    async with (
        hostile(endless) as server,
        reading(source_at(server)) as taker,
    ):
        health = taker.source.health
        await until(lambda: health.state is SourceState.DEGRADED)
        assert server.sent_bytes / server.answers < 2 * LARGEST_REPLY_BYTES


async def test_an_answer_that_drips_is_cut_off(aws_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of the whole answer, not of each byte: a poll never hangs."""
    monkeypatch.setattr(boto, "REPLY_SECONDS", 0.2)
    async with (
        hostile(slow) as server,
        reading(source_at(server)) as taker,
    ):
        await until(lambda: taker.source.health.state is SourceState.DEGRADED)


async def test_ten_messages_may_hold_many_brackets_each(aws_keys: None) -> None:
    """What stands in the strings of an answer is none of its own objects: such a message blocks no queue."""
    bodies = ["[" * 90_000, *["{" * 20_000] * 9]
    messages = [MESSAGE | {"MessageId": str(at), "Body": body} for at, body in enumerate(bodies)]
    async with (
        hostile(whole(json.dumps({"Messages": messages}).encode())) as server,
        reading(source_at(server)) as taker,
    ):
        await until(lambda: sum(len(one.unreadable) for one in taker.deliveries) == len(bodies))
