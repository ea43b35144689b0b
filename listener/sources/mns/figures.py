"""What a reading of a queue counts and measures; written to the source's health, read by status and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from listener.clock import Clock
from listener.contracts import SourceHealth
from listener.sources.mns.client import QueueClient
from listener.sources.mns.trouble import MnsTrouble
from listener.sources.mns.wire import Message

__all__ = ["Figures"]

log = structlog.get_logger()

NOTABLE_SKEW_SECONDS: Final = 60.0


class Figures:
    """Counts by name, units in the names; they outlive a reading that is started anew, as health does."""

    def __init__(self, name: str, health: SourceHealth, client: QueueClient, *, clock: Clock) -> None:
        """Begin with what was counted so far."""
        self._name = name
        self._health = health
        self._values = health.figures
        self._client = client
        self._clock = clock

    def count(self, name: str, count: int) -> None:
        """Add to a count."""
        self._values[name] = self._values.get(name, 0) + count

    def arrived(self, messages: Sequence[Message]) -> None:
        """Measure what was received: how many messages, how often before, and how long new ones lay in the queue."""
        now = self._clock.now()
        self._health.last_event_at = now
        self.count("received_messages", len(messages))
        again = [message.dequeue_count for message in messages if message.dequeue_count > 1]
        self.count("received_again", len(again))
        self._values["dequeue_count_most"] = max([*again, 1, self._values.get("dequeue_count_most", 1)])
        skew = self._client.clock_skew_seconds or 0.0
        # One that was received before has waited for its reader, not in the queue.
        lags = [now - skew - m.enqueued_at for m in messages if m.dequeue_count == 1 and m.enqueued_at is not None]
        if lags:
            self._values["lag_seconds"] = max(0.0, *lags)

    async def measure(self, every_seconds: float) -> None:
        """Ask the queue how much is in it, for ever; without the permission not again."""
        while True:
            try:
                told = await self._client.attributes()
            except MnsTrouble as trouble:
                if trouble.code == "AccessDenied":
                    log.info("mns.figures_denied", source=self._name, hint="allow mns:GetQueueAttributes")
                    return
            else:
                counts = {name: value for name, value in told._asdict().items() if name.endswith("_messages")}
                self._values.update({name: value for name, value in counts.items() if value is not None})
            self._note_skew()
            await asyncio.sleep(every_seconds)

    def _note_skew(self) -> None:
        skew = self._client.clock_skew_seconds
        if skew is None:
            return
        if abs(skew) > NOTABLE_SKEW_SECONDS >= abs(self._values.get("clock_skew_seconds", 0.0)):
            log.warning("mns.clock_skew", source=self._name, skew_seconds=round(skew), hint="synchronise it (NTP)")
        self._values["clock_skew_seconds"] = round(skew, 3)
