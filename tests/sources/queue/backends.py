"""Both queue services behind one interface, and a consumer: what the conformance suite of queue sources runs on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Protocol
from urllib.parse import quote_plus

import pytest

from listener.sources.mns import MnsSettings, MnsSource
from listener.sources.queue.source import QueueSource
from listener.sources.sqs import SqsSettings, SqsSource
from listener.testing import Follower
from tests.keys import KEYS as MNS_KEYS
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.oss_messages import body_of, event
from tests.sources.sqs.fake_sqs import ACCOUNT, KEYS, FakeSqs


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


AWS_ENVIRONMENT = {
    **KEYS,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
}


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a key, and no machine's configuration."""
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


class Backend(Protocol):
    """A queue service that a test controls, with one queue."""

    batch: int
    visibility_seconds: int

    def source(self, **settings: Any) -> QueueSource[Any]: ...
    async def send(self, *keys: str, bucket: str = "site") -> list[str]: ...
    async def send_body(self, body: str) -> str: ...
    async def advance(self, seconds: float) -> None: ...
    def fail(self, call: str, what: str, times: int = 1_000_000) -> Callable[[], None]: ...
    def fail_entries(self, count: int, *, final: bool = False) -> None: ...
    def count(self, call: str) -> int: ...
    def duplicate(self, share: float) -> None: ...
    def expire_handle(self, message_id: str) -> None: ...
    def shorten_polls(self) -> None: ...
    @property
    def left(self) -> set[str]: ...
    @property
    def hidden(self) -> int: ...
    @property
    def open_polls(self) -> int: ...


class SqsBackend:
    """SQS."""

    batch: ClassVar[int] = 10
    visibility_seconds: ClassVar[int] = 60
    _CALLS: ClassVar = {
        "receive": "ReceiveMessage", "delete": "DeleteMessageBatch", "hide": "ChangeMessageVisibilityBatch",
        "metrics": "GetQueueAttributes",
    }  # fmt: skip
    _FAULTS: ClassVar = {
        "throttled": ("RequestThrottled", 403), "unavailable": ("ServiceUnavailable", 503),
        "denied": ("AccessDenied", 403), "missing": ("AWS.SimpleQueueService.NonExistentQueue", 400),
        "unknown key": ("InvalidClientTokenId", 403), "drop": ("drop", 0), "after": ("after", 0),
    }  # fmt: skip

    def __init__(self, service: FakeSqs) -> None:
        self.service = service
        self.queue_url = f"{service.url}/{ACCOUNT}/events" if "events" in service.queues else service.queue()

    def source(self, **settings: Any) -> SqsSource:
        """Return a source of this queue."""
        table = {"wait_seconds": 1, "figures_interval_seconds": 0, **settings}
        return SqsSource("events", SqsSettings(queue_url=self.queue_url, region="eu-central-1", **table))  # type: ignore[arg-type]

    async def send(self, *keys: str, bucket: str = "site") -> list[str]:
        """Send an event for each key."""
        return [self.service.send(s3_event(key, bucket=bucket)) for key in keys]

    async def send_body(self, body: str) -> str:
        """Send a message."""
        return self.service.send(body)

    async def advance(self, seconds: float) -> None:
        """Move the service's clock."""
        self.service.ahead += seconds

    def fail(self, call: str, what: str, times: int = 1_000_000) -> Callable[[], None]:
        """Let calls fail; return how to end that."""
        code, status = self._FAULTS[what]
        fault = self.service.order(self._CALLS[call], code, times, status=status)
        return lambda: setattr(fault, "left", 0)

    def fail_entries(self, count: int, *, final: bool = False) -> None:
        """Let entries of batch deletions fail."""
        self.service.failing_entries.extend([("ReceiptHandleIsInvalid" if final else "InternalError", final)] * count)

    def count(self, call: str) -> int:
        """Return how many calls were made."""
        return self.service.calls[self._CALLS[call]]

    def duplicate(self, share: float) -> None:
        """Deliver a share of the messages repeatedly, in any order."""
        self.service.doubled, self.service.is_shuffled = share, True

    def expire_handle(self, message_id: str) -> None:
        """Make the message's handle invalid."""
        self.fail_entries(1, final=True)

    def shorten_polls(self) -> None:
        """Reply to polls at once."""
        self.service.holds_requests = False

    @property
    def left(self) -> set[str]:
        """Ids of messages in the queue."""
        return set(self.service.queues["events"].messages)

    @property
    def hidden(self) -> int:
        """How many messages are in flight."""
        return self.service.hidden()

    @property
    def open_polls(self) -> int:
        """How many polls wait at the service."""
        return self.service.open_polls


class MnsBackend:
    """MNS."""

    batch: ClassVar[int] = 16
    visibility_seconds: ClassVar[int] = 30
    _CALLS: ClassVar = {
        "receive": "BatchReceiveMessage", "delete": "BatchDeleteMessage", "hide": "ChangeMessageVisibility",
        "metrics": "GetQueueAttributes",
    }  # fmt: skip
    _FAULTS: ClassVar = {
        "throttled": ("QpsLimitExceeded", 429), "unavailable": ("", 503), "denied": ("AccessDenied", 403),
        "missing": ("QueueNotExist", 404), "unknown key": ("InvalidAccessKeyId", 403), "drop": ("drop", 0),
        "after": ("after", 0),
    }  # fmt: skip

    def __init__(self, service: FakeMns) -> None:
        self.service = service

    def source(self, environment: dict[str, str] | None = None, **settings: Any) -> MnsSource:
        """Return a source of this queue."""
        table = {"queue": "events", "wait_seconds": 20, "figures_interval_seconds": 0, **settings}
        table = {"endpoint": self.service.url} | table
        environment = MNS_KEYS if environment is None else environment
        return MnsSource("events", MnsSettings(**table), environment=environment)

    async def send(self, *keys: str, bucket: str = "site") -> list[str]:
        """Send an event for each key."""
        return await self.service.send(*(body_of(event("ObjectCreated:PutObject", key, bucket=bucket)) for key in keys))

    async def send_body(self, body: str) -> str:
        """Send a message."""
        (message_id,) = await self.service.send(body)
        return message_id

    async def advance(self, seconds: float) -> None:
        """Move the service's clock."""
        await self.service.advance(seconds)

    def fail(self, call: str, what: str, times: int = 1_000_000) -> Callable[[], None]:
        """Let calls fail; return how to end that."""
        code, status = self._FAULTS[what]
        fault = self.service.order(code, status=status, action=self._CALLS[call], times=times)
        return lambda: setattr(fault, "times", 0)

    def fail_entries(self, count: int, *, final: bool = False) -> None:
        """Let entries of batch deletions fail."""
        self.service.failing_deletions = count

    def count(self, call: str) -> int:
        """Return how many calls were made."""
        return self.service.calls[self._CALLS[call]]

    def duplicate(self, share: float) -> None:
        """Deliver a share of the messages repeatedly."""
        self.service.duplicate_share = share

    def expire_handle(self, message_id: str) -> None:
        """Make the message's handle invalid."""
        self.service.queue.messages[message_id].handle = "expired"

    def shorten_polls(self) -> None:
        """Reply to polls at once."""
        self.service.holds_requests = False

    @property
    def left(self) -> set[str]:
        """Ids of messages in the queue."""
        return set(self.service.queue.messages)

    @property
    def hidden(self) -> int:
        """How many messages are in flight."""
        return len(self.service.in_flight)

    @property
    def open_polls(self) -> int:
        """How many polls wait at the service."""
        return self.service.open_polls


class Consumer(Follower):
    """Reads a queue."""

    @property
    def keys(self) -> list[str]:
        """Keys of all changes, in order."""
        return [change.key for change in self.changes]

    def metric(self, name: str) -> float:
        """Return a metric of the source, 0 where there is none."""
        return self.source.health.figures.get(name, 0)

    async def ack_all(self) -> None:
        """Acknowledge what was delivered so far."""
        for delivery in self.deliveries[:]:
            await delivery.ack()


@asynccontextmanager
async def reading(source: QueueSource[Any], *, acks: bool = True) -> AsyncIterator[Consumer]:
    """Read a source, not yet ready, until the end of the block; an error of the source fails the test."""
    consumer = Consumer(source, acknowledges=acks)
    consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def numbered(count: int) -> Iterable[str]:
    """Return so many keys."""
    return (f"{number:04}.html" for number in range(count))
