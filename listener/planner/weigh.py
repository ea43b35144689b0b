"""What refreshing each directory of a forest would evict, and what leaving its needs would cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from listener.planner.constants import AGE_WEIGHT_HOURS, REVALIDATION_COST, UNKNOWN_WEIGHT
from listener.planner.costs import CoverTree
from listener.planner.forest import Forest
from listener.planner.model import DirectoryLoad, PlanInput
from listener.planner.pacing import TokenPrices

__all__ = ["Weighed", "waiting_weight", "weigh"]


@dataclass(frozen=True, slots=True)
class Weighed:
    """A forest with its weights, ready to be covered."""

    forest: Forest
    tree: CoverTree
    weights: list[int | None]
    """Objects known below each directory; ``None`` where nothing is known."""
    unchanged: list[int]
    """Objects below each directory that are not stale; an assumption where nothing is known."""
    forced: int
    """File tokens that are needed whatever is chosen."""

    def evictions(self) -> Callable[[DirectoryLoad], int | None]:
        """Return a function from a load to what its own directory would evict; ``None`` where that is not known."""
        places = zip(self.forest.targets, self.forest.urls, strict=True)
        known = (None if weight is None else n for weight, n in zip(self.weights, self.unchanged, strict=True))
        counts = dict(zip(places, known, strict=True))
        return lambda load: counts.get((load.target, load.url))


def weigh(
    forest: Forest, given: PlanInput, prices: TokenPrices, *, files_short: bool, all_params_short: bool
) -> Weighed:
    """
    Read the weights and lay out the problem.

    While file tokens are short, what costs less than usual to leave waiting (a site of low priority, an object
    that expires by itself before the reset) does not compete for them: its price is a penalty of its own.
    """
    allowed = [given.allowed(url) for url in forest.urls]
    weights = [given.weights(url) if asked else None for url, asked in zip(forest.urls, allowed, strict=True)]
    unchanged = _unchanged(forest, weights)
    rate = 1.0 if given.force else REVALIDATION_COST
    files = [0] * len(weights)
    penalties = [0.0] * len(weights)
    forced = 0
    for v, i in forest.members:
        load = forest.loads[i]
        if load.forced_only and not given.force:
            forced += load.due
            due = 0
        else:
            due = load.due
        if load.subtree_due or load.due_all_params or load.priority < 1.0 or load.ttl_seconds > 0:
            waiting = prices.defer_cost * waiting_weight(load, given.now, prices.hours)
            penalties[v] += waiting * load.due_all_params * all_params_short
            if load.subtree_due:
                penalties[v] += waiting * max(1, _or_prior(weights[v]))
            if files_short and waiting < prices.defer_cost:
                penalties[v] += waiting * due
                due = 0
        files[v] += due
    collateral = [rate * n if asked else math.inf for asked, n in zip(allowed, unchanged, strict=True)]
    return Weighed(forest, CoverTree(forest.parents, files, penalties, collateral), weights, unchanged, forced)


def waiting_weight(load: DirectoryLoad, now: float, hours: float) -> float:
    """
    Return what leaving a load until the reset costs, as a part of what it usually costs.

    A site's priority scales it, every day of age raises it, and what expires by itself before the reset is
    stale only until then.
    """
    age_hours = max(0.0, now - load.oldest) / 3600.0
    weight = load.priority * (1.0 + age_hours / AGE_WEIGHT_HOURS)
    if load.ttl_seconds > 0:
        stale_hours = load.ttl_seconds / 3600.0 - age_hours
        weight *= min(1.0, max(0.0, stale_hours) / hours)
    return weight


def _unchanged(forest: Forest, weights: list[int | None]) -> list[int]:
    """Count what is not stale: below a subtree need nothing is known to be unchanged."""
    stale = [0] * len(weights)
    subtree_due = [False] * len(weights)
    for v, i in forest.members:
        load = forest.loads[i]
        stale[v] += load.due + load.due_all_params if load.objects is None else load.objects
        subtree_due[v] = subtree_due[v] or (load.subtree_due and load.url == forest.urls[v])
    unchanged = [0] * len(weights)
    for v in range(len(weights) - 1, -1, -1):
        weight = weights[v]
        if subtree_due[v]:
            stale[v] = max(stale[v], weight or 0)
        else:
            unchanged[v] = UNKNOWN_WEIGHT if weight is None else max(0, weight - stale[v])
        if forest.parents[v] >= 0:
            stale[forest.parents[v]] += stale[v]
    return unchanged


def _or_prior(weight: int | None) -> int:
    return UNKNOWN_WEIGHT if weight is None else weight
