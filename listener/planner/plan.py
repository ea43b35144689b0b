"""One plan: what to send now, as files or as directories, and what waits, with the reasons."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain

from listener.planner.constants import LEND_HOURS, LEND_STEP_SECONDS, REPLAN_SECONDS
from listener.planner.costs import Cover
from listener.planner.cover import solve
from listener.planner.draft import Draft
from listener.planner.forest import Forest, build_forest
from listener.planner.limits import Meter, QuotaPool, meters
from listener.planner.model import DirectoryLoad, Limit, Plan, PlanInput
from listener.planner.pacing import TokenPrices, affordable, token_prices
from listener.planner.reasons import Reasons
from listener.planner.weigh import Weighed, waiting_weight, weigh
from listener.refresh import RefreshKind

__all__ = ["plan"]

NOT_COVERED = -1


def plan(given: PlanInput) -> Plan:
    """
    Choose what to refresh now.

    Every due need is sent as a file, covered by a directory, or deferred with a reason; nothing is
    planned beyond what budgets, shares and limits hold, less the reserve.
    """
    if not given.loads:
        return Plan()
    pool = QuotaPool(given, affordable(given))
    prices, held = token_prices(given, pool.joint_left()), meters(given.limits)
    return _finish(given, prices, _decide(given, prices, held, pool), held)


def _decide(given: PlanInput, prices: TokenPrices, held: list[Meter], pool: QuotaPool) -> Draft:
    """Choose directories for all sites together, then single needs, each site within its share."""
    left = dict(prices.left)
    draft = Draft(Reasons(given, prices, left), held, left, pool)
    rest: Sequence[DirectoryLoad] = given.loads
    if not _no_directory_pays(given.loads, prices):
        weighed, cover = _cover(given, prices)
        draft.gap = cover.gap
        draft.reasons.evictions = weighed.evictions()
        payers = _payers(weighed.forest, cover.directories) if given.shares else {}
        chosen = {
            v: draft.refresh_directory(weighed, v, payer=payer)
            for v in cover.directories
            if pool.most(payer := payers.get(v, ""), RefreshKind.DIRECTORY) > 0
        }
        rest = _uncovered(weighed, chosen, given, draft)
    for load in _dearest_first(rest, draft, given.now, prices.hours):
        draft.send_singles(load)
    return draft


def _dearest_first(rest: Sequence[DirectoryLoad], draft: Draft, now: float, hours: float) -> Iterable[DirectoryLoad]:
    """
    Order loads by what waiting costs, then by age, as far as tokens reach; the rest in any order.

    One long sort would keep the interpreter to itself, and the event loop waiting.
    """
    files, params = draft.left[RefreshKind.FILE], draft.left[RefreshKind.IGNORE_PARAMS]
    short = sum(load.due for load in rest) > files or sum(load.due_all_params for load in rest) > params
    if draft.meters or short:
        rates = [(-waiting_weight(load, now, hours), load.oldest, i) for i, load in enumerate(rest)]
        first = [i for _, _, i in heapq.nsmallest(files + params, rates)]
        chosen = set(first)
        return chain((rest[i] for i in first), (load for i, load in enumerate(rest) if i not in chosen))
    return rest


def _no_directory_pays(loads: Sequence[DirectoryLoad], prices: TokenPrices) -> bool:
    """Return whether no directory can be refreshed, or even one that evicts nothing would cost more than files."""
    files = sum(load.due for load in loads)
    if prices.left[RefreshKind.DIRECTORY] <= 0:
        return True
    return (
        prices.files.cost(files) <= prices.directories.lowest
        and files <= prices.left[RefreshKind.FILE]
        and sum(load.due_all_params for load in loads) <= prices.left[RefreshKind.IGNORE_PARAMS]
        and not any(load.subtree_due for load in loads)
    )


def _cover(given: PlanInput, prices: TokenPrices) -> tuple[Weighed, Cover]:
    weighed = weigh(
        build_forest(given.loads),
        given,
        prices,
        files_short=sum(load.due for load in given.loads) > prices.left[RefreshKind.FILE],
        all_params_short=sum(load.due_all_params for load in given.loads) > prices.left[RefreshKind.IGNORE_PARAMS],
    )
    return weighed, solve(weighed.tree, prices.files.after(weighed.forced), prices.directories)


def _covered(forest: Forest, chosen: Container[int]) -> list[int]:
    """Return for each directory the chosen one at or above it."""
    covered = [NOT_COVERED] * len(forest)
    for v, parent in enumerate(forest.parents):
        covered[v] = v if v in chosen else covered[parent] if parent >= 0 else NOT_COVERED
    return covered


def _payers(forest: Forest, chosen: Sequence[int]) -> dict[int, str]:
    """Return for each chosen directory the site that has most due at or below it: its share pays."""
    covered = _covered(forest, set(chosen))
    due: dict[int, Counter[str]] = {v: Counter() for v in chosen}
    for v, i in forest.members:
        if covered[v] != NOT_COVERED:
            load = forest.loads[i]
            due[covered[v]][load.site] += load.due + load.due_all_params + load.subtree_due
    return {v: max(sites, key=lambda site: (sites[site], site)) for v, sites in due.items() if sites}


def _uncovered(
    weighed: Weighed, chosen: Mapping[int, Limit | None], given: PlanInput, draft: Draft
) -> list[DirectoryLoad]:
    """Return the loads, or what is left of them, that no chosen directory covers; defer those that one will cover."""
    forest = weighed.forest
    covered = _covered(forest, chosen)
    rest: list[DirectoryLoad] = []
    for v, i in forest.members:
        load = forest.loads[i]
        if covered[v] == NOT_COVERED:
            rest.append(load)
        elif (limit := chosen[covered[v]]) is not None:
            draft.defer_to_directory(load, limit)
        elif load.forced_only and not given.force:
            rest.append(load._replace(subtree_due=False, due_all_params=0))
    return rest


def _finish(given: PlanInput, prices: TokenPrices, draft: Draft, held: list[Meter]) -> Plan:
    spent = {RefreshKind.FILE: 0, RefreshKind.DIRECTORY: len(draft.directories)}
    for single in draft.files:
        spent[single.kind] = spent.get(single.kind, 0) + single.take
    return Plan(
        directories=draft.directories,
        files=draft.files,
        deferred=draft.deferred,
        spent=spent,
        collateral=sum(directory.collateral for directory in draft.directories),
        gap=draft.gap,
        file_price=prices.files.lowest,
        wake_at=_wake_at(given, prices, held) if draft.deferred else None,
    )


def _wake_at(given: PlanInput, prices: TokenPrices, held: list[Meter]) -> float | None:
    """Return the next moment at which something that waits may be sent though nothing new comes."""
    times = [budget.resets_at for budget in given.budgets.values()]
    times += [meter.limit.resets_at for meter in held if meter.waiting and meter.limit.resets_at is not None]
    if prices.left[RefreshKind.DIRECTORY] > 0:
        times.append(given.now + REPLAN_SECONDS)
    if given.shares:
        lending = min(times[: len(given.budgets)], default=given.now) - LEND_HOURS * 3600.0
        times.append(max(lending, given.now + LEND_STEP_SECONDS))
    return min((time for time in times if time > given.now), default=None)
