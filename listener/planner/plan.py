"""
One plan: what to send now, as files or as directories, and what waits, with the reasons.

:func:`plan` chooses directories for all sites together (:mod:`listener.planner.cover`), then single needs, the dearest
first. A :class:`Draft` collects the decisions and keeps them within tokens, shares and limits; :class:`Reasons` writes
why: the decision in an operator's words, then the numbers behind it. A reason is one text, so that it can be stored
and printed anywhere: ``decision [planner: numbers]``. Text output and the page show the decision, and the numbers where
they are asked for (:func:`listener.refresh.split_reason`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from listener.contracts import UNLIMITED
from listener.planner.constants import LEND_HOURS, LEND_STEP_SECONDS, REPLAN_SECONDS
from listener.planner.cover import Cover, solve
from listener.planner.forest import Forest, Weighed, build_forest, waiting_weight, weigh
from listener.planner.model import Deferral, DirectoryLoad, Limit, Plan, PlanInput, PlannedDirectory, PlannedFiles
from listener.planner.pacing import (
    NO_BUDGET,
    Meter,
    QuotaPool,
    TokenPrices,
    affordable,
    meters,
    room,
    take,
    token_prices,
    too_many_evictions,
)
from listener.refresh import NUMBERS, RefreshKind

__all__ = ["Cause", "Draft", "Reasons", "plan"]

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


@dataclass(slots=True)
class Draft:
    """What the tokens left are spent on."""

    reasons: Reasons
    meters: list[Meter]
    left: dict[RefreshKind, int]
    pool: QuotaPool
    directories: list[PlannedDirectory] = field(default_factory=list)
    files: list[PlannedFiles] = field(default_factory=list)
    deferred: list[Deferral] = field(default_factory=list)
    gap: float = 0.0

    def refresh_directory(self, weighed: Weighed, v: int, *, payer: str) -> Limit | None:
        """Plan a directory on a site's share, unless a limit makes it wait: return that."""
        forest, evicts = weighed.forest, weighed.unchanged[v]
        target, url = forest.targets[v], forest.urls[v]
        allowed, blocking = room(self.meters, RefreshKind.DIRECTORY, target, url, 1)
        blocking = blocking if not allowed else too_many_evictions(self.meters, target, url, evicts)
        if blocking is not None:
            blocking.waiting = True
            return blocking.limit
        self.left[RefreshKind.DIRECTORY] -= 1
        take(self.meters, RefreshKind.DIRECTORY, target, url, 1, evictions=evicts)
        self.pool.spend(payer, RefreshKind.DIRECTORY, 1)
        below, subtrees, known = forest.below[v], forest.subtrees[v], weighed.weights[v] is not None
        reason = self.reasons.directory(below, subtrees, evicts, known=known)
        planned = PlannedDirectory(target, url, below + subtrees, evicts, known, reason, forest.oldest[v])
        self.directories.append(planned)
        return None

    def defer_to_directory(self, load: DirectoryLoad, limit: Limit) -> None:
        """Defer a load whose directory has to wait for a limit: tokens spent on its files would be wasted."""
        needs = load.due + load.due_all_params + load.subtree_due
        self._defer(load, needs, self.reasons.directory_waits(limit, needs))

    def send_singles(self, load: DirectoryLoad) -> None:
        """Plan what is affordable of a load that no directory covers, and defer the rest."""
        causes = [self.reasons.subtree_cause(load)] if load.subtree_due else []
        for kind, due in ((RefreshKind.FILE, load.due), (RefreshKind.IGNORE_PARAMS, load.due_all_params)):
            if due:
                causes += self._send(load, kind, due)
        if causes:
            self._defer(load, sum(cause.needs for cause in causes), self.reasons.waits(load, causes))

    def _send(self, load: DirectoryLoad, kind: RefreshKind, due: int) -> list[Cause]:
        """Plan what is affordable of one kind; return what the rest waits for."""
        afforded = min(due, self.left[kind], self.pool.most(load.site, kind))
        allowed, blocking = room(self.meters, kind, load.target, load.url, afforded)
        if allowed:
            self.left[kind] -= allowed
            take(self.meters, kind, load.target, load.url, allowed)
            self.pool.spend(load.site, kind, allowed)
            reason = self.reasons.file(kind, due, allowed)
            self.files.append(PlannedFiles(load.target, load.url, allowed, kind, reason))
        causes = []
        if blocking is not None:
            blocking.waiting = True
            limit = blocking.limit
            causes.append(Cause(f"waiting for {limit.name}", afforded - allowed, limit.resets_at))
        if due > afforded:
            used_up = self.pool.used_up(load.site, kind) if self.left[kind] > 0 else ""
            causes.append(self.reasons.quota_cause(kind, due - afforded, used_up=used_up))
        return causes

    def _defer(self, load: DirectoryLoad, needs: int, reason: str) -> None:
        self.deferred.append(Deferral(load.target, load.url, needs, reason, load.oldest))


class Cause(NamedTuple):
    """What some needs of one directory wait for."""

    what: str
    needs: int
    until: float | None
    """Seconds since the epoch; ``None`` where it is not known."""


@dataclass(slots=True)
class Reasons:
    """The reasons of one plan."""

    given: PlanInput
    prices: TokenPrices
    left: dict[RefreshKind, int]
    """Tokens left, which the plan keeps up to date."""
    evictions: Callable[[DirectoryLoad], int | None] = lambda _: None
    """How many unchanged objects a refresh of a load's own directory would evict; ``None``: not known."""
    _state: tuple[tuple[int, int], str] = field(default=((-1, -1), ""))
    _made: dict[tuple[object, ...], str] = field(default_factory=dict)
    """Texts made so far: a plan may defer a million directories for the same few reasons."""

    def directory(self, files: int, subtrees: int, evicts: int, *, known: bool) -> str:
        """Return why a directory is refreshed, which covers so many file and subtree needs."""
        gains = [f"replaces {_counted(files, 'file refresh', 'file refreshes')}"] if files else []
        gains += [f"covers {_counted(subtrees, 'changed folder', 'changed folders')}"] if subtrees else []
        decision = f"One directory refresh {' and '.join(gains)}, and {self._touches(evicts, known=known)}."
        numbers = f"covers {files + subtrees}, evicts {evicts}{'' if known else ' (assumed)'}; {self._tokens()}"
        return f"{decision}{NUMBERS}{numbers}]"

    def _touches(self, evicts: int, *, known: bool) -> str:
        verb = "evicts" if self.given.force else "revalidates"
        if not evicts:
            return f"{verb} nothing else"
        return f"{verb} {_objects(evicts if known else None)}"

    def file(self, kind: RefreshKind, due: int, sent: int) -> str:
        """Return why needs are sent one by one."""
        decision = "Sent by itself: the quota allows it, and no directory refresh costs less."
        return f"{decision}{NUMBERS}{kind}, {sent} of {due} due; {self._tokens()}]"

    def directory_waits(self, limit: Limit, needs: int) -> str:
        """Return why a load waits for the refresh of a directory above it."""
        return self._deferred([Cause(f"its directory refresh waits for {limit.name}", needs, limit.resets_at)], "")

    def waits(self, load: DirectoryLoad, causes: list[Cause]) -> str:
        """Return why a load waits."""
        return self._deferred(causes, self._no_directory(load))

    def subtree_cause(self, load: DirectoryLoad) -> Cause:
        """Return what a subtree need waits for, which only a directory refresh can end."""
        if not self.given.allowed(load.url):
            return Cause("its directory may not be refreshed now (min_directory_depth, directory_blackout)", 1, None)
        return self.quota_cause(RefreshKind.DIRECTORY, 1, used_up="")

    def quota_cause(self, kind: RefreshKind, needs: int, *, used_up: str) -> Cause:
        """Return the cause where the quota is short: the day's, or with ``used_up`` what a site may have of it."""
        resets_at = None if self.given.cover_all else self.given.budgets.get(kind, NO_BUDGET).resets_at or None
        kept = " beyond the reserve for urgent refreshes" if self.given.reserve and not self.given.urgent else ""
        today = "" if self.given.cover_all else " today"
        return Cause(used_up or f"no {kind} quota left{today}{kept}", needs, resets_at)

    def _deferred(self, causes: list[Cause], directory: str) -> str:
        key = (*causes, directory, self.left[RefreshKind.FILE], self.left[RefreshKind.DIRECTORY])
        text = self._made.get(key)
        if text is None:
            times = [cause.until for cause in causes if cause.until is not None]
            until = f" until {_clock(max(times))}" if times else ""
            decision = f"Deferred{until}: {'; '.join(cause.what for cause in causes)}.{directory}"
            counts = ", ".join(f"{cause.needs} due: {cause.what}" for cause in causes)
            text = self._made[key] = f"{decision}{NUMBERS}{counts}; {self._tokens()}]"
        return text

    def _no_directory(self, load: DirectoryLoad) -> str:
        """Return a sentence on why no directory refresh covers it."""
        if not load.due:
            return ""
        if not self.left[RefreshKind.DIRECTORY]:
            return " No directory quota is left either."
        if not self.given.allowed(load.url):
            return " Its directory may not be refreshed (min_directory_depth, directory_blackout)."
        if self.given.cover_all:
            return " No directory that may be refreshed covers it."
        evicts = self.evictions(load)
        if evicts == 0:
            return " The directory quota left is kept for larger changes."
        return f" A directory refresh would evict {_objects(evicts)}, more than waiting costs."

    def _tokens(self) -> str:
        """Return what is left, and at which prices."""
        left = self.left[RefreshKind.FILE], self.left[RefreshKind.DIRECTORY]
        if self._state[0] != left:
            files, directories = (self._amount(kind) for kind in (RefreshKind.FILE, RefreshKind.DIRECTORY))
            self._state = left, f"{files} file and {directories} directory refreshes left{self._prices(left[1])}"
        return self._state[1]

    def _amount(self, kind: RefreshKind) -> str:
        is_unlimited = self.given.budgets.get(kind, NO_BUDGET).limit >= UNLIMITED
        return "unlimited" if is_unlimited else str(self.left[kind])

    def _prices(self, directories: int) -> str:
        prices = self.prices
        if prices.covers_all:
            return ""
        text = f", {prices.expected:.0f} more changes expected in {prices.hours:.1f} h"
        text += f"; waiting weighs {prices.defer_cost:.1f} evictions each"
        return f"{text}, the next directory refresh {prices.directories.lowest:.1f}" if directories else text


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _objects(count: int | None) -> str:
    return "an unknown number of objects" if count is None else _counted(count, "unchanged object", "unchanged objects")


def _clock(at: float) -> str:
    minutes = int(at // 60) % 1440
    return f"{minutes // 60:02}:{minutes % 60:02} UTC"
