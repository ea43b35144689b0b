"""Messages received and not yet acknowledged, and recently acknowledged ones. Time is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from listener.sources.queue.transport import Message

__all__ = ["NEVER", "InFlight", "InFlightMessage"]

REMEMBERED: Final = 20_000
"""Acknowledged ids to keep: what one process reads in several visibility timeouts."""
LONGEST_HIDDEN_SECONDS: Final = 11.5 * 3600
"""SQS hides a message for at most twelve hours after it was received."""
NEVER: Final = float("inf")


@dataclass(slots=True)
class InFlightMessage:
    """One message that was received and is not yet acknowledged."""

    id: str
    handle: str
    receive_count: int
    received_at: float
    """On the caller's clock."""
    hidden_seconds: float
    hidden_until: float


class InFlight:
    """A message is in flight, acknowledged, or unknown; it is delivered once while known."""

    def __init__(self) -> None:
        """Start empty."""
        self._messages: dict[str, InFlightMessage] = {}
        self._acknowledged: dict[str, None] = {}

    def __len__(self) -> int:
        """Return how many messages are not yet acknowledged."""
        return len(self._messages)

    def add(self, message: Message, *, now: float) -> bool:
        """Add a message; return whether it is new. A redelivered one only gets its newer handle."""
        hidden = message.hidden_seconds
        until = NEVER if hidden is None else now + hidden
        old = self._messages.get(message.id)
        if old is None:
            self._messages[message.id] = InFlightMessage(
                message.id, message.handle, message.receive_count, now, hidden or 0.0, until
            )
            return True
        if message.receive_count >= old.receive_count:  # replies of parallel polls may arrive out of order
            old.handle, old.receive_count, old.hidden_until = message.handle, message.receive_count, until
        return False

    def is_acknowledged(self, message_id: str) -> bool:
        """Return whether this message was acknowledged recently: the redelivery carries no news."""
        return message_id in self._acknowledged

    def acknowledge(self, ids: Iterable[str]) -> list[InFlightMessage]:
        """Mark these as acknowledged; return those that were in flight."""
        done = self.release(ids)
        self._acknowledged.update(dict.fromkeys(one.id for one in done))
        while len(self._acknowledged) > REMEMBERED:
            del self._acknowledged[next(iter(self._acknowledged))]
        return done

    def release(self, ids: Iterable[str]) -> list[InFlightMessage]:
        """Remove these; return those that were in flight."""
        return [self._messages.pop(one) for one in ids if one in self._messages]

    def expiring(self, now: float) -> list[InFlightMessage]:
        """Return what other readers would see within half its time unless it is hidden again, and still can be."""
        return [
            one
            for one in self._messages.values()
            if one.hidden_until < now + one.hidden_seconds / 2 and now - one.received_at < LONGEST_HIDDEN_SECONDS
        ]

    def shortest_hidden_seconds(self, default: float) -> float:
        """Return the shortest time for which a message in flight is hidden from other readers."""
        return min((one.hidden_seconds for one in self._messages.values() if one.hidden_seconds), default=default)

    def oldest_seconds(self, now: float) -> float:
        """Return how long the oldest message has been in flight."""
        oldest = next(iter(self._messages.values()), None)
        return now - oldest.received_at if oldest else 0.0
