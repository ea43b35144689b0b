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

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
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


class _Entry:
    """A key's merged change, and the deliveries that wait for it."""

    __slots__ = ("change", "waiting")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.waiting: list[_Waiting] | None = None

    def hold(self, waiting: _Waiting) -> None:
        """Let the delivery wait for this entry too."""
        if self.waiting is None:
            self.waiting = [waiting]
        elif self.waiting[-1] is waiting:
            return
        else:
            self.waiting.append(waiting)
        waiting.entries += 1


_Segment = dict[tuple[str, ...], _Entry]
"""By root and key; a subtree change also by its kind, apart from a key of the same name."""


_LaneKey = tuple[bool, int | None, Priority]
"""Whether it seeds, the sequence of its scan, and its priority."""


class _Lane:
    """Segments in order; the oldest is being handed out, the newest takes what arrives."""

    __slots__ = ("leaving", "segments")

    def __init__(self) -> None:
        self.leaving: deque[_Entry] = deque()
        self.segments: deque[_Segment] = deque([{}])

    def put(self, change: Change) -> tuple[_Entry, bool]:
        """Merge the change into its entry; return that, and whether it is new."""
        kind = change.kind
        if kind is _SUBTREE or kind is _SUBTREE_DELETED:
            return self._put_subtree(change)
        segment, key = self.segments[-1], change[:2]
        entry = segment.get(key)
        if entry is None:
            entry = segment[key] = _Entry(change)
            return entry, True
        entry.change = merge(entry.change, change)
        return entry, False

    def _put_subtree(self, change: Change) -> tuple[_Entry, bool]:
        if not self.segments[-1] and len(self.segments) > 1:
            last = next(reversed(self.segments[-2].values()))
            if last.change[:3] == change[:3]:
                last.change = merge(last.change, change)
                return last, False
        entry = self.segments[-1][change[:3]] = _Entry(change)
        self.segments.append({})
        return entry, True

    def take(self, most: int) -> list[_Entry]:
        """Remove and return the oldest entries, ``most`` at most."""
        taken: list[_Entry] = []
        while len(taken) < most and (self.leaving or self._next_segment()):
            count = min(most - len(taken), len(self.leaving))
            taken += [self.leaving.popleft() for _ in range(count)]
        return taken

    def _next_segment(self) -> bool:
        self.leaving.extend(self.segments.popleft().values())
        if not self.segments:
            self.segments.append({})
        return bool(self.leaving)

    @property
    def empty(self) -> bool:
        return not self.leaving and not any(self.segments)


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
        for change in delivery.changes:
            entry, new = lane.put(change)
            self._entries += new
            if waiting is not None:
                entry.hold(waiting)

    def take(self, max_keys: int) -> Taken:
        """Remove and return the oldest changes of one lane, ``max_keys`` at most; lanes take turns."""
        acks, self._nothing_to_wait_for = self._nothing_to_wait_for, []
        changes: list[Change] = []
        message_ids: list[str] = []
        seed, scan_sequence, priority = lane_key = self._next_lane()
        for entry in self._from_lane(lane_key, max_keys):
            changes.append(entry.change)
            for waiting in entry.waiting or ():
                waiting.entries -= 1
                if not waiting.entries:
                    acks.append(waiting.ack)
                    message_ids += waiting.message_ids
        self._entries -= len(changes)
        self._acks -= len(acks)
        return Taken(changes, acks, scan_sequence, seed, priority, tuple(message_ids))

    def _next_lane(self) -> _LaneKey:
        return next(iter(self._lanes), (False, None, Priority.LIVE))

    def _from_lane(self, key: _LaneKey, max_keys: int) -> list[_Entry]:
        lane = self._lanes.pop(key, None)
        if lane is None:
            return []
        entries = lane.take(max_keys)
        if not lane.empty:
            self._lanes[key] = lane
        return entries


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
