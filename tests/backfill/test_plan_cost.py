"""What a backfill costs: in days where a window is longer than a day, and in money."""

from __future__ import annotations

from collections import Counter

import pytest

from listener.allowances import Allowance, Day, Month, Rolling
from listener.backfill.plan import Cost, _days
from listener.backfill.share import ShareBudget, Taken
from listener.planner import Budget
from listener.refresh import RefreshKind

FILE, DIRECTORY = RefreshKind.FILE, RefreshKind.DIRECTORY
APRIL = 1_775_001_600
"""2026-04-01, 00:00 UTC: a month of 30 days."""
MONTHLY = Allowance(
    name="paths", limit=3_000, window=Month(), costs={FILE: 1, DIRECTORY: 1}, free=1_000, unit_dollars=0.005
)


def a_share(*allowances: Allowance, share: float = 1.0, used: int = 0) -> ShareBudget:
    """Return a share of these allowances of one account."""
    found = ShareBudget(APRIL, float(Day().end(APRIL)))
    for one in allowances:
        key = "main", one.name
        found.allowances[key], found.used[key] = one, used
        found.most[key] = found.left[key] = int(one.limit * share)
    return found


def taken(share: ShareBudget, **requests: int) -> Taken:
    """Return what so many requests of each kind take."""
    counts = Counter({("main", RefreshKind(kind)): count for kind, count in requests.items()})
    units: Counter[tuple[str, str]] = Counter()
    for (_, kind), count in counts.items():
        for key, one in share.allowances.items():
            units[key] += count * one.costs.get(kind, 0)
    return Taken(counts, units)


@pytest.mark.parametrize(("used", "dollars"), [(0, 0.0), (950, 0.25), (1_500, 0.5)])
def test_a_share_costs_what_its_units_cost_beyond_the_free_ones(used: int, dollars: float) -> None:
    """Whoever spent those before."""
    share, cost = a_share(MONTHLY, used=used), Cost(urls=100)
    cost.admit(taken(share, file=90, directory=10), 100, share)
    assert cost.dollars == pytest.approx(dollars)
    assert cost.refreshes == {"directory": 10, "file": 90}
    assert (cost.deferred, cost.further_days) == (0, 0)


def test_what_a_share_of_a_month_does_not_pay_for_takes_days_of_that_month() -> None:
    """A third of 3,000 in a month is 33 a day; of several allowances the scarcest counts."""
    share, cost = a_share(MONTHLY, share=1 / 3), Cost(urls=2_000)
    cost.admit(taken(share, file=1_000), 1_000, share)
    assert (cost.deferred, cost.further_days) == (1_000, 30)
    days = Allowance(name="days", limit=110, window=Rolling(10), costs={FILE: 1})
    share, cost = a_share(MONTHLY, days), Cost(urls=200)
    cost.admit(taken(share, file=110), 110, share)
    assert (cost.deferred, cost.further_days) == (90, 9)


def test_what_waits_is_sent_at_the_mean_rate_of_its_window() -> None:
    """Less the reserve; never where there is nothing of it."""
    budgets = [Budget(MONTHLY, 0, Month().end(APRIL))]
    assert _days(300, FILE, budgets, 0.0, APRIL) == 3
    assert _days(300, FILE, budgets, 0.5, APRIL) == 6
    assert _days(0, FILE, budgets, 0.0, APRIL) == 0
    assert _days(1, RefreshKind.PREFETCH, budgets, 0.0, APRIL) == float("inf")
