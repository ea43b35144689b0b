"""The conformance suite runs on both queue services."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from listener.sources.queue import reader
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.queue.backends import Backend, MnsBackend, SqsBackend, aws_keys
from tests.sources.sqs.fake_sqs import FakeSqs

__all__ = ["aws_keys"]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for hundredths of a second instead of up to a minute."""
    for module, name in (
        (reader, "LONGEST_WAIT_SECONDS"),
        (reader, "LONGEST_REST_SECONDS"),
        (reader, "LONGEST_RETRY_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.05)


@pytest.fixture(params=["sqs", "mns"])
async def backend(request: pytest.FixtureRequest, aws_keys: None) -> AsyncIterator[Backend]:
    """A service with one queue."""
    if request.param == "sqs":
        async with FakeSqs() as sqs:
            yield SqsBackend(sqs)
    else:
        async with FakeMns() as mns:
            yield MnsBackend(mns)
