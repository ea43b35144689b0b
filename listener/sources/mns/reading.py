"""From messages to a delivery: bodies are read, buckets become roots, what cannot be read goes aside. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from listener.change import Change
from listener.contracts import Delivery, Unreadable
from listener.errors import MalformedNotification
from listener.formats import decode
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.wire import Message

__all__ = ["Read", "Reader"]

log = structlog.get_logger()


class Read(NamedTuple):
    """What messages came to."""

    delivery: Delivery
    ignored: int
    notes: tuple[str, ...]
    """Why records were ignored, each reason once."""


class Reader:
    """Reads bodies as a source's settings say."""

    def __init__(self, name: str, settings: MnsSettings) -> None:
        """Keep what to read for."""
        self._name = name
        self._format = settings.format
        self._buckets = frozenset(settings.buckets) or None
        self._bucket_prefix = settings.bucket_prefix

    def read(self, messages: Sequence[Message], ack: Callable[[], Awaitable[None]]) -> Read:
        """Return one delivery of all these."""
        changes: list[Change] = []
        ids: list[str] = []
        unreadable: list[Unreadable] = []
        notes: dict[str, None] = {}
        ignored = 0
        for message in messages:
            try:
                decoded = decode(message.body, format=self._format, roots=self._buckets)
            except MalformedNotification as error:
                unreadable.append(_aside(message, str(error)))
                continue
            except Exception as error:
                # A mistake of ours in one body must not keep all others from being read, again and again.
                log.exception("mns.reading_broken", source=self._name, message=message.id)
                unreadable.append(_aside(message, f"reading it ended in {type(error).__name__}"))
                continue
            changes += decoded.changes
            ids += [message.id] * len(decoded.changes)
            ignored += decoded.ignored
            if decoded.note:
                notes[decoded.note] = None
            if decoded.unreadable:
                unreadable.append(_aside(message, "; ".join(decoded.unreadable)))
        delivery = Delivery([self._own(change) for change in changes], ack, unreadable=unreadable, message_ids=ids)
        return Read(delivery, ignored, tuple(notes))

    def _own(self, change: Change) -> Change:
        """Return the change under the source's name, which sites go by."""
        key = f"{change.root}/{change.key}" if self._bucket_prefix else change.key
        return change._replace(root=self._name, key=key)


def _aside(message: Message, reason: str) -> Unreadable:
    return Unreadable(message.id.encode(), message.body, reason)
