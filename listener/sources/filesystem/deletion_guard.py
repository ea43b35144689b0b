"""
The deletion guard: a tree that is suddenly empty is more often unmounted than deleted.

Deletions pass at once while they are few. When many come together they are held until none has
come for a second, and then judged as a whole: against the number of known files, and by whether
the root still holds anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from listener.change import Change

__all__ = ["DeletionGuard"]

_QUIET_SECONDS = 1.0
_LONGEST_SECONDS = 30.0
_WINDOW_SECONDS = 10.0


class DeletionGuard:
    """Counts and holds deletions. Pure: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self, *, share: float, minimum: int) -> None:
        """Stop when more than ``share`` of the known files, and more than ``minimum``, are gone at once."""
        self.known = 0
        """How many files there are: what the last full scan saw, and what came and went since."""
        self.confirmed = False
        """Set by an operator: the next deletions are meant."""
        self.suspended = ""
        """Why no deletion at all is believed, an operator's word or not; empty: each is judged."""
        self._share = share
        self._minimum = minimum
        self._held: dict[str, Change] = {}
        self._held_count = 0
        self._began = 0.0
        self._last = 0.0
        self._recent: list[tuple[float, int]] = []

    @property
    def look_limit(self) -> int:
        """How many deletions decide: counting further tells nothing more."""
        return int(max(self._minimum, self._share * self.known)) + 1

    def refuses(self, *, missing: int, known: int, root_empty: bool, from_event: bool = False) -> str:
        """
        Return why so many deletions are not believed, or an empty string.

        An empty root is never believed, but for a single file whose end an event reported (``from_event``).
        """
        if self.suspended and missing:
            return self.suspended
        if self.confirmed or missing <= from_event:
            return ""
        if root_empty:
            return f"the root is empty, and {known} files are known"
        if missing > self._minimum and missing > self._share * known:
            return f"{missing} of {known} known files are gone at once"
        return ""

    def note_births(self, count: int) -> None:
        """Count files that came since the last full scan."""
        self.known += count

    def note_deletions(self, count: int) -> None:
        """Count files that were reported as deleted since the last full scan."""
        self.known = max(0, self.known - count)

    def admits(self, count: int, now: float) -> bool:
        """Return whether ``count`` more deletions are few enough to pass at once."""
        self._recent = [(at, before) for at, before in self._recent if at > now - _WINDOW_SECONDS]
        self._recent.append((now, count))
        if self.suspended:
            return False
        few = min(float(self._minimum), self._share * self.known)
        return not self._held and (self.confirmed or sum(before for _, before in self._recent) <= few)

    def hold(self, deletions: Iterable[Change], count: int, now: float) -> None:
        """Keep deletions back until they stop coming."""
        if not self._held:
            self._began = now
        self._held.update((change.key, change) for change in deletions)
        self._held_count += count
        self._last = now

    def drop(self) -> None:
        """Forget what is held: a scan will find it again, if it is true."""
        self._held, self._held_count, self._recent = {}, 0, []

    def next_release(self, now: float) -> float | None:
        """Return in how many seconds the held deletions are to be judged; ``None`` when none are held."""
        if not self._held:
            return None
        return max(0.0, min(self._last + _QUIET_SECONDS, self._began + _LONGEST_SECONDS) - now)

    def release(self) -> tuple[list[Change], int]:
        """Return what was held, in order, and how many deletions came together; then reset."""
        held, count = list(self._held.values()), sum(before for _, before in self._recent)
        count = max(count, self._held_count)
        self.drop()
        return held, count
