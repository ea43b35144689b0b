"""When the service manager is notified that the daemon is ready, and what it is told afterwards. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from listener.contracts import SourceHealth, SourceState
from listener.daemon.telling import DEGRADED_START_SECONDS, Teller


class Recorder:
    """A notifier that keeps what it is asked to send."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.sent: list[str] = []

    def ready(self) -> None:
        self.sent.append("READY")

    def more_time(self, seconds: float) -> None:
        self.sent.append("MORE")

    def status(self, text: str) -> None:
        self.sent.append(text)


@asynccontextmanager
async def telling(**sources: SourceHealth) -> AsyncIterator[tuple[Recorder, Any]]:
    """Tell of a pipeline with these sources for as long as the block lasts."""
    intake = SimpleNamespace(
        sources={name: SimpleNamespace(health=health) for name, health in sources.items()}, finished=set()
    )
    pipeline = SimpleNamespace(intake=intake, store_trouble=None, ready=False, engines=[], troubles=[])
    recorder = Recorder()
    life = SimpleNamespace(phase="running", pipeline=pipeline)
    task = asyncio.create_task(Teller(life, recorder).tell())  # type: ignore[arg-type]
    try:
        yield recorder, pipeline
    finally:
        task.cancel()


async def test_a_source_that_is_degraded_for_long_does_not_hold_up_a_boot() -> None:
    """READY after some seconds, with what is missing; a source that was degraded for a moment only ends nothing."""
    health = SourceHealth(SourceState.DEGRADED, detail="/mnt/site does not exist")
    async with telling(www=health) as (recorder, pipeline):
        await asyncio.sleep(DEGRADED_START_SECONDS - 1)
        assert "READY" not in recorder.sent
        health.state = SourceState.SCANNING
        await asyncio.sleep(1)
        health.state = SourceState.DEGRADED
        await asyncio.sleep(DEGRADED_START_SECONDS - 1)
        assert "READY" not in recorder.sent
        await asyncio.sleep(2)
        assert recorder.sent[-2:] == ["READY", "degraded: source www: /mnt/site does not exist"]
        health.state, health.ready, health.detail, pipeline.ready = SourceState.LISTENING, True, "", True
        await asyncio.sleep(1)
        assert recorder.sent[-1] == "running: every source is listening"
        assert recorder.sent.count("READY") == 1


async def test_a_scan_holds_up_the_start_beside_a_degraded_source() -> None:
    """As long as one source still scans, the start goes on, and asks for more time."""
    scanning = SourceHealth(SourceState.SCANNING)
    waiting = SourceHealth(SourceState.DEGRADED, detail="no queue")
    async with telling(www=scanning, queue=waiting) as (recorder, _):
        await asyncio.sleep(10 * DEGRADED_START_SECONDS)
        assert "READY" not in recorder.sent
        assert recorder.sent.count("MORE") > 5
        scanning.state, scanning.ready = SourceState.LISTENING, True
        await asyncio.sleep(DEGRADED_START_SECONDS + 1)
        assert recorder.sent[-2:] == ["READY", "degraded: source queue: no queue"]
