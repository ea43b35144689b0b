"""What is compared: the product's planner, and the rules that others use."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from bench.planning.world import BASE, World, ancestors, directory_of
from listener.allowances import ALIBABA_DAY, for_each_kind
from listener.planner import Arrivals, Budget, PlanInput, plan
from listener.planner.cover import CoverTree, solve
from listener.planner.forest import Forest, build_forest
from listener.planner.prices import Currency, Prices, Tariff
from listener.refresh import RefreshKind

KINDS = (RefreshKind.FILE, RefreshKind.DIRECTORY)


def budgets(world: World, at: float) -> list[Budget]:
    """Return the ledger's figures as the planner takes them."""
    window = ALIBABA_DAY
    allowances = for_each_kind(dict(zip(KINDS, world.limits, strict=True)), window)
    return [Budget(one, left, window.end(at)) for one, left in zip(allowances, world.left, strict=True)]


class Ours:
    """The product's planner, which knows nothing but what the store and the ledger know."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()

    def seen(self, at: float, changes: int) -> None:
        self.arrivals = self.arrivals.seen(at, changes)

    def act(self, world: World, at: float) -> float | None:
        made = plan(
            PlanInput(
                now=at,
                loads=world.loads(),
                budgets=budgets(world, at),
                kinds=KINDS,
                weights=world.weight,
                arrivals=self.arrivals,
            )
        )
        for directory in made.directories:
            world.refresh_directory(at, directory.url[len(BASE) :])
        for files in made.files:
            world.refresh_oldest(at, files.directory_url[len(BASE) :], files.take)
        return made.wake_at


class PerFile:
    """A call for each file while there are tokens; the rest waits for the reset, the oldest first."""

    def seen(self, at: float, changes: int) -> None:
        """Learn nothing."""

    def act(self, world: World, at: float) -> float | None:
        for key in world.stale_keys()[: world.left[0]]:
            world.refresh_file(at, key)
        return None


class Threshold(PerFile):
    """A directory where more than so many changed directly in it, the fullest first; then a call for each file."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold

    def act(self, world: World, at: float) -> float | None:
        direct = Counter({directory: len(paths) for directory, paths in world.stale.items()})
        for directory, changed in direct.most_common():
            if changed > self.threshold and world.left[1] > 0 and directory in world.stale:
                world.refresh_directory(at, directory)
        return super().act(world, at)


class CollapseLevels(PerFile):
    """s3deploy's rule: at most eight paths; else every path deeper than a level becomes its grandparent, level by
    level, and at last everything.
    """

    MOST = 8

    def act(self, world: World, at: float) -> float | None:
        paths = {self._index(key) for key in world.stale_keys()}
        deepest = max(path.count("/") for path in paths)
        for level in range(deepest, 0, -1):
            if len(paths) <= self.MOST:
                break
            paths = {self._widen(path) if path.count("/") > level else path for path in paths}
        if len(paths) > self.MOST:
            paths = {"/*"}
        for path in sorted(path for path in paths if path.endswith("*")):
            directory = path[:-1].lstrip("/")
            if world.left[1] > 0 and any(stale.startswith(directory) for stale in world.stale):
                world.refresh_directory(at, directory)
        return super().act(world, at)

    @staticmethod
    def _index(key: str) -> str:
        return "/" + key

    @staticmethod
    def _widen(path: str) -> str:
        parts = path.split("/")
        return "/".join(parts[:-2]) + "/*"


class Half(PerFile):
    """For each window the cover of least collateral within half of the tokens left, or else it waits."""

    def act(self, world: World, at: float) -> float | None:
        files, directories = world.left[0] // 2, max(1, world.left[1] // 2) if world.left[1] else 0
        forest, tree = lay_out(world)
        cover = solve(tree, apart(Prices([(files, 0.0)]), Prices([(directories, 0.0)]), math.inf))
        if math.isfinite(cover.cost):
            carry_out(world, at, forest, cover.directories)
        return None


def apart(files: Prices, directories: Prices, waiting: float) -> Tariff:
    """Return a tariff in which files and directories have an allowance each."""
    return Tariff([Currency(files, file=1), Currency(directories, directory=1)], waiting)


def lay_out(world: World) -> tuple[Forest, CoverTree]:
    """Return what is stale as a problem for the cover."""
    forest = build_forest(world.loads())
    stale, due = [0] * len(forest), [0] * len(forest)
    for v, i in forest.members:
        stale[v] += forest.loads[i].objects or 0
        due[v] += forest.loads[i].due
    for v in range(len(stale) - 1, -1, -1):
        if forest.parents[v] >= 0:
            stale[forest.parents[v]] += stale[v]
    unchanged = [float(world.weight(url) - n) for url, n in zip(forest.urls, stale, strict=True)]
    return forest, CoverTree(forest.parents, due, [0.0] * len(due), unchanged)


def carry_out(world: World, at: float, forest: Forest, directories: list[int]) -> None:
    """Refresh these directories, then what is stale next to them while file tokens last, the oldest first."""
    for v in directories:
        world.refresh_directory(at, forest.urls[v][len(BASE) :])
    for key in world.stale_keys()[: world.left[0]]:
        world.refresh_file(at, key)


POLICIES: dict[str, Callable[[], Ours | PerFile]] = {
    "ours": Ours,
    "per-file": PerFile,
    "threshold-8": lambda: Threshold(8),
    "threshold-128": lambda: Threshold(128),
    "collapse-levels": CollapseLevels,
    "half": Half,
}
"""Policies that do not know the day, by name."""

__all__ = ["POLICIES", "Half", "Ours", "PerFile", "ancestors", "directory_of"]
