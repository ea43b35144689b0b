"""
Fewer changes: what arrives together is merged before it is stored, what is stored waits until it rests.

Deliveries go into an :class:`Inbox`, merged changes come out, and acks with the last of them: a storm costs the store
one row per key, not one per event. A need is due (:func:`due_at`) once its URL was quiet for a while, and at the latest
a while after its first change. All of it is pure; time is an argument.

A lane of the inbox holds what may be merged with one another: live changes make one, each scan, seeding
and backfill makes its own, since what they find is recorded by other rules. A lane is a row of segments; a subtree
change ends a segment, so that it stays after every key change that came before it and before every
one that came later. Within a segment a key stands once::

    lane live:   [ a.html  b.html  img/✗ ] [ img/new.png  a.html ]     ✗ subtree deleted
    lane scan 7: [ c.html  d.html ]

What was handed out stays the taker's: it commits the changes, then calls the acks that came with them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import chain, repeat
from operator import itemgetter
from typing import NamedTuple

from listener.change import Change, ChangeKind
from listener.contracts import Delivery, no_ack
from listener.refresh import Priority
from listener.settings import CoalescerSettings

__all__ = ["Inbox", "Taken", "due_at", "merge"]


_METADATA = ChangeKind.METADATA


Ack = Callable[[], Awaitable[None]]
_SUBTREE, _SUBTREE_DELETED = ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED


class Taken(NamedTuple):
    """What is to be committed together, and what is acknowledged afterwards."""

    changes: list[Change]
    acks: list[Ack]
    """To be called once these changes are durable, each once: their deliveries hold no others."""
    scan_sequence: int | None = None
    seed: bool = False
    priority: Priority = Priority.LIVE
    message_ids: Sequence[str] = ()
    """Of the messages whose changes are all recorded with these."""


class _Waiting:
    """A delivery some of whose changes are still here."""

    __slots__ = ("ack", "entries", "message_ids")

    def __init__(self, ack: Ack, message_ids: Collection[str]) -> None:
        self.ack = ack
        self.message_ids = message_ids
        self.entries = 0


_KEY = itemgetter(0, 1)
_EntryKey = tuple[str, ...]
"""Root and key; of a subtree change also its kind, apart from a key of the same name."""


class _Segment:
    """Merged changes by key, and the deliveries that wait for each of them."""

    __slots__ = ("changes", "waiting")

    def __init__(self) -> None:
        self.changes: dict[_EntryKey, Change] = {}
        self.waiting: dict[_EntryKey, list[_Waiting]] = {}

    def put_new(self, changes: Sequence[Change], waiting: _Waiting | None) -> bool:
        """Take these changes if each is the first of its key; return whether they were taken."""
        new: dict[_EntryKey, Change] = dict(zip(map(_KEY, changes), changes, strict=True))
        if len(new) < len(changes) or not self.changes.keys().isdisjoint(new):
            return False
        self.changes.update(new)
        if waiting is not None:
            alone = [waiting]
            self.waiting.update(dict.fromkeys(new, alone))
            waiting.entries += len(new)
        return True

    def put(self, key: _EntryKey, change: Change, waiting: _Waiting | None) -> bool:
        """Merge a change into what is here of its key; return whether that is the first."""
        old = self.changes.get(key)
        self.changes[key] = change if old is None else merge(old, change)
        if waiting is not None:
            held = self.waiting.get(key, [])
            if not held or held[-1] is not waiting:
                if len(held) < 2:
                    self.waiting[key] = [*held, waiting]  # a list of one may be that of other keys, too
                else:
                    held.append(waiting)
                waiting.entries += 1
        return old is None


_LaneKey = tuple[bool, int | None, Priority]
"""Whether it seeds, the sequence of its scan, and its priority."""


class _Lane:
    """Segments in order; the oldest is being handed out, the newest takes what arrives."""

    __slots__ = ("keys", "leaving", "segments", "waiting")

    def __init__(self) -> None:
        self.leaving: list[Change] = []
        self.keys: list[_EntryKey] = []
        """Of what is leaving."""
        self.waiting: dict[_EntryKey, list[_Waiting]] = {}
        """Likewise."""
        self.segments: deque[_Segment] = deque([_Segment()])

    def put(self, changes: Sequence[Change], waiting: _Waiting | None) -> int:
        """Merge these changes into what is here; return how many keys are new."""
        kinds = [change[2] for change in changes]
        plain = _SUBTREE not in kinds and _SUBTREE_DELETED not in kinds
        if plain and self.segments[-1].put_new(changes, waiting):
            return len(changes)
        return sum(self._put(change, waiting) for change in changes)

    def _put(self, change: Change, waiting: _Waiting | None) -> bool:
        last = self.segments[-1]
        if change.kind is not _SUBTREE and change.kind is not _SUBTREE_DELETED:
            return last.put(change[:2], change, waiting)
        key = change[:3]
        if not last.changes and len(self.segments) > 1:
            before = self.segments[-2]
            if next(reversed(before.changes)) == key:
                return before.put(key, change, waiting)
        self.segments.append(_Segment())
        return last.put(key, change, waiting)

    def take(self, most: int) -> tuple[list[Change], list[_Waiting]]:
        """Remove and return the oldest changes, ``most`` at most, and for each the deliveries that wait for it."""
        changes: list[Change] = []
        waiting: list[_Waiting] = []
        while len(changes) < most and (self.leaving or self._next_segment()):
            count = min(most - len(changes), len(self.leaving))
            changes += self.leaving[:count]
            if self.waiting:
                waiting += chain.from_iterable(map(self.waiting.pop, self.keys[:count], repeat(())))
            del self.leaving[:count], self.keys[:count]
        return changes, waiting

    def _next_segment(self) -> bool:
        segment = self.segments.popleft()
        self.keys, self.leaving, self.waiting = list(segment.changes), list(segment.changes.values()), segment.waiting
        if not self.segments:
            self.segments.append(_Segment())
        return bool(self.leaving)

    @property
    def empty(self) -> bool:
        return not self.leaving and not any(segment.changes for segment in self.segments)


class Inbox:
    """
    Merges what arrives between two commits.

    ``full`` makes the feeder wait: it turns true at ``max_changes`` changes and acks held, and a
    delivery that is already here is taken whole.
    """

    def __init__(self, *, max_changes: int = 100_000) -> None:
        """Hold about this many changes at most."""
        self._max = max_changes
        self._lanes: dict[_LaneKey, _Lane] = {}
        self._nothing_to_wait_for: list[Ack] = []
        self._entries = 0
        self._acks = 0

    def __len__(self) -> int:
        """Return how many changes wait to be taken."""
        return self._entries

    @property
    def full(self) -> bool:
        """True while nothing more should be added."""
        return self._entries + self._acks >= self._max

    @property
    def idle(self) -> bool:
        """True while there is nothing to take, no ack either."""
        return not self._entries and not self._nothing_to_wait_for

    def add(self, delivery: Delivery) -> None:
        """Merge a delivery into what is here."""
        waiting = None if delivery.ack is no_ack else _Waiting(delivery.ack, dict.fromkeys(delivery.message_ids))
        if delivery.changes:
            self._put(delivery, waiting)
        if waiting is not None:
            self._acks += 1
            if not waiting.entries:
                self._nothing_to_wait_for.append(waiting.ack)

    def _put(self, delivery: Delivery, waiting: _Waiting | None) -> None:
        key = (delivery.seed, delivery.scan_sequence, delivery.priority)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        self._entries += lane.put(delivery.changes, waiting)

    def take(self, max_keys: int) -> Taken:
        """Remove and return the oldest changes of one lane, ``max_keys`` at most; lanes take turns."""
        acks, self._nothing_to_wait_for = self._nothing_to_wait_for, []
        message_ids: list[str] = []
        seed, scan_sequence, priority = lane_key = self._next_lane()
        changes, held = self._from_lane(lane_key, max_keys)
        for waiting, count in Counter(held).items():
            waiting.entries -= count
            if not waiting.entries:
                acks.append(waiting.ack)
                message_ids += waiting.message_ids
        self._entries -= len(changes)
        self._acks -= len(acks)
        return Taken(changes, acks, scan_sequence, seed, priority, tuple(message_ids))

    def _next_lane(self) -> _LaneKey:
        return next(iter(self._lanes), (False, None, Priority.LIVE))

    def _from_lane(self, key: _LaneKey, max_keys: int) -> tuple[list[Change], list[_Waiting]]:
        lane = self._lanes.pop(key, None)
        if lane is None:
            return [], []
        taken = lane.take(max_keys)
        if not lane.empty:
            self._lanes[key] = lane
        return taken


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


def due_at(*, first: float, last: float, finished: bool, settings: CoalescerSettings) -> float:
    """
    Return when a need is due, in the seconds that ``first`` and ``last`` are given in.

    ``first`` is the first change of its window, ``last`` the newest: quiet time after the last,
    but no later than the cap after the first, so that what never rests is refreshed all the same.
    """
    if finished:
        return min(last + settings.quiet_seconds, first + settings.cap_seconds)
    return min(last + settings.unfinished_quiet_seconds, first + settings.unfinished_cap_seconds)
