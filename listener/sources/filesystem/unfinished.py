"""Files that may still be written to: held until they are closed, or rest for a while, or a cap is reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from listener.change import Fingerprint

__all__ = ["Unfinished", "Verdict"]

TELL_SECONDS = 1.0
"""Most writes end within this time: only one that lasts longer is worth a word of its own."""
_LOOK_SECONDS = 0.5
_MOST = 100_000


class Verdict(NamedTuple):
    """What to tell of a file now."""

    key: str
    fingerprint: Fingerprint | None
    """``None``: it is gone."""
    finished: bool


class _Write:
    __slots__ = ("begun", "changed", "fingerprint", "told")

    def __init__(self, fingerprint: Fingerprint, now: float) -> None:
        self.begun = now
        self.changed = now
        self.fingerprint = fingerprint
        self.told = False


class Unfinished:
    """The collection. Pure: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self, *, stable_seconds: float, cap_seconds: float, bound: int = _MOST) -> None:
        """Take a file as finished once it rests ``stable_seconds``, or after ``cap_seconds`` of writing."""
        self._stable = stable_seconds
        self._cap = cap_seconds
        self._bound = bound
        self._writes: dict[str, _Write] = {}
        self._next_look = 0.0

    def __len__(self) -> int:
        """How many files are held."""
        return len(self._writes)

    def begin(self, key: str, fingerprint: Fingerprint, now: float) -> bool:
        """Hold a file that is being written; tell whether there was room (else it counts as finished)."""
        write = self._writes.get(key)
        if write is None:
            if len(self._writes) >= self._bound:
                return False
            write = self._writes[key] = _Write(fingerprint, now)
        if fingerprint != write.fingerprint:
            write.fingerprint, write.changed = fingerprint, now
        return True

    def end(self, key: str) -> None:
        """Let a file go that was closed, replaced or deleted."""
        self._writes.pop(key, None)

    def next_look(self, now: float) -> float | None:
        """Return in how many seconds to look again; ``None`` when nothing is held."""
        return max(0.0, self._next_look - now) if self._writes else None

    def keys(self, now: float) -> list[str]:
        """Return what to look at now."""
        if now < self._next_look:
            return []
        self._next_look = now + min(_LOOK_SECONDS, self._stable or _LOOK_SECONDS)
        return list(self._writes)

    def looked(self, found: dict[str, Fingerprint | None], now: float) -> Iterator[Verdict]:
        """Yield what to tell after a look: written for a while, finished, or gone."""
        for key, fingerprint in found.items():
            write = self._writes.get(key)
            if write is None:
                continue
            if fingerprint is None:
                del self._writes[key]
                yield Verdict(key, None, finished=True)
                continue
            if fingerprint != write.fingerprint:
                write.fingerprint, write.changed = fingerprint, now
            if now - write.changed >= self._stable or now - write.begun >= self._cap:
                del self._writes[key]
                yield Verdict(key, fingerprint, finished=True)
            elif not write.told and now - write.begun >= TELL_SECONDS:
                write.told = True
                yield Verdict(key, fingerprint, finished=False)
