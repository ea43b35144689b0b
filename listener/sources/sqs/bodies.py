"""From bodies to changes: what is readable becomes a change, what is not is kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

import structlog

from listener.change import Change
from listener.contracts import Unreadable
from listener.errors import MalformedNotification
from listener.formats import decode
from listener.sources.sqs.transport import Message

__all__ = ["Bodies", "Read"]

log = structlog.get_logger()

NOTES: Final = 100
"""Reasons for ignoring something that are logged, each once; beyond, they are counted only."""
BUCKETS: Final = 20


class Read(NamedTuple):
    """What some messages say."""

    changes: list[Change]
    unreadable: list[Unreadable]
    message_ids: list[str]
    """For each change the id of its message."""


class Bodies:
    """Reads messages of one source."""

    def __init__(self, source: str, *, format: str, buckets: Collection[str], bucket_prefix: bool) -> None:  # noqa: A002
        """Take the source's name, the form of its messages, and the buckets that count (none: all)."""
        self._source = source
        self._format = format
        self._roots = frozenset(buckets) or None
        self._bucket_prefix = bucket_prefix
        self._noted: set[str] = set()
        self.seen_buckets: set[str] = set()
        """Buckets that changes came from, some at most."""
        self.ignored = 0
        self.unreadable = 0

    def read(self, messages: Iterable[Message]) -> Read:
        """Return what these messages say; never raises for what stands in them."""
        changes: list[Change] = []
        unreadable: list[Unreadable] = []
        ids: list[str] = []
        for message in messages:
            body = message.body.encode("utf-8", "surrogatepass")
            try:
                decoded = decode(body, format=self._format, roots=self._roots)
            except MalformedNotification as error:
                unreadable.append(Unreadable(message.id.encode(), body, str(error)))
                continue
            changes += map(self._own, decoded.changes)
            ids += [message.id] * len(decoded.changes)
            if decoded.unreadable:
                unreadable.append(Unreadable(message.id.encode(), body, "; ".join(decoded.unreadable)))
            if decoded.ignored:
                self._note(decoded.ignored, decoded.note)
        self.unreadable += len(unreadable)
        return Read(changes, unreadable, ids)

    def _own(self, change: Change) -> Change:
        """Return the change under this source's name."""
        bucket, key = change[:2]
        if bucket not in self.seen_buckets and len(self.seen_buckets) < BUCKETS:
            self.seen_buckets.add(bucket)
        return Change(self._source, f"{bucket}/{key}" if self._bucket_prefix else key, *change[2:])

    def _note(self, number: int, note: str) -> None:
        self.ignored += number
        if note and note not in self._noted and len(self._noted) < NOTES:
            self._noted.add(note)
            log.info("sqs.ignored", source=self._source, what=note)
