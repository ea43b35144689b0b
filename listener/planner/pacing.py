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

Units that have to last longer than a day, or of which files and directories take the same, are paced: with ``x`` left
and ``m`` expected to be wanted the next one costs ``(m / x)²`` evicted objects. That is next to nothing while there are
plenty, and one object at the usual pace; when units go faster than the days do it rises until they do no longer,
however many are wanted. Past the free units each costs its dollars at the exchange rate, or its scarcity where that is
more; a free one never costs more than the first that is paid.

A :class:`Meter` counts what is left of each limit besides the allowances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from listener.allowances import Rolling
from listener.planner.balances import Balances, hours_left
from listener.planner.constants import (
    COVER_ALL_COST,
    DIRECTORY_DECAY,
    EFFECT_HOURS,
    LONGEST_HOURS,
    NEGLIGIBLE_CHANCE,
    PATIENCE_HOURS,
    PRICE_STEPS,
    STALE_HOUR_COST,
    UNLIMITED_HOURS,
    WIDEST_HOURS,
)
from listener.planner.model import Budget, Limit, PlanInput
from listener.planner.prices import Currency, Prices, Tariff
from listener.refresh import RefreshKind

__all__ = [
    "Meter",
    "TokenPrices",
    "meters",
    "room",
    "take",
    "token_prices",
    "too_many_evictions",
    "waiting_hours",
    "widest_seconds",
]


DAY_HOURS = 24.0
SINGLE_PRICES = 1_000
"""Directory tokens that have a price each; all beyond have one together."""


class TokenPrices(NamedTuple):
    """What may be spent now, and at which prices."""

    left: Balances
    """Units of each allowance, less the reserve."""
    hours: float
    """Until what waits can be sent."""
    expected: float
    """Needs that are expected to become due until then."""
    defer_cost: float
    """What leaving one object until then costs, in evicted objects."""
    tariff: Tariff
    covers_all: bool = False
    """Whether nothing may wait that can be covered: prices are no prices then."""


def token_prices(given: PlanInput, left: Balances) -> TokenPrices:
    """Return what may be spent and what it costs, at the prices of the hour."""
    hours = waiting_hours(given, left)
    defer_cost = COVER_ALL_COST if given.cover_all else STALE_HOUR_COST * hours
    tariff = Tariff([*_impossible(given), *_currencies(given, left, defer_cost)], defer_cost)
    expected = given.arrivals.expected(given.now, hours)
    return TokenPrices(left, hours, expected, defer_cost, tariff, covers_all=given.cover_all)


def waiting_hours(given: PlanInput, left: Balances) -> float:
    """
    Return how long waits what is not sent as files now.

    Until the last of the allowances comes back that are used up; while none is, until the next one does, but no longer
    than :data:`~listener.planner.constants.PATIENCE_HOURS`. What is overdue is taken to be near.
    """
    spent = [one for one in given.budgets if one.cost(RefreshKind.FILE)] or given.budgets
    empty = [one for one in spent if left.left[one.name] < max(1, one.cost(RefreshKind.FILE))]
    hours = [span for one in empty or spent if (span := hours_left(one, given.now)) > 0]
    if not given.budgets:
        return UNLIMITED_HOURS
    if empty:
        return min(LONGEST_HOURS, max(EFFECT_HOURS, *hours, 0.0))
    oldest = given.now - min((load.oldest for load in given.loads), default=given.now)
    return min(max(PATIENCE_HOURS, oldest / 3600.0), max(EFFECT_HOURS, min(hours, default=0.0)))


def _impossible(given: PlanInput) -> list[Currency]:
    """Return currencies of which there are no units, for what cannot be asked for."""
    missing = {kind: int(kind not in given.kinds) for kind in (RefreshKind.FILE, RefreshKind.DIRECTORY)}
    file, directory = missing.values()
    return [Currency(Prices([]), *pair) for pair in ((file, 0), (0, directory)) if any(pair)]


def _currencies(given: PlanInput, left: Balances, defer_cost: float) -> list[Currency]:
    """Return a currency for each allowance that files or directories spend, those of files first."""
    found = []
    for budget in sorted(given.budgets, key=lambda one: not one.cost(RefreshKind.FILE)):
        file, directory = (_cost(given, budget, kind) for kind in (RefreshKind.FILE, RefreshKind.DIRECTORY))
        if file or directory:
            units = left.left[budget.name]
            prices = _bare(given, budget, units) if given.cover_all else _prices(given, budget, left, defer_cost)
            found.append(Currency(prices, file, directory))
    return found


def _cost(given: PlanInput, budget: Budget, kind: RefreshKind) -> int:
    return budget.cost(kind) if kind in given.kinds else 0


def _bare(given: PlanInput, budget: Budget, units: int) -> Prices:
    """Return what units cost by themselves, whatever they might be wanted for later."""
    free, paid = _free_and_paid(budget, units)
    return Prices([(free, 0.0), (paid, budget.allowance.unit_dollars / given.object_dollars)])


def _prices(given: PlanInput, budget: Budget, left: Balances, defer_cost: float) -> Prices:
    """Return what the units of one allowance are worth now."""
    units = left.left[budget.name]
    file, directory = (_cost(given, budget, kind) for kind in (RefreshKind.FILE, RefreshKind.DIRECTORY))
    hours = _priced_hours(budget, given.now)
    expected = given.arrivals.expected(given.now, hours)
    # Where no directory competes for its units, a file is always worth sending: the next is worth no more.
    most = math.inf if directory else defer_cost / sum(RefreshKind.FILE in one.allowance.costs for one in given.budgets)
    if file and (directory or hours > DAY_HOURS or budget.allowance.is_paid):
        price = budget.allowance.unit_dollars / given.object_dollars
        return paced_prices(*_free_and_paid(budget, units), expected * file, price=price, highest=most / max(1, file))
    if file:
        return file_prices(units // file, expected, hours, most).parted(file)
    day = min(1.0, DAY_HOURS / hours)  # the part of what is left of a longer window that is for one day
    files = left.of(RefreshKind.FILE) * day
    return directory_prices(units // directory, files, expected * day, hours * day).parted(directory)


def _free_and_paid(budget: Budget, units: int) -> tuple[int, int]:
    """Return how many of the units left cost nothing, and how many cost money."""
    allowance = budget.allowance
    if allowance.free is None:
        return units, 0
    free = min(units, max(0, allowance.free - (budget.limit - budget.left)))
    return free, units - free


def _priced_hours(budget: Budget, now: float) -> float:
    """Return how long the units left have to last: a rolling window gives back day by day only what was spent."""
    window = budget.allowance.window
    hours = window.days * 24.0 if isinstance(window, Rolling) else hours_left(budget, now)
    return min(LONGEST_HOURS, max(EFFECT_HOURS, hours))


def file_prices(left: int, expected: float, hours: float, defer_cost: float) -> Prices:
    """Return rising prices of the file tokens left, none above that of waiting."""
    steps: list[tuple[float, float]] = []
    for tokens, others in _parts(left):
        price = STALE_HOUR_COST * hours / 2 * _missed(others, expected)
        steps.append((tokens, min(defer_cost, price)))
    return Prices(steps)


def directory_prices(left: int, files: float, expected: float, hours: float) -> Prices:
    """Return rising prices of the directory tokens left; all but the last thousand have one price."""
    shortfall = expected * (math.pi / 2 - math.atan(files / expected))
    value = STALE_HOUR_COST * hours * shortfall
    single = min(left, SINGLE_PRICES)
    steps = [(1, value / others**DIRECTORY_DECAY) for others in range(single, 0, -1)]
    return Prices([(left - single, steps[0][1]), *steps] if left > single else steps)


def paced_prices(free: int, paid: int, expected: float, *, price: float, highest: float = math.inf) -> Prices:
    """
    Return rising prices of the units left of an allowance that has to last.

    Args:
        free: units that cost no money.
        paid: units beyond these.
        expected: units that would be spent until they come back, if they were free.
        price: of a paid unit, in evicted objects.
        highest: what scarcity makes a unit cost at most.
    """
    bought = [(tokens, max(price, min(highest, _scarcity(others, expected)))) for tokens, others in _parts(paid)]
    ceiling = bought[0][1] if bought else highest
    return Prices([*((n, min(ceiling, _scarcity(others, expected))) for n, others in _parts(free)), *bought])


def _parts(left: int) -> Iterator[tuple[int, float]]:
    """Part tokens into a few steps: how many each has, and how many are left in its middle."""
    size = max(1, -(-left // PRICE_STEPS))
    for first in range(0, left, size):
        tokens = min(size, left - first)
        yield tokens, left - first - tokens / 2


def _scarcity(others: float, expected: float) -> float:
    value = (expected / others) ** 2
    return value if value > NEGLIGIBLE_CHANCE else 0.0


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
