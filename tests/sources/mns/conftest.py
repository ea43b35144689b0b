"""The fake service, the official SDK on it, and a source that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from listener.sources.mns import MnsSource
from listener.sources.queue import reader
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.sdk import Sdk
from tests.sources.queue.backends import MnsBackend

MakeSource = Callable[..., MnsSource]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for hundredths of a second instead of up to a minute."""
    monkeypatch.setattr(reader, "LONGEST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(reader, "LONGEST_RETRY_SECONDS", 0.05)


@pytest.fixture
async def service() -> AsyncIterator[FakeMns]:
    """Run the fake."""
    async with FakeMns() as running:
        yield running


@pytest.fixture
def sdk(service: FakeMns) -> Iterator[Sdk]:
    """Give the official SDK's view of the queue."""
    client = Sdk(service.url)
    yield client
    client.close()


@pytest.fixture
def make_source(service: FakeMns) -> MakeSource:
    """Return a maker of sources that read the fake's queue."""
    return MnsBackend(service).source
