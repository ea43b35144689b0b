"""Message bodies to changes and dead letters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import structlog

from listener.change import Change
from listener.contracts import Unreadable
from listener.errors import MalformedNotification
from listener.formats import Decoded, decode
from listener.sources.queue.settings import QueueSettings
from listener.sources.queue.transport import Message

__all__ = ["DecodedMessages", "MessageDecoder"]

log = structlog.get_logger()

MOST_NOTES: Final = 100
"""Reasons for ignoring records that are logged, each once; further ones are only counted."""
MOST_BUCKETS: Final = 20


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
        """Return the change with this source's name as its root."""
        bucket, key = change[:2]
        if bucket not in self.seen_buckets and len(self.seen_buckets) < MOST_BUCKETS:
            self.seen_buckets.add(bucket)
        return Change(self._source, f"{bucket}/{key}" if self._settings.bucket_prefix else key, *change[2:])

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
