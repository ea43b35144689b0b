"""
A feasible plan made with knowledge of the whole history: what a policy without it is measured against.

Day by day, where a day needs more file refreshes than there are: its best constant prices for the two tokens and
for waiting, found by trying a grid; then, from there, another decision at single moments (its largest windows and
what waits at its start) wherever that lowers the score; the days' ends are judged by how the next day would go on.
The plan of the product's own planner is among the candidates for each day. Feasible, and no bound: a better plan
may exist.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, product
from typing import Any, NamedTuple, Protocol

from bench.planning.policies import POLICIES, Ours, apart, carry_out, lay_out
from bench.planning.replay import replay, result
from bench.planning.traces import Window
from bench.planning.world import World, hours_left
from listener import allowances as calendar
from listener.allowances import Window as Span
from listener.planner import Arrivals
from listener.planner.cover import solve
from listener.planner.prices import Prices

FILE_PRICES = (0.0, 0.02, 0.1, 0.3, 1.0, 3.0, 8.0)
DIRECTORY_PRICES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 1e9)
WAITING_PARTS = (1.0, 0.4)
MOMENTS = 14
"""At how many moments of a day another decision is tried."""


class Decision(NamedTuple):
    """Prices for one moment or for a whole day."""

    file_price: float
    directory_price: float
    waiting: float = 1.0
    """What waiting until the reset costs, as a part of what it does cost."""
    sends: bool = True

    def act(self, world: World, at: float) -> None:
        if not self.sends:
            return
        waiting = self.waiting * hours_left(at)
        files = Prices([(world.left[0], min(waiting, self.file_price))])
        directories = Prices([(world.left[1], self.directory_price)])
        forest, tree = lay_out(world)
        carry_out(world, at, forest, solve(tree, apart(files, directories, waiting)).directories)


SINGLE = [
    Decision(0.0, 0.0, sends=False),
    Decision(0.0, 1e9),
    *(Decision(f, d) for f, d in product((0.0, 0.3, 3.0, 30.0), (0.0, 10.0, 100.0, 1000.0))),
]
"""What is tried at single moments."""


class Act(Protocol):
    """A decision of what to refresh at one moment."""

    def act(self, world: Any, at: float) -> None:
        """Refresh it."""
        ...


class Rules(NamedTuple):
    """What is tried, and in which spans of time tokens come back."""

    span: Span
    plenty: Act
    """What to do in a span in which there are tokens for all."""
    usual: Sequence[Act]
    """What is tried for a whole span."""
    single: Sequence[Act]
    """What is tried at single moments."""
    later: Sequence[Act]
    """How the next span may go on with what still waits."""
    ours: Callable[[], Any]
    """The product's planner."""


class Day(NamedTuple):
    """The moments of one quota day, or month; the first has no window and is the reset."""

    start: float
    end: float
    windows: list[Window]


BY_DAY = Rules(
    span=calendar.ALIBABA_DAY,
    plenty=Decision(0.0, 1e9),
    usual=[Decision(*prices) for prices in product(FILE_PRICES, DIRECTORY_PRICES, WAITING_PARTS)],
    single=SINGLE,
    later=(Decision(0.3, 30.0), Decision(0.0, 1000.0)),
    ours=Ours,
)


def quota_days(windows: Sequence[Window], span: Span) -> Iterator[Day]:
    """Part the windows by quota day, or month; those without any are left out."""
    for start, group in groupby(windows, key=lambda window: span.start(window.at)):
        yield Day(start, span.end(start), list(group))


def live_through(world: World, day: Day, usual: Act, other: Mapping[int, Act]) -> None:
    """Let a day pass, by one decision at every moment but the ones named."""
    world.reset()
    if world.stale_paths:
        other.get(0, usual).act(world, day.start)
    for moment, window in enumerate(day.windows, 1):
        world.change(window.at, window.changes)
        if world.stale_paths:
            other.get(moment, usual).act(world, window.at)


def live_through_ours(world: World, day: Day, policy: Any) -> None:
    """Let a day pass as the product's planner would."""
    world.reset()
    wake: float | None = policy.act(world, day.start) if world.stale_paths else None
    for window in [*day.windows, None]:
        until = window.at if window else day.end
        while world.stale_paths and wake is not None and wake < until:
            wake = policy.act(world, wake)
        if window:
            world.change(window.at, window.changes)
            policy.seen(window.at, len(window.changes))
            wake = policy.act(world, window.at)


class _Planner:
    """Chooses a plan for one day after the other."""

    def __init__(self, days: Sequence[Day], rules: Rules) -> None:
        self.rules = rules
        self.by_start = {day.start: day for day in days}
        self.arrivals = Arrivals()

    def next_day(self, day: Day) -> Day:
        start = day.end
        return self.by_start.get(start) or Day(start, self.rules.span.end(start), [])

    def value(self, world: World, day: Day) -> float:
        """Return the score with what the next day would make of what still waits."""
        if not world.stale_paths:
            return world.score
        values = []
        for decision in self.rules.later:
            later = world.copy()
            live_through(later, self.next_day(day), decision, {})
            values.append(later.score + 12.0 * later.stale_paths)
        return min(values)

    def plan_day(self, world: World, day: Day) -> World:
        """Return the world after the best day found."""
        demand = world.stale_paths + sum(len(window.changes) for window in day.windows)
        if demand <= world.free:
            return self._tried(world, day, self.rules.plenty, {})
        best, usual, value = self._by_constant_prices(world, day)
        best, value = self._by_other_moments(world, day, usual, best, value)
        own = world.copy()
        policy = self.rules.ours()
        policy.arrivals = self.arrivals
        live_through_ours(own, day, policy)
        return own if self.value(own, day) < value else best

    def _tried(self, world: World, day: Day, usual: Act, other: Mapping[int, Act]) -> World:
        after = world.copy()
        live_through(after, day, usual, other)
        return after

    def _by_constant_prices(self, world: World, day: Day) -> tuple[World, Act, float]:
        tried = []
        for number, decision in enumerate(self.rules.usual):
            after = self._tried(world, day, decision, {})
            tried.append((self.value(after, day), number, after, decision))
        value, _, after, decision = min(tried, key=lambda trial: trial[:2])
        return after, decision, value

    def _by_other_moments(self, world: World, day: Day, usual: Act, best: World, value: float) -> tuple[World, float]:
        sizes = [math.inf, *(float(len(window.changes)) for window in day.windows)]
        moments = sorted(range(len(sizes)), key=lambda moment: -sizes[moment])[:MOMENTS]
        other: dict[int, Act] = {}
        for moment, decision in product(moments, self.rules.single):
            trial = {**other, moment: decision}
            after = self._tried(world, day, usual, trial)
            if (new := self.value(after, day)) < value - 1e-9:
                best, other, value = after, trial, new
        return best, value


def hindsight(windows: Sequence[Window], world: World) -> tuple[dict[str, float], World]:
    """Return the figures of the best plan found, and the world in which it was carried out."""
    rivals = [POLICIES[name] for name in ("ours", "per-file", "half")]
    return best_known(windows, lambda: World(*world.limits), BY_DAY, rivals)


def best_known(
    windows: Sequence[Window], make: Callable[[], World], rules: Rules, rivals: Sequence[Callable[[], Any]]
) -> tuple[dict[str, float], World]:
    """Return the figures of the best of a plan by these rules and of what the rivals do, and its world."""
    began = time.perf_counter()
    planned = _plan_all(windows, make(), rules)
    candidates = [planned]
    for rival in rivals:
        tried = make()
        replay(windows, tried, rival())
        candidates.append(tried)
    best = min(candidates, key=lambda candidate: candidate.score)
    return result(best, time.perf_counter() - began), best


def _plan_all(windows: Sequence[Window], world: World, rules: Rules) -> World:
    days = list(quota_days(windows, rules.span))
    planner = _Planner(days, rules)
    log, waits = list(world.log or []), world.waits
    waiting: list[Day] = list(reversed(days))
    day = waiting.pop() if waiting else None
    while day is not None:
        world = planner.plan_day(world, day)
        log += world.log or []
        waits += world.waits
        world.waits.clear()
        world.log = []
        for window in day.windows:
            planner.arrivals = planner.arrivals.seen(window.at, len(window.changes))
        following = planner.next_day(day)
        if following.windows:
            day = waiting.pop()
        elif world.stale_paths:
            day = following
        else:
            day = waiting.pop() if waiting else None
    world.log, world.waits = log, waits
    return world
