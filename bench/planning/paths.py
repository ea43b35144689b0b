"""An account of CloudFront: files and directories take paths of the month, of which some are free and others bought."""

from __future__ import annotations

from bench.planning.policies import BASE, KINDS, PerFile
from bench.planning.world import World
from listener.allowances import Allowance, Month
from listener.planner import Arrivals, Budget, PlanInput, plan
from listener.refresh import RefreshKind

FREE_PATHS = 1_000
PATH_DOLLARS = 0.005


def allowance_of(dollars: float) -> Allowance:
    """Return the paths of a month of which some are free and more are bought for at most so many dollars."""
    return Allowance(
        name="paths",
        limit=FREE_PATHS + int(dollars / PATH_DOLLARS + 1e-9),
        window=Month(),
        costs=dict.fromkeys((*KINDS, RefreshKind.IGNORE_PARAMS), 1),
        free=FREE_PATHS,
        unit_dollars=PATH_DOLLARS,
    )


class Paths(World):
    """A storage in front of which files and directories spend the same paths."""

    def __init__(self, monthly_dollars: float) -> None:
        self.allowance = allowance_of(monthly_dollars)
        super().__init__(self.allowance.limit, self.allowance.limit)
        self.window = self.allowance.window
        self.dollars = 0.0

    def copy(self) -> Paths:
        """Return a copy to try something on."""
        other = super().copy()
        assert isinstance(other, Paths)
        other.allowance, other.window, other.dollars = self.allowance, self.window, self.dollars
        return other

    def _spend(self, kind: int, at: float, name: str, key: str) -> None:
        super()._spend(kind, at, name, key)
        self.left = [self.left[kind]] * 2
        if self.limits[0] - self.left[0] > FREE_PATHS:
            self.dollars += PATH_DOLLARS


class OursByPath:
    """The product's planner."""

    def __init__(self, object_dollars: float | None = None) -> None:
        self.arrivals = Arrivals()
        self.more = {} if object_dollars is None else {"object_dollars": object_dollars}

    def seen(self, at: float, changes: int) -> None:
        self.arrivals = self.arrivals.seen(at, changes)

    def act(self, world: Paths, at: float) -> float | None:
        budget = Budget(world.allowance, world.left[0], world.window.end(at))
        made = plan(
            PlanInput(
                now=at, loads=world.loads(), budgets=[budget], weights=world.weight, arrivals=self.arrivals, **self.more
            )
        )
        for directory in made.directories:
            world.refresh_directory(at, directory.url[len(BASE) :])
        for files in made.files:
            world.refresh_oldest(at, files.directory_url[len(BASE) :], files.take)
        return made.wake_at


class Everything(PerFile):
    """One path for all that there is where more than so many changed, else a path for each."""

    MOST = 8

    def act(self, world: World, at: float) -> float | None:
        if world.stale_paths > self.MOST and world.left[1] > 0:
            world.refresh_directory(at, "")
            return None
        return super().act(world, at)
