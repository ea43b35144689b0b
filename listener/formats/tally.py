"""What a message comes to, gathered record by record."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from listener.change import Change, ChangeKind, Fingerprint
from listener.formats.effects import Effect
from listener.formats.reading import Unreadable

__all__ = ["MAX_RECORDS", "Decoded", "Tally"]

MAX_RECORDS: Final = 20_000
"""In one message. SQS batches, Lambda payloads and Event Grid arrays stay far below."""
MAX_UNREADABLE: Final = 10
"""How many of them are reported."""
SHOWN_CHARACTERS: Final = 80
_KINDS: Final = {
    Effect.CONTENT: ChangeKind.CONTENT,
    Effect.METADATA: ChangeKind.METADATA,
    Effect.GONE: ChangeKind.DELETED,
    Effect.REMOVED: ChangeKind.DELETED,
}


class Decoded(NamedTuple):
    """What a message says."""

    changes: tuple[Change, ...]
    """In the order in which they stand; ``root`` is the bucket's name, the key decoded exactly once."""
    ignored: int = 0
    """Records that mean nothing to a cache: tests, restores, tags, parts of uploads, directories, other buckets."""
    note: str = ""
    """Why something was ignored, for the log; for example ``s3:TestEvent``."""
    unreadable: tuple[str, ...] = ()
    """What is wrong with unreadable records among readable ones: the body is kept."""


class Tally:
    """Takes the records of one message; ``roots`` are the buckets that are wanted, ``None`` for all."""

    def __init__(self, roots: Collection[str] | None) -> None:
        """Begin with nothing."""
        self._roots = roots
        self._changes: list[Change] = []
        self._ignored = self._taken = 0
        self._note = ""
        self._unreadable: list[str] = []

    def add(
        self,
        effect: Effect,
        bucket: str,
        key: str,
        fingerprint: Fingerprint | None,
        *,
        event_time: float | None,
        order: str | None = None,
        version: str = "",
    ) -> None:
        """Take what happened to one object; ``version`` is the one that the event names, if it names one."""
        if effect is Effect.NOTHING:
            self.ignore()
        elif self._roots is not None and bucket not in self._roots:
            self.ignore(f"bucket {bucket[:SHOWN_CHARACTERS]!r}")
        elif effect is Effect.REMOVED and version:
            # Whatever version is left shows now, or the one that a deleted marker hid.
            self._changes.append(Change(bucket, key, ChangeKind.CONTENT, None, event_time, order))
        elif effect is Effect.CONTENT or effect is Effect.METADATA:
            self._changes.append(Change(bucket, key, _KINDS[effect], fingerprint, event_time, order))
        else:
            self._changes.append(Change(bucket, key, _KINDS[effect], None, event_time, order))

    def ignore(self, note: str = "") -> None:
        """Count a record that means nothing to a cache."""
        self._ignored += 1
        self._note = self._note or note

    def unknown(self, name: str) -> None:
        """Count an event whose name stands in no table."""
        self.ignore(f"unknown event {name[:SHOWN_CHARACTERS]!r}")

    def each(self, records: object, read: Callable[[Any, Tally], None], what: str, *, of: type | None = dict) -> None:
        """Read every record; one that cannot be read does not take the others with it, nor does one of another type."""
        if not isinstance(records, list):
            raise Unreadable(f"{what} is no list")
        if not records:
            self._note = self._note or "empty"
        self._taken += len(records)
        if self._taken > MAX_RECORDS:
            raise Unreadable(f"more than {MAX_RECORDS} records")
        for at, record in enumerate(records):
            try:
                if of is not None and type(record) is not of:
                    raise Unreadable("is no object")  # noqa: TRY301 - reported like what the reader finds
                read(record, self)
            except Unreadable as error:
                if len(self._unreadable) < MAX_UNREADABLE:
                    self._unreadable.append(f"{what}[{at}] {error}")

    def result(self) -> Decoded:
        """Return what was gathered. Raise :class:`Unreadable` where nothing of it could be read."""
        if self._unreadable and not self._changes and not self._ignored:
            raise Unreadable(self._unreadable[0])
        return Decoded(tuple(self._changes), self._ignored, self._note, tuple(self._unreadable))
