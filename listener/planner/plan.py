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
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import NamedTuple

from listener.allowances import DAY_SECONDS, Day, Month, Rolling
from listener.planner.balances import Balances, QuotaPool, affordable, hours_left
from listener.planner.constants import (
    LEND_HOURS,
    LEND_STEP_SECONDS,
    LONG_REPLAN_FACTOR,
    PATIENCE_HOURS,
    REPLAN_SECONDS,
)
from listener.planner.cover import Cover, solve
from listener.planner.forest import Forest, Weighed, build_forest, waiting_weight, weigh
from listener.planner.model import (
    Budget,
    Deferral,
    DirectoryLoad,
    Limit,
    Plan,
    PlanInput,
    PlannedDirectory,
    PlannedFiles,
)
from listener.planner.pacing import Meter, TokenPrices, meters, room, take, token_prices, too_many_evictions
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
    left = Balances(given, prices.left.left)
    draft = Draft(Reasons(given, prices, left), held, left, pool, given.params_are_files)
    rest: Sequence[DirectoryLoad] = given.loads
    if not _no_directory_pays(given, prices):
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
    draft.worth = prices.tariff.sent(_singles(rest, given), len(draft.directories))
    for load in _dearest_first(rest, draft, given.now, prices.hours):
        draft.send_singles(load)
    return draft


def _dearest_first(rest: Sequence[DirectoryLoad], draft: Draft, now: float, hours: float) -> Iterable[DirectoryLoad]:
    """
    Order loads by what waiting costs, then by age, as far as tokens reach; the rest in any order.

    One long sort would keep the interpreter to itself, and the event loop waiting.
    """
    files, params = draft.left.of(RefreshKind.FILE), draft.left.of(RefreshKind.IGNORE_PARAMS)
    due = sum(load.due for load in rest)
    if draft.meters or due > min(files, draft.worth) or sum(load.due_all_params for load in rest) > params:
        rates = [(-waiting_weight(load, now, hours), load.oldest, i) for i, load in enumerate(rest)]
        first = [i for _, _, i in heapq.nsmallest(int(min(len(rates), files + params)), rates)]
        chosen = set(first)
        return chain((rest[i] for i in first), (load for i, load in enumerate(rest) if i not in chosen))
    return rest


def _no_directory_pays(given: PlanInput, prices: TokenPrices) -> bool:
    """Return whether no directory can be refreshed, or even one that evicts nothing would cost more than files."""
    files = _singles(given.loads, given)
    if prices.left.of(RefreshKind.DIRECTORY) <= 0:
        return True
    return (
        prices.tariff.cost(files, 0) <= prices.tariff.cost(0, 1)
        and files <= prices.tariff.sent(files, 0)
        and not _params_short(given, prices)
        and not any(load.subtree_due for load in given.loads)
    )


def _singles(loads: Iterable[DirectoryLoad], given: PlanInput) -> int:
    """Return how many needs are paid as files are."""
    if given.params_are_files:
        return sum(load.due + load.due_all_params for load in loads)
    return sum(load.due for load in loads)


def _params_short(given: PlanInput, prices: TokenPrices) -> bool:
    """Return whether all-params needs must wait for units of their own."""
    params = sum(load.due_all_params for load in given.loads)
    return not given.params_are_files and params > prices.left.of(RefreshKind.IGNORE_PARAMS)


def _cover(given: PlanInput, prices: TokenPrices) -> tuple[Weighed, Cover]:
    files = _singles(given.loads, given)
    weighed = weigh(
        build_forest(given.loads),
        given,
        prices,
        files_short=files > prices.tariff.sent(files, 0),
        all_params_short=_params_short(given, prices),
    )
    return weighed, solve(weighed.tree, prices.tariff.after(weighed.forced))


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
        dollars=round(draft.dollars, 6),
        gap=draft.gap,
        file_price=prices.tariff.file_price,
        wake_at=_wake_at(given, prices, held) if draft.deferred else None,
    )


def _wake_at(given: PlanInput, prices: TokenPrices, held: list[Meter]) -> float | None:
    """Return the next moment at which something that waits may be sent though nothing new comes."""
    resets = [budget.resets_at for budget in given.budgets if math.isfinite(budget.resets_at)]
    times = list(resets)
    times += [meter.limit.resets_at for meter in held if meter.waiting and meter.limit.resets_at is not None]
    if prices.left.of(RefreshKind.DIRECTORY) > 0:
        days = min(resets, default=given.now) - given.now > PATIENCE_HOURS * 3600.0
        times.append(given.now + REPLAN_SECONDS * (LONG_REPLAN_FACTOR if days else 1))
    if given.shares:
        lending = min(resets, default=given.now) - LEND_HOURS * 3600.0
        times.append(max(lending, given.now + LEND_STEP_SECONDS))
    return min((time for time in times if time > given.now), default=None)


@dataclass(slots=True)
class Draft:
    """What the tokens left are spent on."""

    reasons: Reasons
    meters: list[Meter]
    left: Balances
    pool: QuotaPool
    params_are_files: bool = False
    worth: float = math.inf
    """How many files cost no more than leaving them."""
    directories: list[PlannedDirectory] = field(default_factory=list)
    files: list[PlannedFiles] = field(default_factory=list)
    deferred: list[Deferral] = field(default_factory=list)
    gap: float = 0.0
    dollars: float = 0.0

    def refresh_directory(self, weighed: Weighed, v: int, *, payer: str) -> Limit | None:
        """Plan a directory on a site's share, unless a limit makes it wait: return that."""
        forest, evicts = weighed.forest, weighed.unchanged[v]
        target, url = forest.targets[v], forest.urls[v]
        allowed, blocking = room(self.meters, RefreshKind.DIRECTORY, target, url, 1)
        blocking = blocking if not allowed else too_many_evictions(self.meters, target, url, evicts)
        if blocking is not None:
            blocking.waiting = True
            return blocking.limit
        dollars = self._pay(RefreshKind.DIRECTORY, 1)
        take(self.meters, RefreshKind.DIRECTORY, target, url, 1, evictions=evicts)
        self.pool.spend(payer, RefreshKind.DIRECTORY, 1)
        below, subtrees, known = forest.below[v], forest.subtrees[v], weighed.weights[v] is not None
        reason = self.reasons.directory(below, subtrees, evicts, known=known, dollars=dollars)
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
        worth = self.worth if kind is RefreshKind.FILE or self.params_are_files else math.inf
        left, most = self.left.of(kind), self.pool.most(load.site, kind)
        afforded = int(min(due, left, most, worth))
        allowed, blocking = room(self.meters, kind, load.target, load.url, afforded)
        if allowed:
            self.worth -= allowed if worth < math.inf else 0
            dollars = self._pay(kind, allowed)
            take(self.meters, kind, load.target, load.url, allowed)
            self.pool.spend(load.site, kind, allowed)
            reason = self.reasons.file(kind, due, allowed, dollars=dollars)
            self.files.append(PlannedFiles(load.target, load.url, allowed, kind, reason))
        causes = []
        if blocking is not None:
            blocking.waiting = True
            limit = blocking.limit
            causes.append(Cause(f"waiting for {limit.name}", afforded - allowed, limit.resets_at))
        if due > afforded:
            why = ""
            if (self.left.of(kind) if allowed else left) > 0:
                why = self.reasons.kept(kind) if worth < min(left, most) else self.pool.used_up(load.site, kind)
            causes.append(self.reasons.quota_cause(kind, due - afforded, used_up=why))
        return causes

    def _pay(self, kind: RefreshKind, refreshes: int) -> float:
        """Spend the units of refreshes; return what they cost in dollars."""
        dollars = self.left.dollars(kind, refreshes)
        self.left.spend(kind, refreshes)
        self.dollars += dollars
        return dollars

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
    left: Balances
    """Units left, which the plan keeps up to date."""
    evictions: Callable[[DirectoryLoad], int | None] = lambda _: None
    """How many unchanged objects a refresh of a load's own directory would evict; ``None``: not known."""
    _state: tuple[tuple[float, float], str] = field(default=((-1, -1), ""))
    _short: dict[tuple[RefreshKind, str], tuple[str, float | None]] = field(default_factory=dict)
    """What is said of a kind whose scarcest allowance is used up, and until when that is."""
    _counted: tuple[int, tuple[float, float]] = (-1, (0, 0))
    """Refreshes left of each kind after so many changes of the balances."""
    _is_shared: bool = False
    """Whether files and directories spend the same."""
    _made: dict[tuple[object, ...], str] = field(default_factory=dict)
    """Texts made so far: a plan may defer a million directories for the same few reasons."""

    def __post_init__(self) -> None:
        """Look once at what is shared: reasons are made for a million loads."""
        self._is_shared = self.given.costs(RefreshKind.FILE) == self.given.costs(RefreshKind.DIRECTORY) != {}

    def directory(self, files: int, subtrees: int, evicts: int, *, known: bool, dollars: float = 0.0) -> str:
        """Return why a directory is refreshed, which covers so many file and subtree needs."""
        gains = [f"replaces {_counted(files, 'file refresh', 'file refreshes')}"] if files else []
        gains += [f"covers {_counted(subtrees, 'changed folder', 'changed folders')}"] if subtrees else []
        touches = self._touches(evicts, known=known)
        decision = f"One directory refresh{_for(dollars)} {' and '.join(gains)}, and {touches}."
        numbers = f"covers {files + subtrees}, evicts {evicts}{'' if known else ' (assumed)'}; {self._tokens()}"
        return f"{decision}{NUMBERS}{numbers}]"

    def _touches(self, evicts: int, *, known: bool) -> str:
        verb = "evicts" if self.given.force else "revalidates"
        if not evicts:
            return f"{verb} nothing else"
        return f"{verb} {_objects(evicts if known else None)}"

    def file(self, kind: RefreshKind, due: int, sent: int, *, dollars: float = 0.0) -> str:
        """Return why needs are sent one by one."""
        decision = "Sent by itself: the quota allows it, and no directory refresh costs less."
        if dollars:
            several = f" ({_counted(sent, 'refresh', 'refreshes')})" if sent > 1 else ""
            decision = f"Sent by itself{_for(dollars)}{several}: no directory refresh costs less."
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
        scarcest = kind, self.left.scarcest(kind)
        if scarcest not in self._short:
            budget = self._scarcest(kind)
            resets_at = math.inf if budget is None or self.given.cover_all else budget.resets_at
            until = resets_at if math.isfinite(resets_at) else None
            self._short[scarcest] = self._none_left(kind, budget), until
        what, until = self._short[scarcest]
        return Cause(used_up or what, needs, until)

    def _scarcest(self, kind: RefreshKind) -> Budget | None:
        """Return the allowance that leaves fewest refreshes of a kind."""
        name = self.left.scarcest(kind)
        return next((one for one in self.given.budgets if one.name == name), None)

    def _none_left(self, kind: RefreshKind, budget: Budget | None) -> str:
        """Return that an allowance is used up, by its own name."""
        is_kept = self.given.reserve and not self.given.urgent and (budget is None or budget.left > 0)
        kept = " beyond the reserve for urgent refreshes" if is_kept else ""
        is_daily = budget is not None and isinstance(budget.allowance.window, Day)
        if budget is None or (is_daily and self.given.cover_all):
            return f"no {kind} quota left{kept}"
        if is_daily:
            return f"no {budget.name} quota left today{kept}"
        return f"no {_of_window(budget)} are left{kept}{_paid(budget)}"

    def kept(self, kind: RefreshKind) -> str:
        """Return that units are left, but are kept for what comes."""
        budget = self._scarcest(kind)
        if budget is None:
            return ""
        days = hours_left(budget, self.given.now) / 24.0
        spans = f"another {days:.0f} days" if days >= 2 else f"another {days * 24:.0f} hours"
        return f"the {self.left.left[budget.name]:,} {_of_window(budget)} that are left have to last for {spans}"

    def _deferred(self, causes: list[Cause], directory: str) -> str:
        key = (*causes, directory, *self._counts())
        text = self._made.get(key)
        if text is None:
            times = [cause.until for cause in causes if cause.until is not None]
            until = f" until {_clock(max(times), self.given.now)}" if times else ""
            decision = f"Deferred{until}: {'; '.join(cause.what for cause in causes)}.{directory}"
            counts = ", ".join(f"{cause.needs} due: {cause.what}" for cause in causes)
            text = self._made[key] = f"{decision}{NUMBERS}{counts}; {self._tokens()}]"
        return text

    def _no_directory(self, load: DirectoryLoad) -> str:
        """Return a sentence on why no directory refresh covers it."""
        if not load.due:
            return ""
        if not self._counts()[1]:
            return "" if self._is_shared else " No directory quota is left either."
        if not self.given.allowed(load.url):
            return " Its directory may not be refreshed (min_directory_depth, directory_blackout)."
        if self.given.cover_all:
            return " No directory that may be refreshed covers it."
        evicts = self.evictions(load)
        if evicts == 0:
            return f" {self._directory_units()} kept for larger changes."
        return f" A directory refresh would evict {_objects(evicts)}, more than waiting costs."

    def _tokens(self) -> str:
        """Return what is left, and at which prices."""
        left = self._counts()
        if self._state[0] != left:
            self._state = left, f"{self._amounts(*left)}{self._prices(left[1])}"
        return self._state[1]

    def _counts(self) -> tuple[float, float]:
        if self._counted[0] != self.left.changes:
            counts = self.left.of(RefreshKind.FILE), self.left.of(RefreshKind.DIRECTORY)
            self._counted = self.left.changes, counts
        return self._counted[1]

    def _amounts(self, files: float, directories: float) -> str:
        if self._is_shared and (budget := self._scarcest(RefreshKind.FILE)) is not None:
            return f"{self.left.left[budget.name]} {_of_window(budget)} left"
        amounts = ("unlimited" if math.isinf(left) else str(left) for left in (files, directories))
        return "{} file and {} directory refreshes left".format(*amounts)

    def _directory_units(self) -> str:
        budget = self._scarcest(RefreshKind.DIRECTORY) if self._is_shared else None
        return "The directory quota left is" if budget is None else f"The {_of_window(budget)} that are left are"

    def _prices(self, directories: float) -> str:
        prices = self.prices
        if prices.covers_all:
            return ""
        text = f", {prices.expected:.0f} more changes expected in {prices.hours:.1f} h"
        text += f"; waiting weighs {prices.defer_cost:.1f} evictions each"
        return f"{text}, the next directory refresh {prices.tariff.directory_price:.1f}" if directories else text


def _of_window(budget: Budget) -> str:
    """Return the units of an allowance with their window: ``paths of the month``."""
    window = budget.allowance.window
    if isinstance(window, Day):
        return f"{budget.name} of the day"
    if isinstance(window, Month):
        return f"{budget.name} of the month"
    return f"{budget.name} of the last {window.days} days" if isinstance(window, Rolling) else budget.name


def _paid(budget: Budget) -> str:
    """Return what was free and what was paid of an allowance that is used up; empty where nothing costs money."""
    allowance = budget.allowance
    if not allowance.is_paid:
        return ""
    dollars = allowance.dollars(budget.limit)
    paid = f"${dollars:,.2f} are spent" if dollars else "none may be paid"
    free = allowance.free or 0
    return f" ({free:,} {'is' if free == 1 else 'are'} free, and {paid})"


def _for(dollars: float) -> str:
    return f" for ${dollars:.3f}" if dollars else ""


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _objects(count: int | None) -> str:
    return "an unknown number of objects" if count is None else _counted(count, "unchanged object", "unchanged objects")


def _clock(at: float, now: float) -> str:
    """Return a time of the day, with its date where it is more than a day away."""
    minutes = int(at // 60) % 1440
    day = "" if at - now <= DAY_SECONDS else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d} "
    return f"{day}{minutes // 60:02}:{minutes % 60:02} UTC"
