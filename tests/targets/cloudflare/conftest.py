"""An emulated Cloudflare, and targets that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from listener.clock import Clock
from listener.emulator import CloudflareEmulator, CloudflareSettings
from listener.emulator.cloudflare import Zone, parse_zone
from listener.refresh import Receipt, RefreshKind
from listener.targets.cloudflare import Cloudflare, Settings

TOKEN = "token-that-nobody-may-see"
KEYS = {"CLOUDFLARE_API_TOKEN": TOKEN}
EXAMPLE, OTHER = parse_zone("example.com"), parse_zone("example.org")
FILE, DIRECTORY, IGNORE_PARAMS = RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS


def make_target(endpoint: str, *, keys: dict[str, str] | None = None, **settings: Any) -> Cloudflare:
    """Return a target that talks to this endpoint."""
    given = {"endpoint": endpoint, "answer_seconds": 0.5, **settings}
    return Cloudflare("cdn", Settings.model_validate(given), environment=KEYS if keys is None else keys)


@dataclass
class Pair:
    """An emulator and a target."""

    emulator: CloudflareEmulator
    target: Cloudflare

    async def send(self, kind: RefreshKind, *urls: str, force: bool = True) -> Receipt:
        await self.target.admit(kind, urls)
        return await self.target.submit(kind, urls, force=force, token="0" * 32)

    @property
    def purged(self) -> list[tuple[str, str]]:
        """Return what the emulator accepted, by what."""
        return [(record.by, record.path) for record in self.emulator.tasks.all()]  # type: ignore[attr-defined]

    def order(self, *faults: str) -> None:
        for fault in faults:
            self.emulator.faults.order(self.emulator.table.parse(fault), self.emulator.clock.now())


MakePair = Callable[..., Awaitable[Pair]]


class LoopClock(Clock):
    """The time of the loop, as an emulator's clock: both share virtual time."""

    def now(self) -> float:
        import asyncio

        return 1_767_326_400.0 + asyncio.get_running_loop().time()


@pytest.fixture
async def make_pair(tmp_path: Path) -> AsyncIterator[MakePair]:
    """Start emulators, each with a target; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def make(
            *faults: str,
            zones: tuple[Zone, ...] = (EXAMPLE, OTHER),
            keys: dict[str, str] | None = None,
            emulated: dict[str, Any] | None = None,
            **settings: Any,
        ) -> Pair:
            options = CloudflareSettings(
                origin=str(tmp_path),
                token=TOKEN,
                zones=zones,
                clock=LoopClock(),
                api_port=0,
                edge_port=0,
                faults=tuple(map(CloudflareEmulator.table.parse, faults)),
                **(emulated or {}),
            )
            emulator = await opened.enter_async_context(CloudflareEmulator(options))
            target = make_target(emulator.api_url, keys=keys, **settings)
            opened.push_async_callback(target.close)
            return Pair(emulator, target)

        yield make


@pytest.fixture
async def pair(make_pair: MakePair) -> Pair:
    """An emulator with two zones, and a target with default settings."""
    return await make_pair()
