"""State, readiness and metrics of a queue source."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from listener.clock import Clock
from listener.contracts import SourceHealth, SourceState
from listener.sources.queue.transport import Message, QueueError, Remedy

__all__ = ["HealthReporter"]

log = structlog.get_logger()

UNREADY_SECONDS: Final = 60.0
"""Without a reply for this long the source is no longer ready."""
TOLERATED_FAILURES: Final = 2
"""Passing failures in a row that are logged and counted, and do not degrade the source."""


class HealthReporter:
    """Writes the health of a source."""

    def __init__(self, name: str, health: SourceHealth, clock: Clock) -> None:
        """Take the source's name and its health, which outlives this reporter."""
        self._name = name
        self._health = health
        self._clock = clock
        self._last_error = ""
        self._last_reply = clock.now()
        self.failures = 0
        """Failed polls since the last reply."""

    def answered(self, advice: str, *, undeleted: str = "") -> None:
        """Report a reply. ``advice``: what to improve although it works; ``undeleted``: why deletions fail."""
        if self.failures:
            log.info("queue.recovered", source=self._name, failures=self.failures)
        self.failures, self._last_error, self._last_reply = 0, "", self._clock.now()
        self._health.state = SourceState.DEGRADED if undeleted else SourceState.LISTENING
        self._health.ready, self._health.detail = True, undeleted or advice

    def progressed(self) -> None:
        """Report that the permanent poller polls again."""
        self._health.progressed(asyncio.get_running_loop().time())

    def rests(self) -> None:
        """Report that the permanent poller waits on purpose."""
        self._health.rests()

    def failed(self, error: QueueError) -> None:
        """Report a failed poll; log it when it is new, and then after 2, 4, 8… failures."""
        self.failures += 1
        self.count("failed_receives", 1)
        text = error.described
        if text != self._last_error or not self.failures & (self.failures - 1):
            log.warning(
                "queue.receive_failed",
                source=self._name, error=str(error), code=error.code, hint=error.hint, failures=self.failures,
            )  # fmt: skip
        self._last_error = text
        passing = error.remedy is Remedy.WAIT
        if passing and self.failures <= TOLERATED_FAILURES:
            return
        self._health.state, self._health.detail = SourceState.DEGRADED, text
        if not passing or self._clock.now() - self._last_reply > UNREADY_SECONDS:
            self._health.ready = False

    def received(self, messages: Sequence[Message], fresh: Sequence[Message]) -> None:
        """Count received messages; ``fresh`` are those neither in flight nor acknowledged."""
        if not messages:
            return
        now = self._health.last_event_at = self._clock.now()
        self.count("received_messages", len(messages))
        self.count("redelivered_messages", sum(message.receive_count > 1 for message in messages))
        self.count("repeated_messages", len(messages) - len(fresh))
        # A redelivered message waited for its reader, not in the queue.
        lags = [now - one.sent_at for one in fresh if one.receive_count == 1 and one.sent_at is not None]
        if lags:
            self.set(lag_seconds=round(max(0.0, *lags), 3))

    def count(self, name: str, number: float) -> None:
        """Add to a metric."""
        self._health.figures[name] = self._health.figures.get(name, 0) + number
        self._health.changed()

    def set(self, **metrics: float) -> None:
        """Set metrics."""
        self._health.figures.update(metrics)
        self._health.changed()
