"""When the daemon reports itself ready to the service manager, and what it reports afterwards. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from listener.contracts import SourceHealth, SourceState
from listener.daemon.systemd import DEGRADED_START_SECONDS, SystemdNotifier
from listener.errors import StoreError
from listener.pipeline.waking import WakeUp


class Recorder:
    """A notify socket that keeps what would be sent."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.sent: list[str] = []

    def ready(self) -> None:
        self.sent.append("READY")

    def more_time(self, seconds: float) -> None:
        self.sent.append("MORE")

    def status(self, text: str) -> None:
        self.sent.append(text)


@asynccontextmanager
async def notifying(**sources: SourceHealth) -> AsyncIterator[tuple[Recorder, Any]]:
    """Report on a pipeline with these sources for as long as the block lasts."""
    intake = SimpleNamespace(
        sources={name: SimpleNamespace(health=health) for name, health in sources.items()}, finished=set()
    )
    changed = WakeUp()
    for health in sources.values():
        health.announce_to(changed.set)
    pipeline = SimpleNamespace(intake=intake, store_trouble=None, ready=False, engines=[], troubles=[], changed=changed)
    recorder = Recorder()
    state = SimpleNamespace(phase="running", pipeline=pipeline, unusable={}, store_error=None)
    task = asyncio.create_task(SystemdNotifier(state, recorder).run())  # type: ignore[arg-type]
    try:
        yield recorder, pipeline
    finally:
        task.cancel()


async def test_a_source_that_is_degraded_for_long_does_not_hold_up_a_boot() -> None:
    """READY after some seconds, with what is missing; a source that was degraded for a moment only ends nothing."""
    health = SourceHealth(SourceState.DEGRADED, detail="/mnt/site does not exist")
    async with notifying(www=health) as (recorder, pipeline):
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


async def test_a_store_that_needs_a_person_does_not_hold_up_a_boot() -> None:
    """READY after some seconds, with the remedy, though the source cannot start without the store."""
    async with notifying(www=SourceHealth(SourceState.STARTING)) as (recorder, pipeline):
        pipeline.store_trouble = StoreError("state.db: damaged", hint="restore a backup")
        await asyncio.sleep(DEGRADED_START_SECONDS - 1)
        assert "READY" not in recorder.sent
        await asyncio.sleep(2)
        ready, status = recorder.sent[-2:]
        assert ready == "READY"
        assert status.startswith("degraded: store: state.db: damaged (restore a backup)")


async def test_a_scan_delays_readiness_also_where_another_source_is_degraded() -> None:
    """As long as one source still scans, the start goes on, and requests more time."""
    scanning = SourceHealth(SourceState.SCANNING)
    waiting = SourceHealth(SourceState.DEGRADED, detail="no queue")
    async with notifying(www=scanning, queue=waiting) as (recorder, _):
        await asyncio.sleep(10 * DEGRADED_START_SECONDS)
        assert "READY" not in recorder.sent
        assert recorder.sent.count("MORE") > 5
        scanning.state, scanning.ready = SourceState.LISTENING, True
        await asyncio.sleep(DEGRADED_START_SECONDS + 1)
        assert recorder.sent[-2:] == ["READY", "degraded: source queue: no queue"]
