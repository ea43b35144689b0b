"""
What a token costs now: its shadow price, from tokens left, hours to the reset and what is expected of them.

Let ``R`` be how many needs will still become due before the reset, with ``m`` expected. Nothing is known
of its law but that it has a heavy tail, so the log-logistic one of power two stands for it:

- a file token with ``x`` others left is missed later with the chance ``P(R > x) = 1 / (1 + (x / m)²)``. A need
  without a token waits until the reset, on average half the hours left. The token's price is the product.
- with ``x`` file tokens left the day is expected to fall short of ``E(R - x)+ = m · (π / 2 - arctan(x / m))``
  tokens. The last directory token could cover all of that, for the hours left: used now it should save no less.
  With ``k`` directory tokens left the next one would cover the ``k``-th part, and is missed less often: its price
  is the ``k ** 1.5``-th part.
- waiting until the reset costs a need the hours until then: the last, unlimited step of the file prices. So a
  file token is always worth using, and a directory is taken when waiting would cost more.

Both prices are highest when tokens are few and the reset far, and fall to nothing before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from listener.planner.constants import (
    COVER_ALL_COST,
    DIRECTORY_DECAY,
    EFFECT_HOURS,
    NEGLIGIBLE_CHANCE,
    PRICE_STEPS,
    STALE_HOUR_COST,
    WIDEST_HOURS,
)
from listener.planner.costs import Prices, free_then
from listener.planner.model import PlanInput, TokenBudget
from listener.refresh import RefreshKind

__all__ = ["NO_BUDGET", "TokenPrices", "affordable", "hours_to_reset", "token_prices", "widest_seconds"]

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
        reserve = 0 if given.urgent else math.ceil(budget.limit * given.reserve)
        left[kind] = max(0, budget.left - reserve)
    return left
