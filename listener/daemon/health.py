"""Is the event loop turning, does the store answer, and what keeps the daemon from its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from listener.errors import StoreError
from listener.pipeline import Pipeline
from listener.store import Store

__all__ = ["Finding", "Heart", "Pulse", "findings", "reasons_not_ready", "store_answers"]

BEAT_SECONDS = 0.5
LATE_SECONDS = 5.0
"""A loop this late is stuck: nothing that runs on it takes more than a fraction of a second."""
PULSE_SECONDS = 2.0
STUCK_SECONDS = 30.0
"""A writer that did not answer for so long is stuck: its longest work takes some 50 ms, a slow disk seconds."""


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


class Pulse:
    """Knows when the store's writer answered last."""

    def __init__(self) -> None:
        """Begin well."""
        self._answered = time.monotonic()

    async def beat(self, store: Callable[[], Store | None]) -> None:
        """Ask the present store for ever; while there is none nothing is wrong."""
        while True:
            present = store()
            if present is None or await store_answers(present, STUCK_SECONDS):
                self._answered = time.monotonic()
            await asyncio.sleep(PULSE_SECONDS)

    @property
    def silent_seconds(self) -> float:
        """How long the writer has not answered."""
        return max(0.0, time.monotonic() - self._answered - PULSE_SECONDS)

    @property
    def ok(self) -> bool:
        """Whether the store commits."""
        return self.silent_seconds < STUCK_SECONDS


async def store_answers(store: Store, timeout_seconds: float) -> bool:
    """Return whether the store's writer answers; an error is an answer: a restart would not mend a full disk."""
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
    error = pipeline.store_trouble
    reasons = [] if error is None else [f"store: {error} {error.hint}".strip()]
    for name, source in pipeline.intake.sources.items():
        if not source.health.ready and name not in pipeline.intake.finished:
            reasons.append(f"source {name}: {source.health.detail or source.health.state.value}")
    if not reasons and not pipeline.ready:
        reasons.append("starting")
    return reasons


def findings(pipeline: Pipeline | None, heart: Heart, pulse: Pulse, phase: str) -> list[Finding]:
    """Return every check with its reason."""
    found = [
        Finding("loop", heart.ok, f"{heart.late_seconds:.3f} s late"),
        Finding("writer", pulse.ok, "answers" if pulse.ok else f"silent for {pulse.silent_seconds:.0f} s"),
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
