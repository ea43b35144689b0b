"""One plan: what to send now, as files or as directories, and what waits, with the reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from listener.planner.constants import COVER_ALL_COST, STALE_HOUR_COST, WORTHLESS_HOURS
from listener.planner.cover import solve
from listener.planner.forest import build_forest
from listener.planner.model import Budget, Deferral, DirectoryLoad, Plan, PlanInput, PlannedDirectory, PlannedFiles
from listener.planner.prices import Prices, free_then
from listener.planner.problem import Cover
from listener.planner.weigh import Weighed, weigh
from listener.refresh import RefreshKind

__all__ = ["plan"]

_NO_BUDGET = Budget(limit=0, left=0, resets_at=0.0)
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class _Purse:
    """What may be spent now of each kind, and what waiting for more costs."""

    files: int
    directories: int
    all_params: int
    resets_at: float
    defer_cost: float
    """What leaving one object stale until the next reset costs, in evicted objects."""


@dataclass(slots=True)
class _Draft:
    """A plan in the making, with what is left of the purse for single needs."""

    left: dict[RefreshKind, int]
    waiting: str
    directories: list[PlannedDirectory] = field(default_factory=list)
    files: list[PlannedFiles] = field(default_factory=list)
    deferred: list[Deferral] = field(default_factory=list)


def plan(given: PlanInput) -> Plan:
    """
    Choose what to refresh now.

    Every due need is sent as a file, covered by a directory, or deferred with a reason; nothing is
    planned beyond what the budgets hold, less the reserve.
    """
    if not given.loads:
        return Plan()
    purse = _open_purse(given)
    draft = _Draft({RefreshKind.FILE: purse.files, RefreshKind.IGNORE_PARAMS: purse.all_params}, _waiting(given, purse))
    rest: Iterable[DirectoryLoad] = given.loads
    gap = 0.0
    if not _files_suffice(given, purse):
        weighed, cover = _cover(given, purse)
        rest, gap = _take_directories(draft, weighed, cover, given), cover.gap
    for load in sorted(rest, key=lambda load: (load.oldest, load.target, load.url)):
        _take_singles(draft, load)
    return _finish(draft, purse, given, gap)


def _open_purse(given: PlanInput) -> _Purse:
    budgets = [given.budgets.get(kind, _NO_BUDGET) for kind in RefreshKind]
    affordable = {kind: _affordable(budget, given) for kind, budget in zip(RefreshKind, budgets, strict=True)}
    resets_at = min((b.resets_at for b in budgets if b.resets_at > given.now), default=given.now)
    hours = max(WORTHLESS_HOURS, (resets_at - given.now) / _SECONDS_PER_HOUR)
    defer_cost = COVER_ALL_COST if given.cover_all else STALE_HOUR_COST * hours
    return _Purse(
        affordable[RefreshKind.FILE],
        affordable[RefreshKind.DIRECTORY],
        affordable[RefreshKind.IGNORE_PARAMS],
        resets_at,
        defer_cost,
    )


def _affordable(budget: Budget, given: PlanInput) -> int:
    reserve = 0 if given.urgent else math.ceil(budget.limit * given.reserve)
    return max(0, budget.left - reserve)


def _files_suffice(given: PlanInput, purse: _Purse) -> bool:
    return (
        not any(load.subtree_due for load in given.loads)
        and sum(load.due for load in given.loads) <= purse.files
        and sum(load.due_all_params for load in given.loads) <= purse.all_params
    )


def _cover(given: PlanInput, purse: _Purse) -> tuple[Weighed, Cover]:
    all_params = sum(load.due_all_params for load in given.loads)
    weighed = weigh(
        build_forest(given.loads),
        given,
        defer_cost=purse.defer_cost,
        all_params_cost=0.0 if all_params <= purse.all_params else purse.defer_cost,
    )
    cover = solve(
        weighed.tree,
        free_then(max(0, purse.files - weighed.forced), purse.defer_cost),
        Prices([(purse.directories, 0.0)]),
    )
    return weighed, cover


def _take_directories(draft: _Draft, weighed: Weighed, cover: Cover, given: PlanInput) -> list[DirectoryLoad]:
    """Note the chosen directories; return what they do not cover."""
    forest = weighed.forest
    chosen = set(cover.directories)
    covered = [v in chosen for v in range(len(forest))]
    rest: list[DirectoryLoad] = []
    for v, parent in enumerate(forest.parents):
        covered[v] = covered[v] or (parent >= 0 and covered[parent])
        if forest.load[v] < 0:
            continue
        load = forest.loads[forest.load[v]]
        if not covered[v]:
            rest.append(load)
        elif load.forced_only and not given.force:
            rest.append(load._replace(subtree_due=False, due_all_params=0))
    draft.directories.extend(_directory(weighed, v, draft.left[RefreshKind.FILE]) for v in cover.directories)
    return rest


def _directory(weighed: Weighed, v: int, affordable: int) -> PlannedDirectory:
    forest, known, collateral = weighed.forest, weighed.weights[v] is not None, weighed.unchanged[v]
    subtrees, below = forest.subtrees[v], forest.below[v]
    why = f"{subtrees} subtree changes" if subtrees else f"{below} due would take {below} of {affordable} file tokens"
    evicts = f"evicts {collateral} unchanged" if known or not collateral else f"evicts perhaps {collateral} unchanged"
    return PlannedDirectory(forest.targets[v], forest.urls[v], below + subtrees, collateral, known, f"{why}; {evicts}")


def _take_singles(draft: _Draft, load: DirectoryLoad) -> None:
    """Send what is affordable of a load that no directory covers, and defer the rest."""
    deferred = int(load.subtree_due)
    for kind, due in ((RefreshKind.FILE, load.due), (RefreshKind.IGNORE_PARAMS, load.due_all_params)):
        take = min(due, draft.left[kind])
        draft.left[kind] -= take
        deferred += due - take
        if take:
            draft.files.append(
                PlannedFiles(load.target, load.url, take, kind, f"{draft.left[kind]} {kind} tokens stay")
            )
    if deferred:
        draft.deferred.append(Deferral(load.target, load.url, deferred, draft.waiting, load.oldest))


def _waiting(given: PlanInput, purse: _Purse) -> str:
    kinds = (RefreshKind.FILE, RefreshKind.DIRECTORY)
    tokens = ", ".join(f"{given.budgets.get(kind, _NO_BUDGET).left} {kind} tokens left" for kind in kinds)
    hours = max(0.0, (purse.resets_at - given.now) / _SECONDS_PER_HOUR)
    return f"{tokens}, {given.reserve:.0%} of the day in reserve; next reset in {hours:.1f} h"


def _finish(draft: _Draft, purse: _Purse, given: PlanInput, gap: float) -> Plan:
    spent = {RefreshKind.FILE: 0, RefreshKind.DIRECTORY: len(draft.directories)}
    for files in draft.files:
        spent[files.kind] = spent.get(files.kind, 0) + files.take
    return Plan(
        directories=draft.directories,
        files=draft.files,
        deferred=draft.deferred,
        spent=spent,
        collateral=sum(directory.collateral for directory in draft.directories),
        gap=gap,
        wake_at=purse.resets_at if draft.deferred and purse.resets_at > given.now else None,
    )
