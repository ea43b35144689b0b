"""The account behind the API: its invalidations, what they cost by month, and what may be in progress."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from listener.emulator.cloudfront.faults import Problem
from listener.emulator.tasks import TaskRecord
from listener.rates import Bucket
from listener.targets.cloudfront.prices import (
    DOLLARS_PER_PATH,
    FREE_PATHS,
    MOST_PATHS_IN_PROGRESS,
    MOST_WILDCARDS_IN_PROGRESS,
    PATHS_PER_SECOND,
    WILDCARDS_PER_SECOND,
)

__all__ = ["Account", "Invalidation", "Limits", "month_of"]

Limits = Literal["rate", "slots"]
MOST_PATHS: Final = 3_000
"""In one request: the most that could ever be in progress."""
ID_CHARACTERS: Final = 13


def month_of(now: float) -> str:
    """Return the calendar month by which paths are counted, such as ``2026-11``: UTC."""
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m}"


@dataclass(slots=True, kw_only=True)
class Invalidation:
    """One invalidation of a distribution."""

    id: str
    distribution: str
    reference: str
    paths: Sequence[str]
    created_at: float
    records: Sequence[TaskRecord] = field(default_factory=list)

    def is_completed(self, now: float) -> bool:
        """Return whether all its paths have taken effect."""
        return all(record.ends_at <= now for record in self.records)


class Account:
    """The invalidations of all distributions; time is an argument."""

    def __init__(self, limits: Limits) -> None:
        """Begin without any."""
        self._limits = limits
        self._made: dict[tuple[str, str], Invalidation] = {}
        self._by_reference: dict[tuple[str, str], Invalidation] = {}
        self._number = itertools.count()
        self.months: Counter[str] = Counter()
        """Paths charged, by month: free or not."""
        self.requests = 0
        self.paths = Bucket(PATHS_PER_SECOND, PATHS_PER_SECOND)
        self.wildcards = Bucket(WILDCARDS_PER_SECOND, WILDCARDS_PER_SECOND)

    def find(self, distribution: str, invalidation: str) -> Invalidation:
        """Return one. Raise :class:`Problem` where there is none of this id."""
        if found := self._made.get((distribution, invalidation)):
            return found
        raise Problem("NoSuchInvalidation")

    def newest_first(self, distribution: str) -> list[Invalidation]:
        """Return all of a distribution."""
        return [one for one in reversed(self._made.values()) if one.distribution == distribution]

    def repeated(self, distribution: str, reference: str, paths: Sequence[str]) -> Invalidation | None:
        """Return the invalidation of this reference. Raise :class:`Problem` where that one has other paths."""
        found = self._by_reference.get((distribution, reference))
        if found is not None and Counter(found.paths) != Counter(paths):
            raise Problem("InvalidationBatchAlreadyExists")
        return found

    def admit(self, distribution: str, paths: Sequence[str], now: float) -> None:
        """Raise :class:`Problem` where so many paths are too many, in one request or at present."""
        if len(paths) > MOST_PATHS:
            raise Problem("BatchTooLarge", paths=len(paths), most=MOST_PATHS)
        wildcards = sum(path.endswith("*") for path in paths)
        files = len(paths) - wildcards
        if self._limits == "slots":
            self._admit_slots(distribution, files, wildcards, now)
            return
        if self.paths.left(now) + 1e-9 < len(paths):
            raise Problem("TooManyInvalidationsInProgress", most=f"{PATHS_PER_SECOND} paths per second")
        if self.wildcards.left(now) + 1e-9 < wildcards:
            raise Problem("TooManyInvalidationsInProgress", most=f"{WILDCARDS_PER_SECOND} wildcard per second")
        self.paths.take(len(paths), now)
        self.wildcards.take(wildcards, now)

    def _admit_slots(self, distribution: str, files: int, wildcards: int, now: float) -> None:
        running = [path for one in self.newest_first(distribution) if not one.is_completed(now) for path in one.paths]
        busy = sum(path.endswith("*") for path in running)
        if wildcards and busy + wildcards > MOST_WILDCARDS_IN_PROGRESS:
            raise Problem("TooManyInvalidationsInProgress", most=f"{MOST_WILDCARDS_IN_PROGRESS} wildcards in progress")
        if files and len(running) - busy + files > MOST_PATHS_IN_PROGRESS:
            raise Problem("TooManyInvalidationsInProgress", most=f"{MOST_PATHS_IN_PROGRESS} files in progress")

    def create(self, distribution: str, reference: str, paths: Sequence[str], now: float) -> Invalidation:
        """Make an invalidation and charge its paths; the same path twice counts twice."""
        digest = hashlib.sha256(f"{distribution} {next(self._number)} {now}".encode()).hexdigest().upper()
        one = Invalidation(
            id=f"I{digest[:ID_CHARACTERS]}", distribution=distribution, reference=reference, paths=paths, created_at=now
        )
        self._made[distribution, one.id] = self._by_reference[distribution, reference] = one
        self.months[month_of(now)] += len(paths)
        self.requests += 1
        return one

    def bill(self) -> Mapping[str, Mapping[str, float]]:
        """Return what each month cost."""
        return {
            month: {
                "paths": paths,
                "free": min(paths, FREE_PATHS),
                "dollars": round(max(0, paths - FREE_PATHS) * DOLLARS_PER_PATH, 3),
            }
            for month, paths in self.months.items()
        }
