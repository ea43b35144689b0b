"""What the source says of itself: is it well, what is wrong, how many."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from listener.clock import Clock
from listener.contracts import SourceHealth, SourceState
from listener.sources.sqs.transport import Message
from listener.sources.sqs.trouble import Remedy, SqsTrouble

__all__ = ["Telling"]

log = structlog.get_logger()

PATIENCE_SECONDS: Final = 60.0
"""So long without an answer is no passing trouble: the source is not ready any more."""
_ATTRIBUTES: Final = {
    "queue_messages": "ApproximateNumberOfMessages",
    "queue_hidden_messages": "ApproximateNumberOfMessagesNotVisible",
    "queue_delayed_messages": "ApproximateNumberOfMessagesDelayed",
}


class Telling:
    """Writes a source's health."""

    def __init__(self, name: str, health: SourceHealth, clock: Clock) -> None:
        """Take whose health it is."""
        self._name = name
        self._health = health
        self._clock = clock
        self._told = ""
        self._last_answer = clock.now()
        self.troubles = 0
        """Failed polls since the last that was answered."""

    def well(self, advice: str, *, undeleted: str = "") -> None:
        """Report that the queue answered; ``advice``: what is wrong all the same; ``undeleted``: why deletions fail."""
        if self.troubles:
            log.info("sqs.answers_again", source=self._name, failures=self.troubles)
        self.troubles, self._told, self._last_answer = 0, "", self._clock.now()
        self._health.state = SourceState.DEGRADED if undeleted else SourceState.LISTENING
        self._health.ready, self._health.detail = True, undeleted or advice

    def progressed(self) -> None:
        """Report that the poller that always waits asks again."""
        self._health.progressed(asyncio.get_running_loop().time())

    def rests(self) -> None:
        """Report that it waits on purpose."""
        self._health.rests()

    def trouble(self, error: SqsTrouble) -> None:
        """Tell that a poll failed: in the health at once, in the log when it is news."""
        self.troubles += 1
        told = f"{error}: {error.hint}" if error.hint else str(error)
        is_power_of_two = not self.troubles & (self.troubles - 1)
        if told != self._told or is_power_of_two:
            log.warning("sqs.trouble", source=self._name, error=str(error), hint=error.hint, failures=self.troubles)
        self._told = told
        self._health.state, self._health.detail = SourceState.DEGRADED, told
        if error.remedy is not Remedy.WAIT or self._clock.now() - self._last_answer > PATIENCE_SECONDS:
            self._health.ready = False

    def received(self, messages: Sequence[Message], fresh: Sequence[Message]) -> None:
        """Count what a poll brought; ``fresh`` are those not seen before."""
        now, figures = self._clock.now(), self._health.figures
        figures["received_messages"] = figures.get("received_messages", 0) + len(messages)
        figures["repeated_messages"] = figures.get("repeated_messages", 0) + len(messages) - len(fresh)
        # A message that was received before was delayed by its reader, not by the queue.
        lags = [now - one.sent_at for one in fresh if one.receive_count == 1 and one.sent_at is not None]
        figures["lag_seconds"] = round(max(0.0, *lags), 3) if lags else 0.0
        if fresh:
            self._health.last_event_at = now

    def figures(self, **figures: float) -> None:
        """Tell these numbers."""
        self._health.figures.update(figures)

    def depth(self, attributes: Mapping[str, str]) -> None:
        """Tell how many messages the queue says it has."""
        for name, attribute in _ATTRIBUTES.items():
            if attributes.get(attribute, "").isdecimal():
                self._health.figures[name] = float(attributes[attribute])
