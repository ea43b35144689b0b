"""What a backfill would take: counted by listing once, planned by the same planner, before anything is spent."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from listener import planner
from listener.change import Change
from listener.contracts import Target
from listener.errors import KeyRejected
from listener.pipeline.sites import Sites
from listener.refresh import RefreshKind, Scope, directory_of
from listener.store.snapshot import Snapshot

__all__ = ["Cost", "Tally", "cost_of"]

Budgets = Mapping[RefreshKind, planner.TokenBudget]


@dataclass(slots=True)
class Cost:
    """What it would take."""

    objects: int = 0
    """Keys listed."""
    urls: int = 0
    """URLs that they are served under."""
    parked: int = 0
    """Keys that can never be a URL."""
    unserved: int = 0
    """Keys that no site takes."""
    refreshes: dict[str, int] = field(default_factory=dict)
    """Units by kind that would be spent now."""
    collateral: int = 0
    """Unchanged objects below the directories that would be refreshed."""
    deferred: int = 0
    """URLs that today's quota does not cover."""
    further_days: int | None = 0
    """Days until those are sent at the present quota; None: never, there is no quota for them."""
    quota_assumed: str = ""
    """Why the quota was assumed as the ledger or the configuration has it; empty where the live one counted."""
    directories: list[tuple[str, str]] = field(default_factory=list)
    """Target and URL of each directory that would be refreshed; not shown, they may be many."""

    def admit(self, spent: Mapping[RefreshKind, int], urls: int, most: Mapping[tuple[str, RefreshKind], int]) -> None:
        """
        Reduce it to what a share of the quota pays for today.

        Args:
            spent: tokens of each kind.
            urls: that those are for.
            most: tokens of the share in a day, by account and kind.
        """
        self.refreshes = {kind.value: count for kind, count in sorted(spent.items()) if count}
        self.deferred = max(0, self.urls - urls)
        a_day = sum(tokens for (_, kind), tokens in most.items() if spent.get(kind))
        self.further_days = math.ceil(self.deferred / a_day) if a_day else None if self.deferred else 0

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain = asdict(self)
        del plain["directories"]
        return plain


class Tally:
    """What a listing comes to, by directory: memory grows with directories, not with keys."""

    def __init__(self, sites: Sites) -> None:
        """Count for these sites."""
        self._sites = sites
        self.cost = Cost()
        self.exact: Counter[tuple[str, str]] = Counter()
        self.all_params: Counter[tuple[str, str]] = Counter()
        self.subtrees: set[tuple[str, str]] = set()
        self.keys: Counter[tuple[str, str]] = Counter()

    def add(self, changes: Iterable[Change]) -> None:
        """Count these."""
        for change in changes:
            self._add(change)

    def _add(self, change: Change) -> None:
        self.cost.objects += 1
        self.keys[change.root, change.key[: change.key.rfind("/") + 1]] += 1
        try:
            needs = self._sites.route(change)
        except KeyRejected:
            self.cost.parked += 1
            return
        self.cost.unserved += not needs
        for need in needs:
            place = need.target, directory_of(need.url)
            if need.scope is Scope.SUBTREE:
                self.subtrees.add(place)
            else:
                (self.all_params if need.scope is Scope.ALL_PARAMS else self.exact)[place] += 1
            self.cost.urls += 1

    def loads(self, targets: Iterable[str]) -> list[planner.DirectoryLoad]:
        """Return what the planner gets for these targets."""
        mine = set(targets)
        places = [place for place in {*self.exact, *self.all_params, *self.subtrees} if place[0] in mine]
        return [
            planner.DirectoryLoad(
                target=place[0],
                url=place[1],
                due=self.exact[place],
                subtree_due=place in self.subtrees,
                due_all_params=self.all_params[place],
            )
            for place in sorted(places)
        ]

    def weigher(self) -> Callable[[str, str], int]:
        """Return a function that tells how many of the listed keys lie below a (root, prefix)."""
        roots: dict[str, tuple[list[str], list[int]]] = {}
        for root, directory in sorted(self.keys):
            directories, sums = roots.setdefault(root, ([], [0]))
            directories.append(directory)
            sums.append(sums[-1] + self.keys[root, directory])

        def below(root: str, prefix: str) -> int:
            directories, sums = roots.get(root, ([], [0]))
            end = bisect_left(directories, prefix[:-1] + "0") if prefix else len(directories)
            return sums[end] - sums[bisect_left(directories, prefix)]

        return below


def cost_of(
    tally: Tally,
    sites: Sites,
    accounts: Sequence[Sequence[Target]],
    budgets: Mapping[str, Budgets],
    *,
    now: float,
    reserve: float,
    prefetch: bool = False,
    refresh: bool = True,
    snapshot: Snapshot | None = None,
) -> Cost:
    """
    Return what the tally would take.

    Args:
        tally: what was listed.
        sites: the sites that serve it.
        accounts: targets by account.
        budgets: what each account (by name) may spend.
        now: seconds since the epoch.
        reserve: the part of a day's quota that is left alone, 0 to 1.
        prefetch: whether each URL is fetched into the cache, too.
        refresh: whether each URL is refreshed.
        snapshot: the state file, for weights of what is not listed; None where there is none.
    """
    cost = tally.cost
    spent: Counter[str] = Counter()
    days = [0.0]
    listed = tally.weigher()
    for targets in accounts:
        names = [target.name for target in targets]
        loads = tally.loads(names)
        budget = budgets[targets[0].account]
        if refresh and loads:
            made = planner.plan(
                planner.PlanInput(
                    now=now,
                    loads=loads,
                    budgets=budget,
                    weights=_weights(sites, names, listed, snapshot),
                    allowed=_allowed(sites, names),
                    reserve=reserve,
                    force=targets[0].forces,
                )
            )
            spent.update({kind.value: count for kind, count in made.spent.items()})
            cost.collateral += made.collateral
            cost.directories += [(one.target, one.url) for one in made.directories]
            waiting = sum(deferral.needs for deferral in made.deferred)
            cost.deferred += waiting
            days.append(_days(waiting, budget.get(RefreshKind.FILE), reserve))
        if prefetch:
            urls = sum(load.due for load in loads)
            left = budget[RefreshKind.PREFETCH].left if RefreshKind.PREFETCH in budget else 0
            spent["prefetch"] += min(urls, left)
            cost.deferred += max(0, urls - left)
            days.append(_days(max(0, urls - left), budget.get(RefreshKind.PREFETCH), 0.0))
    cost.refreshes = dict(sorted(spent.items()))
    cost.further_days = None if math.inf in days else int(max(days))
    return cost


def _days(waiting: int, budget: planner.TokenBudget | None, reserve: float) -> float:
    if not waiting:
        return 0.0
    a_day = math.floor(budget.limit * (1 - reserve)) if budget is not None else 0
    return math.ceil(waiting / a_day) if a_day > 0 else math.inf


def _allowed(sites: Sites, names: Sequence[str]) -> Callable[[str], bool]:
    return lambda url: any(sites.router.depth_floor(name, url) for name in names)


def _weights(
    sites: Sites, names: Sequence[str], listed: Callable[[str, str], int], snapshot: Snapshot | None
) -> Callable[[str], int | None]:
    def weight(url: str) -> int | None:
        prefixes = {pair for name in names for pair in sites.router.key_prefixes(name, url)}
        return sum(
            max(listed(root, prefix), 0 if snapshot is None else snapshot.weight_below(root, prefix))
            for root, prefix in prefixes
        )

    return weight
