"""Files that may still be written to: held until they are closed, or rest for a while, or a cap is reached."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from listener.change import Fingerprint

__all__ = ["Unfinished", "Verdict", "found_rest_seconds"]

REPORT_SECONDS = 1.0
"""Most writes end within this time: only one that lasts longer is worth a word of its own."""
FOUND_SECONDS = 1.0
"""A found file's later closing would be reported: to take it as finished too soon costs one refresh, and loses
nothing."""
_MOST = 100_000


def found_rest_seconds(stable_seconds: float) -> float:
    """Return how long a file must rest that was found while its directory is watched."""
    return min(stable_seconds, FOUND_SECONDS)


class Verdict(NamedTuple):
    """What to report of a file now."""

    key: str
    fingerprint: Fingerprint | None
    """``None``: it is gone."""
    finished: bool
    from_event: bool = True
    """False when it was found, and no event shows a writer."""


class _Write:
    __slots__ = ("begun", "changed", "due", "fingerprint", "from_event", "reported")

    def __init__(self, fingerprint: Fingerprint, now: float) -> None:
        self.begun = now
        self.changed = now
        self.due = 0.0
        self.fingerprint = fingerprint
        self.from_event = False
        self.reported = False


class Unfinished:
    """The collection. Pure: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self, *, stable_seconds: float, cap_seconds: float, bound: int = _MOST) -> None:
        """Take a file as finished once it rests ``stable_seconds``, or after ``cap_seconds`` of writing."""
        self._stable = stable_seconds
        self._cap = cap_seconds
        self._bound = bound
        self._writes: dict[str, _Write] = {}
        self._dues: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """How many files are held."""
        return len(self._writes)

    def __contains__(self, key: str) -> bool:
        """Return whether this file is held."""
        return key in self._writes

    def begin(self, key: str, fingerprint: Fingerprint, now: float, *, from_event: bool) -> bool:
        """
        Hold a file; return whether there was room (else it counts as finished).

        ``from_event`` is false for one that was found and need not be written to by anybody: it is
        looked at sooner, and not reported before.
        """
        write = self._writes.get(key)
        if write is None:
            if len(self._writes) >= self._bound:
                return False
            write = self._writes[key] = _Write(fingerprint, now)
        if fingerprint != write.fingerprint:
            write.fingerprint, write.changed = fingerprint, now
        write.from_event = write.from_event or from_event
        self._plan(key, write, now)
        return True

    def _plan(self, key: str, write: _Write, now: float) -> None:
        rest = self._stable if write.from_event else found_rest_seconds(self._stable)
        due = min(write.changed + rest, write.begun + self._cap)
        if write.from_event and not write.reported:
            due = min(due, write.begun + REPORT_SECONDS)
        due = max(due, now)
        if due != write.due:
            write.due = due
            heappush(self._dues, (due, key))

    def end(self, key: str) -> None:
        """Let a file go that was closed, replaced or deleted."""
        self._writes.pop(key, None)

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to look again; ``None`` when nothing is held."""
        while self._dues:
            due, key = self._dues[0]
            write = self._writes.get(key)
            if write is not None and write.due == due:
                return max(0.0, due - now)
            heappop(self._dues)
        return None

    def keys(self, now: float, limit: int) -> list[str]:
        """Return what to look at now; each must then be given to :meth:`looked`."""
        keys: list[str] = []
        while len(keys) < limit and self.next_look(now) == 0:
            keys.append(heappop(self._dues)[1])
            self._writes[keys[-1]].due = 0.0
        return keys

    def looked(self, found: dict[str, Fingerprint | None], now: float) -> Iterator[Verdict]:
        """Yield what to report after a look: written for a while, finished, or gone."""
        for key, fingerprint in found.items():
            write = self._writes.get(key)
            if write is None:
                continue
            if fingerprint is None:
                del self._writes[key]
                yield Verdict(key, None, finished=True)
                continue
            if fingerprint != write.fingerprint:
                write.fingerprint, write.changed, write.from_event = fingerprint, now, True
            rest = self._stable if write.from_event else found_rest_seconds(self._stable)
            if now - write.changed >= rest or now - write.begun >= self._cap:
                del self._writes[key]
                yield Verdict(key, fingerprint, finished=True, from_event=write.from_event)
                continue
            if write.from_event and not write.reported and now - write.begun >= REPORT_SECONDS:
                write.reported = True
                yield Verdict(key, fingerprint, finished=False)
            self._plan(key, write, now)
