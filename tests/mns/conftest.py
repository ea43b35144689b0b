"""The fake service, the official SDK on it, and a source that reads it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fake_mns import FakeMns
from mns_client import Sdk

from listener.sources.mns import MnsSource

KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret"}
MakeSource = Callable[..., MnsSource]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waits after failures grow from a twentieth of a second instead of half a one."""
    monkeypatch.setattr("listener.alibaba.sessions.BACK_OFF_SECONDS", 0.05)


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

    def make(environment: dict[str, str] | None = None, **settings: Any) -> MnsSource:
        table = {"endpoint": service.url, "queue": "events", "wait_seconds": 20, **settings}
        return MnsSource(
            "oss",
            MnsSource.Settings(**table),  # type: ignore[arg-type]
            environment=KEYS if environment is None else environment,
            randomness=random.Random(1),
        )

    return make
