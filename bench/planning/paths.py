"""An account of CloudFront: files and directories take paths of the month, of which some are free and others bought."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

from bench.planning.hindsight import Rules
from bench.planning.policies import KINDS, PerFile, lay_out
from bench.planning.world import BASE, World
from listener.allowances import Allowance, Month
from listener.planner import Arrivals, Budget, PlanInput, plan
from listener.planner.constants import OBJECT_DOLLARS
from listener.planner.cover import solve
from listener.planner.prices import Currency, Prices, Tariff
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
        self.free = FREE_PATHS
        self.window = self.allowance.window
        self.dollars = 0.0

    @property
    def score(self) -> float:
        """Collateral, stale object-hours, and dollars at the exchange rate of the planner."""
        return super().score + self.dollars / OBJECT_DOLLARS

    def copy(self) -> Self:
        """Return a copy to try something on."""
        other = super().copy()
        other.allowance, other.dollars = self.allowance, self.dollars
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


class PathPrice(NamedTuple):
    """One price of a path for a moment or for a whole month, and one of leaving what is stale."""

    path: float
    waiting: float = math.inf
    sends: bool = True

    def act(self, world: Paths, at: float) -> None:
        """Refresh the cheapest cover at these prices."""
        if not self.sends or not world.left[0]:
            return
        waiting = min(self.waiting, (world.window.end(at) - at) / 3600.0)
        forest, tree = lay_out(world)
        tariff = Tariff([Currency(Prices([(world.left[0], self.path)]), file=1, directory=1)], waiting)
        cover = solve(tree, tariff)
        for v in cover.directories:
            world.refresh_directory(at, forest.urls[v][len(BASE) :])
        for key in world.stale_keys()[: tariff.sent(world.stale_paths, len(cover.directories))]:
            world.refresh_file(at, key)


BY_MONTH = Rules(
    span=Month(),
    plenty=PathPrice(0.0),
    usual=[PathPrice(p, w) for p in (0.0, 0.1, 0.3, 1.0, 3.0, 5.0, 10.0, 30.0, 100.0, 300.0) for w in (24.0, 2e3)],
    single=[PathPrice(0.0, sends=False), *(PathPrice(path) for path in (0.0, 0.3, 3.0, 30.0))],
    later=(PathPrice(0.3), PathPrice(5.0)),
    ours=OursByPath,
)


class Everything(PerFile):
    """One path for all that there is where more than so many changed, else a path for each."""

    MOST = 8

    def act(self, world: World, at: float) -> float | None:
        if world.stale_paths > self.MOST and world.left[1] > 0:
            world.refresh_directory(at, "")
            return None
        return super().act(world, at)
