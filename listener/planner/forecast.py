"""What lies ahead: until when a quota lasts, and whether what waits can drain at all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from listener.allowances import length_days
from listener.planner.balances import Balances, affordable
from listener.planner.model import Budget, PlanInput, PlannedDirectory
from listener.planner.plan import plan
from listener.refresh import RefreshKind

__all__ = ["Backlog", "Forecast", "backlog", "forecast"]

_FILE = RefreshKind.FILE
_DAY_HOURS = 24.0
_HOUR_SECONDS = 3600.0


class Forecast(NamedTuple):
    """How far the units of one allowance will reach."""

    per_hour: float
    """Units spent an hour since the window began."""
    lasts_until: float | None
    """When none will be left at this rate, in seconds since the epoch; ``None``: not before the reset."""


class Backlog(NamedTuple):
    """Whether what waits will drain."""

    needs: int
    """Due needs that wait for tokens."""
    days: float | None
    """Days until it is drained by file tokens alone; ``None``: never, as much arrives as a day's quota takes."""
    offer: list[PlannedDirectory]
    """Directories that would cover what file tokens do not, at most as many as a day has tokens for."""


def forecast(budget: Budget, *, now: float) -> Forecast:
    """Return until when a budget lasts at the rate at which it was spent since its window began."""
    hours = max(0.0, now - budget.allowance.window.first(now)) / _HOUR_SECONDS
    per_hour = max(0, budget.limit - budget.left) / hours if hours > 0 else 0.0
    if budget.left <= 0:
        return Forecast(per_hour, now)
    if per_hour <= 0:
        return Forecast(per_hour, None)
    ends = now + budget.left / per_hour * _HOUR_SECONDS
    return Forecast(per_hour, ends if ends < budget.resets_at else None)


def backlog(given: PlanInput, *, needs: int | None = None) -> Backlog:
    """
    Return how long what is due takes to drain, and which directories would drain it at the next reset.

    ``needs`` is how many are due where ``given`` holds only the fullest directories.
    """
    needs = sum(load.due for load in given.loads) if needs is None else needs
    fresh = replace(given, budgets=[one._replace(left=one.limit) for one in given.budgets])
    units = affordable(replace(fresh, urgent=False))
    rates = [
        units[one.name] // cost / length_days(one.allowance.window, given.now)
        for one in given.budgets
        if (cost := one.cost(_FILE))
    ]
    spare = min(rates, default=math.inf) - given.arrivals.expected(given.now, _DAY_HOURS)
    days = needs / spare if spare > 0 else None
    if needs <= Balances(fresh, units).of(_FILE):
        return Backlog(needs, days, [])
    offer = plan(replace(fresh, cover_all=True, shares={}, limits=()))
    return Backlog(needs, days, offer.directories)
