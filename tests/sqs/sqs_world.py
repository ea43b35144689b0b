"""What the tests of the sqs source share: event bodies, a source on a fake queue, and patience."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote_plus

import pytest
from fake_sqs import KEYS, FakeSqs

from listener.contracts import Delivery
from listener.sources.sqs import SqsSource

DEADLINE_SECONDS = 30.0
TRANSPORTS = ["boto3", "aiohttp"]


def s3_event(key: str, name: str = "ObjectCreated:Put", *, bucket: str = "site", **fields: Any) -> str:
    """Return what S3 sends for one object."""
    record = {
        "eventVersion": "2.6",
        "eventSource": "aws:s3",
        "awsRegion": "eu-central-1",
        "eventTime": "2026-11-22T15:13:00.123Z",
        "eventName": name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": quote_plus(key, safe="/"), "size": 5, "eTag": "0123456789abcdef", **fields},
        },
    }
    return json.dumps({"Records": [record]})


TEST_EVENT = json.dumps(
    {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-22T00:00:00Z", "Bucket": "site"}
)


async def until(condition: Callable[[], Any], what: str = "") -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.01)


class Taker:
    """Reads a source as the intake does, and acknowledges when it is told to."""

    def __init__(self, source: SqsSource, *, acks: bool = True) -> None:
        self.source = source
        self.acks = acks
        self.taken: list[Delivery] = []
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for delivery in self.source.deliveries(None):  # type: ignore[arg-type]
            self.taken.append(delivery)
            if self.acks:
                await delivery.ack()

    @property
    def keys(self) -> list[str]:
        """Return the keys of all changes."""
        return [change.key for delivery in self.taken for change in delivery.changes]

    async def stop(self) -> None:
        """End it as the pipeline does."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def reading(
    sqs: FakeSqs, url: str, *, acks: bool = True, name: str = "events", **settings: Any
) -> AsyncIterator[Taker]:
    """Read a queue with a source of our own until the end of the block."""
    table = {"queue_url": url, "region": "eu-central-1", "wait_seconds": 1, "figures_interval_seconds": 0, **settings}
    taker = Taker(SqsSource(name, SqsSource.Settings(**table)), acks=acks)  # type: ignore[arg-type]
    try:
        yield taker
    finally:
        await taker.stop()


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a key, and no machine's configuration."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
