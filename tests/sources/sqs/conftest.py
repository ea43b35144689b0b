"""Fixtures of the sqs tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from listener.sources.queue import reader
from tests.sources.queue.backends import aws_keys
from tests.sources.sqs.fake_sqs import FakeSqs

__all__ = ["aws_keys"]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for hundredths of a second instead of for up to a minute."""
    monkeypatch.setattr(reader, "LONGEST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(reader, "LONGEST_RETRY_SECONDS", 0.05)


@pytest.fixture
async def sqs(aws_keys: None) -> AsyncIterator[FakeSqs]:
    """A service with a queue called ``events``."""
    async with FakeSqs() as fake:
        fake.queue()
        yield fake


@pytest.fixture
def url(sqs: FakeSqs) -> str:
    """The URL of its queue."""
    return f"{sqs.url}/123456789012/events"
