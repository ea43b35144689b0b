"""What a decision may take: of each limit besides the day's, and of the day's quota by site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from listener.planner.constants import LEND_HOURS
from listener.planner.model import Limit, PlanInput, QuotaShare
from listener.planner.pacing import NO_BUDGET, hours_to_reset
from listener.refresh import RefreshKind

__all__ = ["Meter", "QuotaPool", "meters", "room", "take", "too_many_evictions"]


@dataclass(slots=True)
class Meter:
    """What is left of one limit while a plan is made."""

    limit: Limit
    left: float
    whole: bool
    waiting: bool = False
    """True once something had to wait for it."""

    def holds(self, target: str, url: str) -> bool:
        """Return whether a refresh of this URL takes of it."""
        return self.limit.target in ("", target) and url.startswith(self.limit.host)


def meters(limits: Iterable[Limit]) -> list[Meter]:
    """Return a meter for each limit."""
    return [Meter(limit, limit.left, limit.whole) for limit in limits]


def room(held: Iterable[Meter], kind: RefreshKind, target: str, url: str, wanted: int) -> tuple[int, Meter | None]:
    """Return how many refreshes of this kind below ``url`` the limits leave, and the limit that leaves fewest."""
    allowed, tightest = wanted, None
    for meter in held:
        cost = meter.limit.costs.get(kind, 0.0)
        if cost <= 0 or not meter.holds(target, url):
            continue
        fits = max(0, int(meter.left / cost + 1e-9))
        if fits < allowed:
            allowed, tightest = fits, meter
    return allowed, tightest


def too_many_evictions(held: Iterable[Meter], target: str, url: str, evictions: int) -> Meter | None:
    """Return the limit by which a directory that evicts so many has to wait."""
    for meter in held:
        cost = meter.limit.eviction_cost * evictions
        if cost > meter.left and not meter.whole and meter.holds(target, url):
            return meter
    return None


def take(
    held: Iterable[Meter], kind: RefreshKind, target: str, url: str, refreshes: int, *, evictions: int = 0
) -> None:
    """Spend of every limit that holds for ``url``."""
    for meter in held:
        if meter.holds(target, url):
            spent = meter.limit.costs.get(kind, 0.0) * refreshes + meter.limit.eviction_cost * evictions
            meter.left -= spent
            meter.whole = meter.whole and spent <= 0


_EVERYBODY = QuotaShare()


class QuotaPool:
    """
    The tokens left, parted into what is kept for single sites and what is free for all.

    A guarantee that is not used is kept until shortly before the reset, and then lent more and more. A site with
    something due takes from its guarantee first, and no other site can.
    """

    def __init__(self, given: PlanInput, left: Mapping[RefreshKind, int]) -> None:
        """Part what is left, by the shares and the hour."""
        self.given = given
        self.left = dict(left)
        self._spent: Counter[tuple[str, RefreshKind]] = Counter()
        self._due = {load.site for load in given.loads} if given.shares else set()
        self._kept_part = min(1.0, hours_to_reset(given, least=0.0) / LEND_HOURS)
        self.kept = {(site, kind): self._keep(site, kind) for site, kind in given.shares}
        self._all_kept: Counter[RefreshKind] = Counter()
        for (_, kind), tokens in self.kept.items():
            self._all_kept[kind] += tokens

    def _keep(self, site: str, kind: RefreshKind) -> int:
        share = self.given.shares[site, kind]
        unused = share.guaranteed * self._limit(kind) - share.spent
        return max(0, int(unused if site in self._due else unused * self._kept_part))

    def _limit(self, kind: RefreshKind) -> int:
        return self.given.budgets.get(kind, NO_BUDGET).limit

    def joint_left(self) -> dict[RefreshKind, int]:
        """Return what the sites that have something due may spend together."""
        idle: Counter[RefreshKind] = Counter()
        for (site, kind), tokens in self.kept.items():
            idle[kind] += 0 if site in self._due else tokens
        return {kind: max(0, left - idle[kind]) for kind, left in self.left.items()}

    def most(self, site: str, kind: RefreshKind) -> int:
        """Return how many tokens of a kind a site may still spend: its guarantee, and what nobody is guaranteed."""
        if not self.given.shares:
            return self.left[kind]
        share = self.given.shares.get((site, kind), _EVERYBODY)
        greatest = int(self._greatest(site, share) * self._limit(kind)) - share.spent - self._spent[site, kind]
        own = min(self.kept.get((site, kind), 0), self.left[kind])
        free = max(0, self.left[kind] - self._all_kept[kind])
        return max(0, min(greatest, own + free))

    def used_up(self, site: str, kind: RefreshKind) -> str:
        """Return for the operator that a site has used up its share."""
        return self.given.shares.get((site, kind), _EVERYBODY).used_up

    def _greatest(self, site: str, share: QuotaShare) -> float:
        """Return the greatest part, lifted before the reset for a site that alone has something due."""
        lent = (1.0 - share.greatest) * (1.0 - self._kept_part) if self._due == {site} else 0.0
        return share.greatest + lent

    def spend(self, site: str, kind: RefreshKind, tokens: int) -> None:
        """Take tokens for a site, its guarantee first."""
        self.left[kind] -= tokens
        self._spent[site, kind] += tokens
        own = min(tokens, self.kept.get((site, kind), 0))
        if own:
            self.kept[site, kind] -= own
            self._all_kept[kind] -= own
