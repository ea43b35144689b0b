"""Is the event loop turning, does the store answer, and what keeps the daemon from its work."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from listener.errors import StoreError
from listener.pipeline import Pipeline
from listener.store import Store

__all__ = ["Finding", "Heart", "findings", "reasons_not_ready", "store_answers"]

BEAT_SECONDS = 0.5
LATE_SECONDS = 5.0
"""A loop this late is stuck: nothing that runs on it takes more than a fraction of a second."""


class Finding(NamedTuple):
    """One line of ``/healthz``."""

    name: str
    ok: bool
    reason: str


class Heart:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        """Begin on time."""
        self._last = time.monotonic()
        self.late_seconds = 0.0
        """How late the last beat was."""

    async def beat(self) -> None:
        """Beat for ever."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)
            self.late_seconds = max(0.0, time.monotonic() - self._last - BEAT_SECONDS)

    @property
    def ok(self) -> bool:
        """Whether the loop turns."""
        return self.late_seconds < LATE_SECONDS and time.monotonic() - self._last < LATE_SECONDS + BEAT_SECONDS


async def store_answers(store: Store, timeout_seconds: float) -> bool:
    """Tell whether the store's writer answers; an error is an answer: a restart would not mend a full disk."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await store.look_again([])
    except TimeoutError:
        return False
    except StoreError:
        return True
    return True


def reasons_not_ready(pipeline: Pipeline | None, phase: str) -> list[str]:
    """Return why not every change is seen at present, a sentence each; empty when every one is."""
    if pipeline is None or phase != "running":
        return [phase]
    reasons = [f"store: {error}" for error in [pipeline.store_trouble] if error is not None]
    for name, source in pipeline.intake.sources.items():
        if not source.health.ready and name not in pipeline.intake.finished:
            reasons.append(f"source {name}: {source.health.detail or source.health.state.value}")
    if not reasons and not pipeline.ready:
        reasons.append("starting")
    return reasons


def findings(pipeline: Pipeline | None, heart: Heart, phase: str) -> list[Finding]:
    """Return every check with its reason."""
    found = [
        Finding("loop", heart.ok, f"{heart.late_seconds:.3f} s late"),
        Finding("phase", phase == "running", phase),
    ]
    if pipeline is None:
        return found
    error = pipeline.store_trouble
    found.append(Finding("store", error is None, "commits" if error is None else str(error)))
    for name, source in pipeline.intake.sources.items():
        health = source.health
        ok = health.ready and not health.detail
        found.append(Finding(f"source {name}", ok, health.detail or health.state.value))
    for engine in pipeline.engines:
        reason = engine.account.closed_reason
        found.append(Finding(f"account {engine.account.name}", not reason, reason or "open"))
    return found
