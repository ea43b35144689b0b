"""What lies ahead of each account: until when its quotas last, and whether what waits can drain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from listener import planner
from listener.contracts import Target
from listener.pipeline.accounts import Account, accounts_of
from listener.pipeline.plan_inputs import PlanInputs, learned
from listener.pipeline.planning_round import gc_paused
from listener.planner.constants import MOST_CANDIDATES
from listener.plugins import sites_of
from listener.router.routing import Sites
from listener.settings import PlannerSettings, Settings
from listener.store import Store
from listener.store.needs import Snapshot

__all__ = ["Outlook", "outlooks"]


class Outlook(NamedTuple):
    """One account's days to come."""

    forecasts: Mapping[str, planner.Forecast]
    """By the name of the allowance."""
    backlog: planner.Backlog


async def outlooks(
    store: Store,
    settings: Settings,
    targets: Mapping[str, Target],
    *,
    now: float,
    arrivals: Mapping[str, planner.Arrivals] | None = None,
) -> dict[str, Outlook]:
    """
    Return the outlook of every account; works with and without a running daemon.

    Args:
        store: the state file.
        settings: the configuration.
        targets: the configured targets.
        now: seconds since the epoch.
        arrivals: what is known of the accounts' arrivals; learned from the attempts where it is not given.
    """
    sites = sites_of(settings, targets)
    found = {}
    for name, account in accounts_of(targets).items():
        look = partial(_look, account=account, sites=sites, settings=settings.planner, now=now)
        found[name] = await store.read(partial(look, arrivals=(arrivals or {}).get(name)))
    return found


def _look(
    snapshot: Snapshot,
    *,
    account: Account,
    sites: Sites,
    settings: PlannerSettings,
    now: float,
    arrivals: planner.Arrivals | None,
) -> Outlook:
    with gc_paused():
        inputs = PlanInputs(snapshot, account, sites, settings, now=now)
        forecasts = {one.name: planner.forecast(one, now=now) for one in inputs.budgets}
        # Of a backlog all over a large site the fullest directories are looked at: those are what may be offered.
        fullest = [load for load in snapshot.loads(most=MOST_CANDIDATES) if load.target in account.targets]
        if not fullest:
            return Outlook(forecasts, planner.Backlog(0, 0.0, []))
        account.arrivals = arrivals or learned(snapshot, account.name, now=now)
        given = inputs.given(fullest)
        looked_at = sum(load.due for load in given.loads)
        rest = snapshot.ready_needs(list(account.targets)) if len(fullest) >= MOST_CANDIDATES else 0
        return Outlook(forecasts, planner.backlog(replace(given, limits=()), needs=max(looked_at, rest)))
