"""A storage with its stale paths, an account with its tokens, and what every refresh does to them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from listener.allowances import ALIBABA_DAY, Window
from listener.planner import DirectoryLoad

BASE = "https://trace.example/"


class Sent(NamedTuple):
    """One refresh, as the log reports it."""

    at: float
    kind: str
    key: str


def directory_of(key: str) -> str:
    """Return the directory of a key; the root is empty."""
    return key[: key.rfind("/") + 1]


def ancestors(key: str) -> Iterator[str]:
    """Yield the directories that hold a key, the nearest first and the root last."""
    directory = directory_of(key)
    while directory:
        yield directory
        directory = directory[: directory.rfind("/", 0, -1) + 1]
    yield ""


class World:
    """
    What is live, what is stale since when, and what is left of the day's tokens.

    The ledger has the product's rules: tokens are taken when a refresh is made, never beyond the
    limit, and come back at the reset only.
    """

    def __init__(self, files: int, directories: int) -> None:
        self.limits = (files, directories)
        self.left = [files, directories]
        self.live: set[str] = set()
        self.below: Counter[str] = Counter()
        self.stale: dict[str, dict[str, float]] = {}
        self.stale_paths = 0
        self.collateral = 0
        self.stale_hours = 0.0
        self.waits: Counter[float] = Counter()
        self.late = 0
        self.unsettled = 0
        self.units = [0, 0]
        self.window: Window = ALIBABA_DAY
        """When the tokens come back."""
        self.free = files
        """File tokens of a whole day that cost nothing."""
        self.log: list[Sent] | None = []

    @property
    def score(self) -> float:
        """Collateral plus stale object-hours."""
        return self.collateral + self.stale_hours

    def copy(self) -> Self:
        """Return a copy to try something on; it keeps a log of its own, from now on."""
        other = type(self).__new__(type(self))
        other.limits, other.left = self.limits, list(self.left)
        other.live, other.below = set(self.live), self.below.copy()
        other.stale = {directory: dict(paths) for directory, paths in self.stale.items()}
        other.stale_paths, other.collateral = self.stale_paths, self.collateral
        other.stale_hours, other.late, other.units = self.stale_hours, self.late, list(self.units)
        other.unsettled = self.unsettled
        other.window, other.free = self.window, self.free
        other.waits = Counter()
        other.log = []
        return other

    def reset(self) -> None:
        """Begin a new day of quota."""
        self.left = list(self.limits)

    def change(self, at: float, changes: dict[str, bool]) -> None:
        """Let the changes of a window that closes now become due."""
        for key, exists in changes.items():
            if exists and key not in self.live:
                self.live.add(key)
                self.below.update(ancestors(key))
            elif not exists and key in self.live:
                self.live.discard(key)
                self.below.subtract(ancestors(key))
            paths = self.stale.setdefault(directory_of(key), {})
            if key not in paths:
                paths[key] = at
                self.stale_paths += 1

    def loads(self) -> list[DirectoryLoad]:
        """Return the aggregates that the planner works on."""
        return [
            DirectoryLoad(
                target="cdn",
                url=BASE + directory,
                due=len(paths),
                oldest=min(paths.values()),
                objects=sum(key in self.live for key in paths),
            )
            for directory, paths in self.stale.items()
        ]

    def weight(self, url: str) -> int:
        """Return how many objects lie below a directory URL."""
        return self.below[url[len(BASE) :]]

    def stale_keys(self) -> list[str]:
        """Return what is stale, the oldest first."""
        aged = [(at, key) for paths in self.stale.values() for key, at in paths.items()]
        return [key for _, key in sorted(aged)]

    def refresh_directory(self, at: float, directory: str) -> None:
        """Spend a directory token."""
        self._spend(1, at, "directory", directory)
        stale_live = 0
        for below in [d for d in self.stale if d.startswith(directory)]:
            paths = self.stale.pop(below)
            stale_live += sum(key in self.live for key in paths)
            self._heal(at, paths.values())
        self.collateral += self.below[directory] - stale_live

    def refresh_file(self, at: float, key: str) -> None:
        """Spend a file token."""
        self._spend(0, at, "file", key)
        directory = directory_of(key)
        paths = self.stale[directory]
        self._heal(at, (paths.pop(key),))
        if not paths:
            del self.stale[directory]

    def refresh_oldest(self, at: float, directory: str, count: int) -> None:
        """Spend file tokens on the oldest stale paths directly in a directory."""
        paths = self.stale[directory]
        for key in sorted(paths, key=lambda key: (paths[key], key))[:count]:
            self.refresh_file(at, key)

    def give_up(self, at: float) -> None:
        """Count what still waits as stale until now."""
        for paths in self.stale.values():
            self.unsettled += len(paths)
            self._heal(at, paths.values())
        self.stale.clear()

    def _spend(self, kind: int, at: float, name: str, key: str) -> None:
        if self.left[kind] <= 0:
            raise AssertionError(f"over the {name} quota at {at}")
        self.left[kind] -= 1
        self.units[kind] += 1
        if self.log is not None:
            self.log.append(Sent(at, name, key))

    def _heal(self, at: float, since: Iterable[float]) -> None:
        for then in since:
            wait = at - then
            self.stale_paths -= 1
            self.stale_hours += wait / 3600.0
            self.late += wait > 3600.0
            self.waits[wait] += 1


def hours_left(at: float) -> float:
    """Return the hours until the next reset."""
    return (ALIBABA_DAY.end(at) - at) / 3600.0


def median(counts: Counter[float]) -> float:
    """Return the median of counted values; not a number when there are none."""
    half, seen = sum(counts.values()) / 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            return value
    return math.nan
