"""
What may be spent now: the price of a token, and what limits and shares leave.

The price is a shadow price, from tokens left, hours to the reset and what is expected of them. Let ``R`` be how many
needs will still become due before the reset, with ``m`` expected. Nothing is known of its law but that it has a heavy
tail, so the log-logistic one of power two stands for it:

- a file token with ``x`` others left is missed later with the chance ``P(R > x) = 1 / (1 + (x / m)²)``. A need
  without a token waits until the reset, on average half the hours left. The token's price is the product.
- with ``x`` file tokens left the day is expected to fall short of ``E(R - x)+ = m · (π / 2 - arctan(x / m))``
  tokens. The last directory token could cover all of that, for the hours left: used now it should save no less.
  With ``k`` directory tokens left the next one would cover the ``k``-th part, and is missed less often: its price
  is the ``k ** 1.5``-th part.
- waiting until the reset costs a need the hours until then: the last, unlimited step of the file prices. So a
  file token is always worth using, and a directory is taken when waiting would cost more.

Both prices are highest when tokens are few and the reset far, and fall to nothing before it.

A :class:`Meter` counts what is left of each limit besides the day's; a :class:`QuotaPool` parts the day's by site.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from listener.planner.constants import (
    COVER_ALL_COST,
    DIRECTORY_DECAY,
    EFFECT_HOURS,
    LEND_HOURS,
    NEGLIGIBLE_CHANCE,
    PRICE_STEPS,
    STALE_HOUR_COST,
    WIDEST_HOURS,
)
from listener.planner.model import Limit, PlanInput, QuotaShare, TokenBudget
from listener.refresh import RefreshKind, reserved_units

__all__ = [
    "NO_BUDGET",
    "Meter",
    "QuotaPool",
    "TokenPrices",
    "affordable",
    "hours_to_reset",
    "meters",
    "room",
    "take",
    "token_prices",
    "too_many_evictions",
    "widest_seconds",
]


class Prices:
    """
    What the next tokens of one currency cost, in steps of rising price.

    A step is ``(tokens, price of each)``; past the last step there are no tokens. Rising prices
    make the total convex, which lets one price stand for the whole scale in a bound.
    """

    __slots__ = ("limit", "steps")

    def __init__(self, steps: Iterable[tuple[float, float]]) -> None:
        """Keep the steps; raise :class:`ValueError` if a price falls."""
        self.steps = [step for step in steps if step[0] > 0]
        if any(a[1] > b[1] for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("token prices must not fall from one step to the next")
        self.limit = sum(tokens for tokens, _ in self.steps)

    def cost(self, tokens: int) -> float:
        """Return what this many tokens cost together; infinite past the last step."""
        total, rest = 0.0, float(tokens)
        for size, price in self.steps:
            if rest <= 0:
                return total
            total += min(size, rest) * price
            rest -= size
        return total if rest <= 0 else math.inf

    def after(self, tokens: int) -> Prices:
        """Return the prices of what is left once this many tokens, the cheapest, are gone."""
        rest, steps = float(tokens), []
        for size, price in self.steps:
            gone = min(size, rest)
            rest -= gone
            if size > gone:
                steps.append((size - gone, price))
        return Prices(steps)

    def conjugate(self, price: float) -> float:
        """Return the most that could be gained by selling tokens at ``price``."""
        return sum(size * (price - own) for size, own in self.steps if own < price)

    def supply(self, price: float) -> float:
        """Return how many tokens are cheaper than ``price``."""
        return sum(size for size, own in self.steps if own < price)

    @property
    def lowest(self) -> float:
        """What the first token costs; infinite without tokens."""
        return self.steps[0][1] if self.steps else math.inf

    @property
    def highest(self) -> float:
        """What the last token costs; infinite without tokens."""
        return self.steps[-1][1] if self.steps else math.inf


def free_then(tokens: float, price: float) -> Prices:
    """Return prices by which ``tokens`` are free and any further one costs ``price``."""
    return Prices([(tokens, 0.0), (math.inf, price)])


SINGLE_PRICES = 1_000
"""Directory tokens that have a price each: a CDN without a quota counts as one of thousand millions."""
NO_BUDGET = TokenBudget(limit=0, left=0, resets_at=0.0)


class TokenPrices(NamedTuple):
    """What may be spent now, and at which prices."""

    left: Mapping[RefreshKind, int]
    """Tokens of each kind, less the reserve."""
    hours: float
    """Until the reset."""
    expected: float
    """Needs that are expected to become due until then."""
    defer_cost: float
    """What leaving one object until the reset costs, in evicted objects."""
    files: Prices
    directories: Prices
    covers_all: bool = False
    """Whether nothing may wait that can be covered: prices are no prices then."""


def token_prices(given: PlanInput, left: Mapping[RefreshKind, int]) -> TokenPrices:
    """Return what may be spent and what it costs: ``left`` tokens of each kind, at the prices of the hour."""
    hours = hours_to_reset(given)
    files, directories = left[RefreshKind.FILE], left[RefreshKind.DIRECTORY]
    expected = given.arrivals.expected(given.now, hours)
    if given.cover_all:
        costs = (COVER_ALL_COST, free_then(files, COVER_ALL_COST), Prices([(directories, 0.0)]))
    else:
        defer_cost = STALE_HOUR_COST * hours
        costs = (
            defer_cost,
            file_prices(files, expected, hours, defer_cost),
            directory_prices(directories, files, expected, hours),
        )
    return TokenPrices(left, hours, expected, *costs, covers_all=given.cover_all)


def hours_to_reset(given: PlanInput, *, least: float = EFFECT_HOURS) -> float:
    """Return how long the next reset is off; a reset that is overdue is taken to be near."""
    resets = [budget.resets_at for budget in given.budgets.values() if budget.resets_at > given.now]
    return max(least, (min(resets, default=given.now) - given.now) / 3600.0)


def file_prices(left: int, expected: float, hours: float, defer_cost: float) -> Prices:
    """Return rising prices of the file tokens left, and that of waiting beyond them."""
    size = max(1, -(-left // PRICE_STEPS))
    steps: list[tuple[float, float]] = []
    for first in range(0, left, size):
        tokens = min(size, left - first)
        others = left - first - tokens / 2
        price = STALE_HOUR_COST * hours / 2 * _missed(others, expected)
        steps.append((tokens, min(defer_cost, price)))
    return Prices([*steps, (math.inf, defer_cost)])


def directory_prices(left: int, files: int, expected: float, hours: float) -> Prices:
    """Return rising prices of the directory tokens left; all but the last thousand have one price."""
    shortfall = expected * (math.pi / 2 - math.atan(files / expected))
    value = STALE_HOUR_COST * hours * shortfall
    single = min(left, SINGLE_PRICES)
    steps = [(1, value / others**DIRECTORY_DECAY) for others in range(single, 0, -1)]
    return Prices([(left - single, steps[0][1]), *steps] if left > single else steps)


def _missed(others: float, expected: float) -> float:
    chance = 1.0 / (1.0 + (others / expected) ** 2)
    return chance if chance > NEGLIGIBLE_CHANCE else 0.0


def widest_seconds(file_price: float) -> float:
    """
    Return how long two refreshes of one URL that changes all the time should be apart, at a file token's price.

    With ``T`` hours between them an hour costs ``T / 2`` stale object-hours and ``1 / T`` tokens: least at
    ``T = sqrt(2 · price)``, the square-root rule of stock keeping. Never more than
    :data:`~listener.planner.constants.WIDEST_HOURS`.
    """
    return 3600.0 * min(WIDEST_HOURS, math.sqrt(2.0 * max(0.0, file_price) / STALE_HOUR_COST))


def affordable(given: PlanInput) -> dict[RefreshKind, int]:
    """Return the tokens of each kind that are left, less the reserve."""
    left: dict[RefreshKind, int] = {}
    for kind in RefreshKind:
        budget = given.budgets.get(kind, NO_BUDGET)
        reserve = 0 if given.urgent else reserved_units(kind, budget.limit, given.reserve)
        left[kind] = max(0, budget.left - reserve)
    return left


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
