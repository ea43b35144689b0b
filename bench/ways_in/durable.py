"""The part of the pipeline that makes changes durable, by itself: sources, intake, state file; no CDN."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from listener.contracts import Source
from listener.pipeline.intake import Intake, StoreRetry
from listener.router.routing import Sites
from listener.settings import Settings
from listener.store import open_store


class Took(NamedTuple):
    """What something took."""

    wall_seconds: float
    cpu_seconds: float
    """Of this process, all its threads."""


def settings(url: str) -> Settings:
    """Return settings with one site for the source ``events``."""
    tables: dict[str, Any] = {
        "store": {"url": url},
        "sources": {"events": {"type": "played"}},
        "targets": {"cdn": {"type": "played"}},
        "sites": [{"source": "events", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
    }
    return Settings(**tables)


async def durably(
    source: Source, *, keys: int, started: Callable[[], Awaitable[None]], done: Callable[[], Awaitable[None]]
) -> Took:
    """
    Run a source into a state file; return what it took from ``started`` to ``done``, and demand that all is in it.

    Args:
        source: named ``events``.
        keys: how many distinct keys it brings.
        started: awaited once the source is being read.
        done: awaited after that; returns when the origin knows that all is safe.
    """
    with tempfile.TemporaryDirectory() as folder:
        chosen = settings(f"sqlite:///{folder}/state.db")
        async with open_store(chosen.store.url, owner=True) as store:
            intake = Intake(
                lambda: {"events": source}, store, Sites(chosen.sites), retry=StoreRetry(), committed=lambda: None
            )
            wall, cpu = time.perf_counter(), time.process_time()
            tasks = [asyncio.create_task(intake.read("events")), asyncio.create_task(intake.commit())]
            await started()
            await done()
            took = Took(time.perf_counter() - wall, time.process_time() - cpu)
            counted = (await store.counts()).pending
            assert counted == keys, f"{counted} of {keys} needs in the state file"
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return took
