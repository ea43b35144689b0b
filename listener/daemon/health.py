"""Whether the event loop runs, whether the store answers, and what keeps the daemon from its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from listener.contracts import SourceState
from listener.errors import StoreError
from listener.pipeline import Pipeline
from listener.store import Store

__all__ = [
    "HealthCheck",
    "LoopMonitor",
    "WriterMonitor",
    "health_checks",
    "reasons_degraded",
    "reasons_not_ready",
    "store_answers",
]

LOOP_SECONDS = 0.5
LATE_SECONDS = 5.0
"""A loop this late is blocked: nothing that runs on it takes more than a fraction of a second."""
WRITER_SECONDS = 2.0
STUCK_SECONDS = 30.0
"""A writer that does not answer for so long is stuck: its longest work takes some 50 ms, a slow disk seconds."""


class HealthCheck(NamedTuple):
    """One line of ``/healthz``."""

    name: str
    ok: bool
    reason: str


class LoopMonitor:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        """Start on time."""
        self._last = time.monotonic()
        self.late_seconds = 0.0
        """How late the last measurement was."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(LOOP_SECONDS)
            self.late_seconds = max(0.0, time.monotonic() - self._last - LOOP_SECONDS)

    @property
    def ok(self) -> bool:
        """Whether the loop runs."""
        return self.late_seconds < LATE_SECONDS and time.monotonic() - self._last < LATE_SECONDS + LOOP_SECONDS


class WriterMonitor:
    """Measures how long ago the store's writer answered."""

    def __init__(self) -> None:
        """Start as answered."""
        self._answered = time.monotonic()

    async def run(self, store: Callable[[], Store | None]) -> None:
        """Query the current store until cancelled; without a store nothing is wrong."""
        while True:
            present = store()
            if present is None or await store_answers(present, STUCK_SECONDS):
                self._answered = time.monotonic()
            await asyncio.sleep(WRITER_SECONDS)

    @property
    def silent_seconds(self) -> float:
        """For how long the writer has not answered."""
        return max(0.0, time.monotonic() - self._answered - WRITER_SECONDS)

    @property
    def ok(self) -> bool:
        """Whether the store commits."""
        return self.silent_seconds < STUCK_SECONDS


async def store_answers(store: Store, timeout_seconds: float) -> bool:
    """Return whether the store's writer answers; an error is an answer: a restart would not repair a full disk."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await store.look_again([])
    except TimeoutError:
        return False
    except StoreError:
        return True
    return True


def reasons_not_ready(pipeline: Pipeline | None, phase: str) -> list[str]:
    """Return why changes may be missed at present, a sentence each; empty when none is."""
    if pipeline is None or phase != "running":
        return [phase]
    error = pipeline.store_trouble
    reasons = [] if error is None else [f"store: {error} {error.hint}".strip()]
    for name, source in pipeline.intake.sources.items():
        if not source.health.ready and name not in pipeline.intake.finished:
            reasons.append(f"source {name}: {source.health.detail or source.health.state.value}")
    if not reasons and not pipeline.ready:
        reasons.append("starting")
    return reasons


def reasons_degraded(pipeline: Pipeline | None) -> list[str]:
    """Return what sources that listen cannot see or do at present, a sentence each."""
    if pipeline is None:
        return []
    sources = {name: source.health for name, source in pipeline.intake.sources.items()}
    return [
        f"source {name}: {health.detail or health.state.value}"
        for name, health in sources.items()
        if health.ready and health.state is SourceState.DEGRADED
    ]


def health_checks(pipeline: Pipeline | None, loop: LoopMonitor, writer: WriterMonitor, phase: str) -> list[HealthCheck]:
    """Return every check with its reason."""
    found = [
        HealthCheck("loop", loop.ok, f"{loop.late_seconds:.3f} s late"),
        HealthCheck("writer", writer.ok, "answers" if writer.ok else f"silent for {writer.silent_seconds:.0f} s"),
        HealthCheck("phase", phase == "running", phase),
    ]
    if pipeline is None:
        return found
    error = pipeline.store_trouble
    found.append(HealthCheck("store", error is None, "commits" if error is None else str(error)))
    for name, source in pipeline.intake.sources.items():
        health = source.health
        ok = health.ready and not health.detail
        found.append(HealthCheck(f"source {name}", ok, health.detail or health.state.value))
    for engine in pipeline.engines:
        reason = engine.account.closed_reason
        found.append(HealthCheck(f"account {engine.account.name}", not reason, reason or "open"))
    return found
