"""
Received messages: which are in flight or were acknowledged recently, and what their bodies say.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from listener.change import Change
from listener.contracts import Unreadable
from listener.errors import MalformedNotification
from listener.formats import Decoded, decode
from listener.sources.queue.settings import QueueSettings
from listener.sources.queue.transport import Message

__all__ = ["NEVER", "DecodedMessages", "InFlight", "InFlightMessage", "MessageDecoder"]

REMEMBERED: Final = 20_000
"""Acknowledged ids to keep: what one process reads in several visibility timeouts."""
LONGEST_HIDDEN_SECONDS: Final = 11.5 * 3600
"""SQS hides a message for at most twelve hours after it was received."""
NEVER: Final = float("inf")

MOST_NOTES: Final = 100
"""Reasons for ignoring records that are logged, each once; further ones are only counted."""
MOST_BUCKETS: Final = 20


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


log = structlog.get_logger()


class DecodedMessages(NamedTuple):
    """The content of some messages."""

    changes: list[Change]
    unreadable: list[Unreadable]
    message_ids: list[str]
    """For each change the id of its message."""


class MessageDecoder:
    """Decodes the messages of one source."""

    def __init__(self, source: str, settings: QueueSettings) -> None:
        """Take the source's name, which is the root of all its changes, and its settings."""
        self._source = source
        self._settings = settings
        self._roots = frozenset(settings.buckets) or None
        self._noted: set[str] = set()
        self.seen_buckets: set[str] = set()
        """Buckets that changes came from, at most :data:`MOST_BUCKETS`."""
        self.ignored = 0
        self.unreadable = 0

    def decode(self, messages: Iterable[Message]) -> DecodedMessages:
        """Return the content of these messages; whatever a body holds, this does not raise."""
        changes: list[Change] = []
        unreadable: list[Unreadable] = []
        ids: list[str] = []
        for message in messages:
            decoded, problem = self._decode(message)
            changes += map(self._own, decoded.changes)
            ids += [message.id] * len(decoded.changes)
            if problem:
                unreadable.append(Unreadable(message.id.encode(), message.body, problem))
            if decoded.ignored:
                self._note(decoded.ignored, decoded.note)
        self.unreadable += len(unreadable)
        return DecodedMessages(changes, unreadable, ids)

    def _decode(self, message: Message) -> tuple[Decoded, str]:
        """Return the content of a body, and why a part of it could not be read."""
        try:
            decoded = decode(message.body, format=self._settings.format, roots=self._roots)
        except MalformedNotification as error:
            return Decoded(()), str(error)
        except Exception as error:
            # A bug in the decoder must not make the queue redeliver this body, and block all others, for ever.
            log.exception("queue.decoder_failed", source=self._source, message=message.id)
            return Decoded(()), f"decoding raised {type(error).__name__}"
        return decoded, "; ".join(decoded.unreadable)

    def _own(self, change: Change) -> Change:
        if change.root not in self.seen_buckets and len(self.seen_buckets) < MOST_BUCKETS:
            self.seen_buckets.add(change.root)
        return self._settings.own(self._source, change)

    def _note(self, number: int, note: str) -> None:
        self.ignored += number
        if note and note not in self._noted and len(self._noted) < MOST_NOTES:
            self._noted.add(note)
            log.info("queue.ignored", source=self._source, reason=note)

    def mixed_buckets(self) -> str:
        """Return advice where keys of several buckets cannot be distinguished; else nothing."""
        if len(self.seen_buckets) < 2 or self._settings.buckets or self._settings.bucket_prefix:
            return ""
        return (
            f"events of several buckets arrive in this queue ({', '.join(sorted(self.seen_buckets))}), and their keys"
            f" cannot be distinguished: set sources.{self._source}.buckets, or bucket_prefix = true"
        )
