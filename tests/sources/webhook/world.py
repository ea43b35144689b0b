"""A pipeline whose source is a webhook, an emulator whose origin is a real store, and that store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from listener.alibaba.signature import Credentials
from listener.emulator import Emulator, EmulatorSettings
from listener.refresh import RefreshKind
from listener.sources.webhook import WebhookSettings, WebhookSource
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS
from tests.pipeline.world import MovableClock, World, settings_for
from tests.sources.webhook.hooks import TOKEN


class HookWorld(World):
    """The pipeline's world with a webhook as its source."""

    async def settled(self, *, seconds: float = 60.0) -> None:
        """Wait until nothing is left to do of what was received."""

        async def nothing_left() -> bool:
            if not self.pipeline.intake.idle:
                return False
            counts = await self.store.counts()
            return not any((counts.pending, counts.in_flight, counts.failed))

        await self.until(nothing_left, seconds=seconds)

    async def until_edge(self, key: str, answer: str, *, seconds: float = 60.0) -> None:
        """Wait until the edge answers so for a key."""

        async def is_so() -> bool:
            return await self.get(key) == answer

        await self.until(is_so, seconds=seconds)


@asynccontextmanager
async def a_hook_world(folder: Path, *, origin: str, **settings: Any) -> AsyncIterator[HookWorld]:
    """Run a pipeline that listens for requests and refreshes an emulator in front of ``origin``."""
    clock = MovableClock()
    options = EmulatorSettings(
        origin=origin, credentials=Credentials("testid", "testsecret"), api_port=0, edge_port=0, task_seconds=0.1,
        quota={RefreshKind.FILE: 1000, RefreshKind.DIRECTORY: 20}, clock=clock,
    )  # fmt: skip
    async with Emulator(options) as running:
        table = {"endpoint": running.api_url, "timeouts": {"answer_seconds": 5.0}}
        cdn = AlibabaCdn("cdn", AlibabaCdn.Settings(**table), clock=clock, environment=KEYS)  # type: ignore[arg-type]
        site = {"source": "www", "target": "cdn", "base_urls": [running.edge_url + "/"], "min_interval_seconds": 0}
        world = HookWorld(folder, settings_for(folder, running, {"sites": [site]}), running, cdn)
        world.clock = clock
        given = {"listen": "127.0.0.1:0", "token": TOKEN, **settings}
        world.source = WebhookSource("www", WebhookSettings(**given))  # type: ignore[assignment]
        try:
            async with aiohttp.ClientSession() as world.http:
                await world.start()
                try:
                    await world.until(lambda: world.source.health.ready)
                    yield world
                finally:
                    await world.stop()
        finally:
            await cdn.close()


async def blocking(call: Any, *arguments: Any, **named: Any) -> Any:
    """Await a blocking call."""
    return await asyncio.to_thread(call, *arguments, **named)
