"""What is left to spend while a plan is made: the units of each allowance, and what shares leave of them to a site."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from listener.planner.constants import LEND_HOURS
from listener.planner.model import Budget, PlanInput, QuotaShare
from listener.refresh import RefreshKind, reserved_units

__all__ = ["Balances", "QuotaPool", "affordable", "hours_left", "left_of", "limit_of"]


def affordable(given: PlanInput) -> dict[str, int]:
    """Return the units of each allowance that are left, less the reserve."""
    return {one.name: max(0, one.left - _reserved(given, one)) for one in given.budgets}


def _reserved(given: PlanInput, budget: Budget) -> int:
    """Return the units that only urgent work may spend; no prefetch regards that part."""
    kind = next((kind for kind in budget.allowance.costs if kind is not RefreshKind.PREFETCH), RefreshKind.PREFETCH)
    return 0 if given.urgent else reserved_units(kind, budget.limit, given.reserve)


def left_of(budgets: Iterable[Budget], kind: RefreshKind) -> float:
    """Return how many refreshes of a kind the ledger leaves; infinite where it takes units of no allowance."""
    return min((one.left // units for one in budgets if (units := one.cost(kind))), default=math.inf)


def limit_of(budgets: Iterable[Budget], kind: RefreshKind) -> float:
    """Return how many refreshes of a kind the unspent allowances would leave."""
    return min((one.limit // units for one in budgets if (units := one.cost(kind))), default=math.inf)


def hours_left(budget: Budget, now: float) -> float:
    """Return how long units take to come back: 0 where they are overdue, infinite where none do."""
    return max(0.0, budget.resets_at - now) / 3600.0


class Balances:
    """The units left of each allowance, counted in refreshes of a kind: of several allowances the scarcest rules."""

    __slots__ = ("_before", "_costs", "_kinds", "_paid", "changes", "left")

    def __init__(self, given: PlanInput, left: Mapping[str, int]) -> None:
        """Take what is left of each allowance, by name."""
        self._kinds = given.kinds
        self._costs = {kind: list(given.costs(kind).items()) for kind in RefreshKind}
        self.left = dict(left)
        self.changes = 0
        self._paid = [one for one in given.budgets if one.allowance.is_paid]
        self._before = {one.name: one.limit - one.left + self.left[one.name] for one in self._paid}

    def dollars(self, kind: RefreshKind, refreshes: int) -> float:
        """Return what so many further refreshes of a kind cost in money."""
        total = 0.0
        for one in self._paid:
            spent = self._before[one.name] - self.left[one.name]
            total += one.allowance.dollars(spent + one.cost(kind) * refreshes) - one.allowance.dollars(spent)
        return total

    def of(self, kind: RefreshKind) -> float:
        """Return how many refreshes of a kind are left; infinite where it takes units of no allowance."""
        if kind not in self._kinds:
            return 0
        costs = self._costs[kind]
        if len(costs) == 1:  # asked for each of a million loads
            name, units = costs[0]
            return self.left[name] // units
        return min([self.left[name] // units for name, units in costs], default=math.inf)

    def scarcest(self, kind: RefreshKind) -> str:
        """Return the name of the allowance that leaves fewest refreshes of a kind; empty where none limits it."""
        if len(self._costs[kind]) == 1:
            return self._costs[kind][0][0]
        return min(self._costs[kind], key=lambda cost: self.left[cost[0]] // cost[1], default=("", 0))[0]

    def spend(self, kind: RefreshKind, refreshes: int) -> None:
        """Take the units of so many refreshes."""
        self.changes += 1
        for name, units in self._costs[kind]:
            self.left[name] -= units * refreshes


_EVERYBODY = QuotaShare()


class QuotaPool:
    """
    The units left, parted into what is kept for single sites and what is free for all.

    A guarantee that is not used is kept until shortly before the reset, and then lent more and more. A site with
    something due takes from its guarantee first, and no other site can. Shares of several kinds that spend one
    allowance are one share of it: with the greatest guarantee and the least bound among them.
    """

    def __init__(self, given: PlanInput, left: Mapping[str, int]) -> None:
        """Part what is left, by the shares and the hour."""
        self._balances = Balances(given, left)
        self._budgets = {one.name: one for one in given.budgets}
        self._costs = {kind: list(given.costs(kind).items()) for kind in RefreshKind}
        self._given = given
        self._shares = self._by_allowance()
        self._spent = Counter(given.spent)
        self._due = {load.site for load in given.loads} if given.shares else set()
        self._kept_part = {one.name: min(1.0, hours_left(one, given.now) / LEND_HOURS) for one in given.budgets}
        self._kept = {(site, name): self._keep(site, name) for site, name in self._shares}
        self._all_kept: Counter[str] = Counter()
        for (_, name), units in self._kept.items():
            self._all_kept[name] += units

    def _by_allowance(self) -> dict[tuple[str, str], QuotaShare]:
        shares: dict[tuple[str, str], QuotaShare] = {}
        for (site, kind), own in self._given.shares.items():
            for name, _ in self._costs[kind]:
                other = shares.get((site, name))
                shares[site, name] = own if other is None else _joined(other, own)
        return shares

    def _keep(self, site: str, name: str) -> int:
        share = self._shares[site, name]
        unused = share.guaranteed * self._budgets[name].limit - self._spent[site, name]
        return max(0, int(unused if site in self._due else unused * self._kept_part[name]))

    def joint_left(self) -> Balances:
        """Return what the sites that have something due may spend together."""
        idle: Counter[str] = Counter()
        for (site, name), units in self._kept.items():
            idle[name] += 0 if site in self._due else units
        return Balances(self._given, {name: max(0, left - idle[name]) for name, left in self._balances.left.items()})

    def most(self, site: str, kind: RefreshKind) -> float:
        """Return how many refreshes shares leave a site: its guarantee, and what nobody is guaranteed."""
        if not self._shares:
            return math.inf  # the balances themselves bound it
        left = self._balances.of(kind)
        return min([left, *(self._most(site, name) // units for name, units in self._costs[kind])])

    def _most(self, site: str, name: str) -> int:
        share = self._shares.get((site, name), _EVERYBODY)
        greatest = int(self._greatest(site, name, share) * self._budgets[name].limit)
        left = self._balances.left[name]
        own = min(self._kept.get((site, name), 0), left)
        free = max(0, left - self._all_kept[name])
        return max(0, min(greatest - self._spent[site, name], own + free))

    def used_up(self, site: str, kind: RefreshKind) -> str:
        """Return for the operator that a site has used up its share."""
        return self._given.shares.get((site, kind), _EVERYBODY).used_up

    def _greatest(self, site: str, name: str, share: QuotaShare) -> float:
        """Return the greatest part, lifted before the reset for a site that alone has something due."""
        lent = (1.0 - share.greatest) * (1.0 - self._kept_part[name]) if self._due == {site} else 0.0
        return share.greatest + lent

    def spend(self, site: str, kind: RefreshKind, refreshes: int) -> None:
        """Take the units of refreshes for a site, its guarantee first."""
        self._balances.spend(kind, refreshes)
        for name, cost in self._costs[kind]:
            units = cost * refreshes
            self._spent[site, name] += units
            own = min(units, self._kept.get((site, name), 0))
            if own:
                self._kept[site, name] -= own
                self._all_kept[name] -= own


def _joined(one: QuotaShare, other: QuotaShare) -> QuotaShare:
    return one._replace(
        guaranteed=max(one.guaranteed, other.guaranteed),
        greatest=min(one.greatest, other.greatest),
    )
