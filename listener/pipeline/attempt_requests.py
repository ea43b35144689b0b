"""The attempts that a plan or a person requests: rows are read only where they are sent one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from listener import planner
from listener.pipeline.accounts import Account
from listener.pipeline.sites import Sites
from listener.refresh import KIND_OF_SCOPE, SCOPE_OF_KIND, RefreshKind, Scope
from listener.store.needs import DueRow, Load
from listener.store.reservation import AttemptRequest
from listener.store.snapshot import Snapshot

__all__ = ["Budgets", "directory_request", "request_for_need", "requests_for_plan", "requests_for_scope"]

PLENTY = 0.5
"""While more than this part of a day's quota is left, no URL waits for its minimal interval."""

Budgets = Mapping[RefreshKind, planner.TokenBudget]


def request_for_need(account: Account, row: DueRow, reason: str, *, urgent: bool = False) -> AttemptRequest:
    """Return the attempt for one need."""
    kind = KIND_OF_SCOPE[row.scope]
    target = account.targets[row.target]
    # Like a file, one path with its queries is always evicted.
    force = (urgent and target.can_force) or kind is RefreshKind.IGNORE_PARAMS or target.forces
    return AttemptRequest(row.target, kind, row.url, force, reason, row.stale_since, 1, urgent)


def requests_for_plan(
    snapshot: Snapshot,
    made: planner.Plan,
    loads: Iterable[Load],
    *,
    account: Account,
    sites: Sites,
    budgets: Budgets,
) -> list[AttemptRequest]:
    """Return the attempts of a plan, directories first; where tokens are scarce with an interval for each URL."""
    wanted = [_directory(one, account) for one in made.directories]
    chosen = {(part.target, part.directory_url) for part in made.files}
    by_place = {place: load for load in loads if (place := (load.target, load.url)) in chosen}
    for part in made.files:
        load = by_place[part.target, part.directory_url]
        least, most = _interval(sites, load, budgets.get(part.kind), made.file_price)
        rows = snapshot.due_rows(load, SCOPE_OF_KIND[part.kind], part.take)
        wanted += [
            request_for_need(account, row, part.reason)._replace(min_interval_seconds=least, most_interval_seconds=most)
            for row in rows
        ]
    return wanted


def _directory(one: planner.PlannedDirectory, account: Account) -> AttemptRequest:
    forces = account.targets[one.target].forces
    return AttemptRequest(
        one.target, RefreshKind.DIRECTORY, one.url, forces, one.reason, one.oldest, covered=one.covers
    )


def directory_request(load: Load, account: Account, reason: str) -> AttemptRequest:
    """Return the attempt for a load's subtree need."""
    forces = account.targets[load.target].forces
    return AttemptRequest(load.target, RefreshKind.DIRECTORY, load.url, forces, reason, load.oldest)


def _interval(sites: Sites, load: Load, budget: planner.TokenBudget | None, file_price: float) -> tuple[float, float]:
    """Return the shortest time between two refreshes of a URL, and what it may grow to while the URL changes on."""
    site = sites.of(load.target, load.url)
    if site is None or (budget is not None and budget.left > budget.limit * PLENTY):
        return 0.0, 0.0
    least = site.min_interval_seconds
    return least, max(least, planner.widest_seconds(file_price))


def requests_for_scope(
    snapshot: Snapshot, loads: Sequence[Load], scope: Scope, left: int, *, account: Account, reason: str
) -> list[AttemptRequest]:
    """Return the attempts for up to ``left`` needs of one scope, load by load."""
    wanted: list[AttemptRequest] = []
    for load in loads:
        if left <= len(wanted):
            break
        rows = snapshot.due_rows(load, scope, left - len(wanted))
        wanted += [request_for_need(account, row, reason) for row in rows]
    return wanted
