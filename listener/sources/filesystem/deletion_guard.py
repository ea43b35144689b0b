"""
The deletion guard: a tree that is suddenly empty is more often unmounted than deleted.

Deletions are held until none has come for a moment, and are then judged as a whole: against the number of known files,
and by whether the root still holds anything. None of a burst is reported before that, so that nothing is refreshed for
deletions which a person then finds to be a mistake.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from listener.change import Change, ChangeKind

__all__ = ["DeletionGuard"]

_QUIET_SECONDS = 1.0
_LONGEST_SECONDS = 30.0
"""How long a burst is gathered at most."""
_FEW = 10
_FEW_LONGEST_SECONDS = 5.0
"""How long so few deletions are gathered: a tree in which now and then something is deleted is no burst."""
_WINDOW_SECONDS = 10.0


class DeletionGuard:
    """Counts and holds deletions. Pure: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self, *, share: float, minimum: int) -> None:
        """Stop when more than ``share`` of the known files, and more than ``minimum``, are gone at once."""
        self.known = 0
        """How many files there are: what the last full scan saw, and what came and went since."""
        self.confirmed = False
        """Set by an operator: the next deletions are meant."""
        self.refused = ""
        """Why the deletions that were judged last were held back; empty when they were not."""
        self.held_back = 0
        """How many files those deletions are of."""
        self.suspended = ""
        """Why no deletion at all is believed, an operator's word or not; empty: each is judged."""
        self._share = share
        self._minimum = minimum
        self._held: dict[str, Change] = {}
        self._indexed: set[str] = set()
        """Of these, the files that the index knew when their deletion was held."""
        self._began = 0.0
        self._last = 0.0
        self._passed: list[tuple[float, int]] = []
        """When deletions passed, and of how many files."""

    @property
    def look_limit(self) -> int:
        """How many deletions decide: counting further decides nothing."""
        return int(max(self._minimum, self._share * self.known)) + 1

    @property
    def is_holding_back(self) -> bool:
        """Whether deletions are held back until a person confirms them, or the files are back."""
        return bool(self.refused) and not self.confirmed and not self.suspended

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

    def judge_burst(self, count: int, now: float, *, root_empty: bool) -> None:
        """Judge deletions of ``count`` files that events reported, with those that passed just before."""
        passed = self._sum_passed(now)
        missing, known = passed + count, passed + self.known
        self.note_judged(self.refuses(missing=missing, known=known, root_empty=root_empty, from_event=True), missing)

    def note_judged(self, refused: str, count: int) -> None:
        """Note why deletions of ``count`` files are held back; an empty string: they are not."""
        self.refused, self.held_back = refused, count if refused else 0

    def scanned(self, refused: str, *, present: int | None) -> None:
        """Note the end of a scan, and how many files there are if it was one of the whole tree."""
        self.confirmed = self.confirmed and bool(refused)
        if present is not None:
            self.known = present

    def note_births(self, count: int) -> None:
        """Count files that came since the last full scan."""
        self.known += count

    def note_passed(self, count: int, now: float) -> None:
        """Count files that were reported as deleted since the last full scan."""
        self.known = max(0, self.known - count)
        self._passed.append((now, count))

    def _sum_passed(self, now: float) -> int:
        self._passed = [(at, count) for at, count in self._passed if at > now - _WINDOW_SECONDS]
        return sum(count for _, count in self._passed)

    def hold(self, deletions: Iterable[Change], now: float, *, indexed: Container[str] = ()) -> None:
        """Hold deletions until they stop coming; ``indexed``: has the keys of the files that the index knows."""
        held = {change.key: change for change in deletions}
        if not held:
            return
        if not self._held:
            self._began = now
        self._held.update(held)
        self._indexed.difference_update(held)
        self._indexed.update(
            key for key, change in held.items() if change.kind is ChangeKind.DELETED and key in indexed
        )
        self._last = now

    def held_since(self, now: float, *, over_seconds: float) -> float | None:
        """Return since when deletions have been gathered, where that is over so many seconds."""
        return self._began if self._held and now - self._began > over_seconds else None

    def drop(self) -> None:
        """Forget what is held: a scan will find it again, if it is true."""
        self._held, self._indexed, self._passed = {}, set(), []

    def next_release(self, now: float) -> float | None:
        """Return in how many seconds the held deletions are to be judged; ``None`` when none are held."""
        if not self._held:
            return None
        longest = _LONGEST_SECONDS if len(self._held) > _FEW else _FEW_LONGEST_SECONDS
        return max(0.0, min(self._last + _QUIET_SECONDS, self._began + longest) - now)

    def release(self) -> tuple[list[Change], set[str]]:
        """Return what was held, in order, with those of its keys that the index knew then; and hold it no longer."""
        released = list(self._held.values()), self._indexed
        self._held, self._indexed = {}, set()
        return released
