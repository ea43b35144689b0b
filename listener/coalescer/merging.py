"""Merges two changes of one key into one."""

from __future__ import annotations

from listener.change import Change, ChangeKind

__all__ = ["merge"]

_METADATA = ChangeKind.METADATA


def merge(old: Change, new: Change) -> Change:
    """
    Return one change that says what both say; ``new`` came after ``old``.

    The later one says what the object is now, unless both have order tokens and those say that it was
    overtaken on the way. Three things are kept from the other: new headers do not undo new content (nor
    end a write that was not finished), and an object with headers is not deleted; an older event time
    stays, so that freshness is measured from the first event. An order token stays only where both have one:
    else it would describe something new with old data. Whether the object was known before, the older one knows.
    """
    first, last = (new, old) if _overtaken(old, new) else (old, new)
    kind, finished = last.kind, last.finished
    if kind is _METADATA and first.kind is not _METADATA:
        kind, finished = ChangeKind.CONTENT, first.finished and last.finished
    event_time = _earliest(old.event_time, new.event_time)
    order, mixed = (last.order, last.mixed) if last.order is None is first.order else _order(first, last)
    unchanged = kind is last.kind and finished is last.finished and event_time == last.event_time
    unchanged = unchanged and old.is_birth is last.is_birth
    if unchanged and order is last.order and mixed is last.mixed:
        return last
    return Change(last.root, last.key, kind, last.fingerprint, event_time, order, finished, mixed, old.is_birth)


def _order(first: Change, last: Change) -> tuple[str | None, bool]:
    """Return the token of both, and whether a cache may have fetched between them what neither is now."""
    if first.order is None or last.order is None:
        return None, False
    one, other = first.fingerprint, last.fingerprint
    same = one is not None and other is not None and one.etag is not None and one.etag == other.etag
    return last.order, not same or first.kind is not last.kind or first.mixed or last.mixed


def _overtaken(old: Change, new: Change) -> bool:
    return new.order is not None and old.order is not None and new.order < old.order


def _earliest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
