"""An emulated CloudFront, and targets that talk to it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import ReadOnlyCredentials

from listener.clock import Clock
from listener.emulator import CloudFrontEmulator, CloudFrontSettings
from listener.emulator.cloudfront import Distribution
from listener.emulator.cloudfront.signature import AccessKey
from listener.refresh import Receipt, RefreshKind
from listener.targets.cloudfront import CloudFront, Settings

KEY = AccessKey("AKIDEXAMPLE", "secret-that-nobody-may-see")
CREDENTIALS = ReadOnlyCredentials(KEY.id, KEY.secret, None)
FIRST = Distribution("EDFDVBD6EXAMPLE")
FILE, DIRECTORY, IGNORE_PARAMS = RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS
BASE = "https://www.example.com"


def make_target(endpoint: str, *, key: ReadOnlyCredentials | None = CREDENTIALS, **settings: Any) -> CloudFront:
    """Return a target that talks to this endpoint."""
    given = {"distribution": FIRST.id, "endpoint_url": endpoint, "answer_seconds": 0.5, **settings}
    return CloudFront("cdn", Settings.model_validate(given), key=key)


@dataclass
class Pair:
    """An emulator and a target."""

    emulator: CloudFrontEmulator
    target: CloudFront

    async def send(self, kind: RefreshKind, *urls: str, token: str = "0" * 32) -> Receipt:
        await self.target.admit(kind, urls)
        return await self.target.submit(kind, urls, force=True, token=token)

    @property
    def paths(self) -> list[str]:
        """Return the paths that the emulator accepted."""
        return [record.path for record in self.emulator.tasks.all()]

    @property
    def charged(self) -> int:
        return self.emulator.account.months.total()

    def order(self, *faults: str) -> None:
        for fault in faults:
            self.emulator.faults.order(self.emulator.table.parse(fault), self.emulator.clock.now())


MakePair = Callable[..., Awaitable[Pair]]


class LoopClock(Clock):
    """The time of the loop, from now on: both share virtual time, and requests are signed with the machine's."""

    def __init__(self) -> None:
        self.began = time.time()

    def now(self) -> float:
        import asyncio

        return self.began + asyncio.get_running_loop().time()


@pytest.fixture
async def make_pair(tmp_path: Path) -> AsyncIterator[MakePair]:
    """Start emulators, each with a target; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def make(*faults: str, emulated: dict[str, Any] | None = None, **settings: Any) -> Pair:
            options = CloudFrontSettings(
                origin=str(tmp_path),
                key=KEY,
                clock=LoopClock(),
                api_port=0,
                edge_port=0,
                faults=tuple(map(CloudFrontEmulator.table.parse, faults)),
                **(emulated or {}),
            )
            emulator = await opened.enter_async_context(CloudFrontEmulator(options))
            target = make_target(emulator.api_url, **settings)
            opened.push_async_callback(target.close)
            return Pair(emulator, target)

        yield make


@pytest.fixture
async def pair(make_pair: MakePair) -> Pair:
    """An emulator with one distribution, and a target with default settings."""
    return await make_pair()
