"""An emulated ESA, and targets that talk to it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from listener.alibaba.signature import Credentials
from listener.emulator import EsaEmulator, EsaSettings, parse_site
from listener.refresh import RefreshKind
from listener.targets.alibaba_esa import AlibabaEsa, Settings
from tests.keys import KEYS
from tests.targets.alibaba_cdn.recording_api import StandingClock

FILE, DIRECTORY, IGNORE_PARAMS = RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS
EXAMPLE, OTHER = parse_site("example.com=123456789"), parse_site("example.org=987654321")
DAY_SECONDS = 86_400


def make_target(endpoint: str, *, clock: Any = None, keys: dict[str, str] | None = None, **settings: Any) -> AlibabaEsa:
    """Return a target that talks to this endpoint."""
    given = {"endpoint": endpoint, "site": "example.com", **settings}
    return AlibabaEsa(
        "esa",
        Settings.model_validate(given),
        clock=clock,
        randomness=random.Random(7),
        environment=KEYS if keys is None else keys,
    )


@dataclass
class Pair:
    """An emulator and a target, on one clock."""

    emulator: EsaEmulator
    target: AlibabaEsa
    clock: StandingClock

    async def send(self, kind: RefreshKind, *urls: str) -> tuple[str, ...]:
        """Purge URLs, and return the names of the tasks."""
        await self.target.admit(kind, urls)
        return tuple((await self.target.submit(kind, urls, force=True)).task_ids)

    def order(self, *faults: str) -> None:
        """Inject faults."""
        for fault in faults:
            self.emulator.faults.order(self.emulator.table.parse(fault), self.emulator.clock.now())


MakePair = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def make_pair(tmp_path: Path) -> AsyncIterator[MakePair]:
    """Start emulators, each with a target; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def make(*faults: str, emulated: dict[str, Any] | None = None, **settings: Any) -> Pair:
            clock = StandingClock()
            options = EsaSettings(
                origin=str(tmp_path),
                credentials=Credentials(*KEYS.values()),
                sites=(EXAMPLE, OTHER),
                clock=clock,
                api_port=0,
                edge_port=0,
                faults=tuple(map(EsaEmulator.table.parse, faults)),
                **(emulated or {}),
            )
            emulator = await opened.enter_async_context(EsaEmulator(options))
            target = make_target(emulator.api_url, clock=clock, **settings)
            opened.push_async_callback(target.close)
            return Pair(emulator, target, clock)

        yield make


@pytest.fixture
async def pair(make_pair: MakePair) -> Pair:
    """An emulator with two sites, and a target of the first."""
    return await make_pair()
