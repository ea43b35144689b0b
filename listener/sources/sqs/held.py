"""Messages that were received and are not durable yet, and those that are, for when they come again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from listener.sources.sqs.transport import Message

__all__ = ["Held", "Holding"]

REMEMBERED: Final = 20_000
"""Ids of durable messages: what one process reads in several visibility times."""
LONGEST_HIDDEN_SECONDS: Final = 11.5 * 3600
"""The service hides a message for twelve hours after it was received, and no longer."""
NEVER: Final = float("inf")


@dataclass(slots=True)
class Holding:
    """One message that was received."""

    id: str
    handle: str
    receive_count: int
    received_at: float
    """On the caller's clock."""
    hidden_until: float


class Held:
    """Every message is in one place: held, or durable, or unknown. Time is an argument."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._held: dict[str, Holding] = {}
        self._durable: dict[str, None] = {}

    def __len__(self) -> int:
        """Return how many messages were received and are not durable."""
        return len(self._held)

    def take(self, message: Message, *, now: float, hidden_seconds: float) -> bool:
        """Hold a message; return whether it is new. One that is held already has a newer handle now, which counts."""
        old = self._held.get(message.id)
        if old is not None:
            if message.receive_count >= old.receive_count:  # answers may overtake one another
                old.handle, old.receive_count = message.handle, message.receive_count
                old.hidden_until = now + hidden_seconds
            return False
        self._held[message.id] = Holding(message.id, message.handle, message.receive_count, now, now + hidden_seconds)
        return True

    def is_durable(self, id: str) -> bool:  # noqa: A002 - the message's own word
        """Return whether this message was made durable not long ago: it came again, and says nothing new."""
        return id in self._durable

    def settle(self, ids: Iterable[str]) -> list[Holding]:
        """Note that these are durable; return what held them."""
        settled = self.release(ids)
        self._durable.update(dict.fromkeys(one.id for one in settled))
        while len(self._durable) > REMEMBERED:
            del self._durable[next(iter(self._durable))]
        return settled

    def release(self, ids: Iterable[str]) -> list[Holding]:
        """Hold these no longer; return what held them."""
        return [self._held.pop(id_) for id_ in ids if id_ in self._held]

    def soon_visible(self, *, before: float, now: float) -> list[Holding]:
        """Return what others would see before this time unless it is hidden anew, and still can be."""
        return [
            one
            for one in self._held.values()
            if one.hidden_until < before and now - one.received_at < LONGEST_HIDDEN_SECONDS
        ]

    def oldest_seconds(self, now: float) -> float:
        """Return for how long the oldest message has been held."""
        return max((now - one.received_at for one in self._held.values()), default=0.0)
