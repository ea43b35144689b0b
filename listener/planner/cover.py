"""
The cover: which directories to refresh and what to leave to file refreshes, at the least cost.

The cost of a cover is the collateral of its directories, plus what the directories and the files that it
leaves cost together by a :class:`~listener.planner.prices.Tariff`, plus a penalty for each subtree need left
alone. A tariff has a currency of rising prices for each allowance: files and directories may have one each, or
share one. This is the BLOCK-ALL problem of Soldo, Argyraki and Markopoulou ("Optimal Source-Based Filtering of
Malicious Traffic", IEEE/ACM Transactions on Networking 20(2), 2012) with two kinds of filters.

1. At one fixed price a currency the best cover is a single pass up the trees. A search over such prices
   gives covers, and a lower bound on the cost of any cover (Lagrangian duality): a cover's tariff is at least
   what its units cost at those prices, less the conjugates.
2. A dynamic programme over (files, directories, cost) makes it exact: the tariff is worked out at its end. An
   option is dropped when another is no worse in all three, or when its reduced cost shows that no cover with it
   can beat the best cover known: both are safe.
3. Past :data:`WORK_LIMIT` the best cover known stands, compared with a greedy one, and its distance
   from the bound is reported as the gap.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from listener.planner.prices import Currency, Prices, Tariff

__all__ = ["WORK_LIMIT", "Bill", "Cover", "CoverTree", "greedy_cover", "solve"]


@dataclass(frozen=True, slots=True)
class CoverTree:
    """Parallel lists over directories, parents (-1: none) before children."""

    parents: Sequence[int]
    files: Sequence[int]
    """File tokens that a directory's own due needs cost."""
    penalties: Sequence[float]
    """What leaving a directory's own needs that file tokens cannot heal costs."""
    collateral: Sequence[float]
    """What a refresh of the directory evicts; infinite where it may not be refreshed."""


class Cover(NamedTuple):
    """A set of directories, none inside another; whatever is not below one of them is left to files."""

    cost: float
    directories: list[int]
    files: int
    """File tokens that all the rest takes."""
    gap: float = 0.0
    """By how much the cost may exceed the least possible."""


class Bill(NamedTuple):
    """The tree with its prices."""

    tree: CoverTree
    tariff: Tariff

    def total(self, directories: int, files: int, cost: float) -> tuple[float, int, int]:
        """Return what a cover costs in all, and its tokens to break ties by."""
        cost += self.tariff.cost(files, directories)
        return round(cost, 6), directories, files

    def cover(self, chosen: Sequence[bool]) -> Cover:
        """Return the topmost chosen directories as a cover."""
        tree, covered = self.tree, [False] * len(chosen)
        directories: list[int] = []
        files, cost = 0, 0.0
        for v, parent in enumerate(tree.parents):
            if parent >= 0 and covered[parent]:
                covered[v] = True
            elif chosen[v]:
                covered[v] = True
                directories.append(v)
                cost += tree.collateral[v]
            else:
                files += tree.files[v]
                cost += tree.penalties[v]
        return Cover(self.total(len(directories), files, cost)[0], directories, files)


WORK_LIMIT = 150_000
"""Merge steps of the exact programme: about 0.15 s. Real plans take some hundreds."""

SEARCH_LIMIT = 600_000
"""Directories visited by the search over price pairs: about 0.3 s."""

SEARCH_PASSES = (3, 40)
"""The fewest and the most passes of that search, each of which visits every directory."""

_EPSILON = 1e-5
_ROUNDING = 1e-12
"""By how much, relative to its size, a sum of costs may be off."""


_Option: TypeAlias = tuple[float, int, int, float, Any]
"""Reduced cost, directory tokens, file tokens, cost without tokens, and where it came from: ``None`` (files
only), a directory's index, or a pair of such."""


def solve(tree: CoverTree, tariff: Tariff, *, work_limit: int = WORK_LIMIT) -> Cover:
    """Return the cover of least cost; of equals the one with fewest directories, then with fewest files."""
    bill = Bill(tree, tariff)
    found = _search_prices(bill)
    options = _exact(bill, found, work_limit)
    if options is not None:
        best_option = min(options, key=lambda option: bill.total(*option[1:4]))
        cost, _, files = bill.total(*best_option[1:4])
        return Cover(cost, _flatten(best_option[4]), files)
    greedy = greedy_cover(bill)
    best = min(found.best, greedy, key=lambda cover: (cover.cost, len(cover.directories)))
    return best._replace(gap=max(0.0, best.cost - found.bound))


class _Found(NamedTuple):
    """The best cover met in the search, and the best bound with what a file and a directory cost in it."""

    best: Cover
    bound: float
    file_price: float
    directory_price: float


class _Step:
    """One currency's price in the search: raised while too much is asked for, lowered while too little."""

    def __init__(self, currency: Currency, waiting: float, ceiling: float) -> None:
        self.currency = currency
        self.prices = currency.prices
        if not currency.directory and math.isfinite(waiting):
            beyond = max([waiting / currency.file, *(price for _, price in currency.prices.steps[-1:])])
            self.prices = Prices([*currency.prices.steps, (math.inf, beyond)])
        self.low = self.prices.lowest if self.prices.steps else ceiling
        self.high = self.prices.highest if math.isinf(self.prices.limit) else max(ceiling, self.low)
        self.price = self.low
        self._direction = 0
        self._factor = 32.0

    def move(self, wanted: int) -> None:
        """Move towards the price at which as much is supplied as is wanted."""
        if self.prices.supply(self.price) <= wanted <= self.prices.supply(self.price + _EPSILON):
            return
        direction = 1 if wanted > self.prices.supply(self.price) else -1
        if direction == -self._direction:
            self._factor = math.sqrt(self._factor)
        self._direction = direction
        self.price = min(self.high, max(self.low, max(self.price, 1e-3) * self._factor**direction))


def price_trees(tree: CoverTree, file_price: float, directory_price: float) -> tuple[list[float], list[bool]]:
    """
    Solve at fixed prices, in one pass from the leaves up.

    Returns:
        For each directory the least cost of it and all below, and whether refreshing it is that.
    """
    values = [n * file_price + penalty for n, penalty in zip(tree.files, tree.penalties, strict=True)]
    chosen = [False] * len(values)
    parents, collateral = tree.parents, tree.collateral
    for v in range(len(values) - 1, -1, -1):
        value = directory_price + collateral[v]
        if value < values[v]:
            chosen[v] = True
            values[v] = value
        if parents[v] >= 0:
            values[parents[v]] += values[v]
    return values, chosen


def _search_prices(bill: Bill) -> _Found:
    """Raise the bound over prices of all currencies, keeping the best cover met on the way."""
    tree, tariff = bill.tree, bill.tariff
    finite = [c for c in tree.collateral if math.isfinite(c)]
    ceiling = 1.0 + max(finite, default=0.0) + sum(tree.penalties) + sum(tree.files)
    steps = [_Step(currency, tariff.waiting, ceiling) for currency in tariff.currencies]
    prices = [step.price for step in steps]
    found = _Found(Cover(math.inf, [], 0), -math.inf, *tariff.at(prices))
    fewest, most = SEARCH_PASSES
    for _ in range(max(fewest, min(most, SEARCH_LIMIT // max(1, len(tree.parents))))):
        at = tariff.at(prices)
        values, chosen = price_trees(tree, *at)
        cover = bill.cover(chosen)
        value = sum(value for value, parent in zip(values, tree.parents, strict=True) if parent < 0)
        bound = value
        for step, price in zip(steps, prices, strict=True):
            bound -= step.currency.prices.conjugate(price)
        best = min(found.best, cover, key=itemgetter(0))
        found = _Found(best, bound, *at) if bound > found.bound else found._replace(best=best)
        _move(steps, tariff, cover)
        before, prices = prices, [step.price for step in steps]
        if best.cost <= found.bound or prices == before:
            break
    return found


def _move(steps: Sequence[_Step], tariff: Tariff, cover: Cover) -> None:
    """Move each price towards the one at which as many units are supplied as the cover wants."""
    directories = len(cover.directories)
    sent = tariff.sent(cover.files, directories)
    for step in steps:
        own = step.currency
        step.move(own.file * (sent if own.directory else cover.files) + own.directory * directories)


def _exact(bill: Bill, found: _Found, work: int) -> list[_Option] | None:
    """
    Return the options of the whole forest that can be best, or ``None`` when finding them takes too long.

    An option's reduced cost is by how much it is dearer, at the prices of the bound, than the best for
    its part; a cover with it costs at least the bound plus that.
    """
    tree = bill.tree
    slack = found.best.cost - found.bound + _EPSILON + _ROUNDING * abs(found.bound)
    values = price_trees(tree, found.file_price, found.directory_price)[0]
    parts: list[list[_Option]] = [
        [(0.0, 0, files, penalty, None)] for files, penalty in zip(tree.files, tree.penalties, strict=True)
    ]
    split = [n * found.file_price + penalty for n, penalty in zip(tree.files, tree.penalties, strict=True)]
    forest: list[_Option] = [(0.0, 0, 0, 0.0, None)]
    for v in range(len(parts) - 1, -1, -1):
        options = parts[v]
        parts[v] = []
        if math.isfinite(tree.collateral[v]):
            whole = (found.directory_price + tree.collateral[v] - values[v], 1, 0, tree.collateral[v], v)
            options = _offer(options, split[v] - values[v], whole, slack)
        parent = tree.parents[v]
        into = parts[parent] if parent >= 0 else forest
        work -= len(into) * len(options)
        if work < 0:
            return None
        merged = _merge(into, options, slack, bill.tariff.most_directories)
        if parent >= 0:
            parts[parent] = merged
            split[parent] += values[v]
        else:
            forest = merged
    return forest


def _offer(options: list[_Option], excess: float, whole: _Option, slack: float) -> list[_Option]:
    """Add to the options of a directory's parts, all dearer by ``excess``, that of refreshing it whole."""
    options = [(o[0] + excess, o[1], o[2], o[3], o[4]) for o in options if o[0] + excess <= slack]
    if whole[0] <= slack:
        options.append(whole)
    return _undominated(options)


def _merge(left: list[_Option], right: list[_Option], slack: float, most_directories: float) -> list[_Option]:
    """Combine the options of two parts that do not overlap; both are sorted by reduced cost."""
    if len(right) == 1:
        r = right[0]
        back = r[4]
        return [
            (o[0] + r[0], o[1] + r[1], o[2] + r[2], o[3] + r[3], o[4] if back is None else (o[4], back))
            for o in left
            if o[0] + r[0] <= slack and o[1] + r[1] <= most_directories
        ]
    merged: list[_Option] = []
    for a in left:
        for b in right:
            if a[0] + b[0] > slack:
                break
            if a[1] + b[1] <= most_directories:
                merged.append((a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], (a[4], b[4])))
    return _undominated(merged)


def _undominated(options: list[_Option]) -> list[_Option]:
    """Drop what another option equals or beats in directories, files and cost; sort by reduced cost."""
    options.sort(key=itemgetter(1, 2, 3))
    files: list[int] = []
    costs: list[float] = []
    kept: list[_Option] = []
    for option in options:
        at = bisect_right(files, option[2])
        if at and costs[at - 1] <= option[3]:
            continue
        end = at
        while end < len(costs) and costs[end] >= option[3]:
            end += 1
        files[at:end] = [option[2]]
        costs[at:end] = [option[3]]
        kept.append(option)
    kept.sort(key=itemgetter(0))
    return kept


def _flatten(back: Any) -> list[int]:
    """Return the directories of an option, in order."""
    directories, stack = [], [back]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif item is not None:
            directories.append(item)
    return sorted(directories)


def greedy_cover(bill: Bill) -> Cover:
    """Return the cheapest cover met on the way from files alone to the widest directories."""
    return _Greedy(bill).run()


class _Greedy:
    """What each directory with all below costs at present, and a heap of directories by cost of a token saved."""

    def __init__(self, bill: Bill) -> None:
        tree = bill.tree
        self.bill = bill
        self.files = list(tree.files)
        self.cost = list(tree.penalties)
        self.directories = [0] * len(self.files)
        self.latest = [math.inf] * len(self.files)
        self.closed = [False] * len(self.files)
        self.children: list[list[int]] = [[] for _ in self.files]
        for v in range(len(self.files) - 1, -1, -1):
            parent = tree.parents[v]
            if parent >= 0:
                self.files[parent] += self.files[v]
                self.cost[parent] += self.cost[v]
                self.children[parent].append(v)
        roots = [v for v, parent in enumerate(tree.parents) if parent < 0]
        self.sums = [sum(self.directories), sum(self.files[v] for v in roots), sum(self.cost[v] for v in roots)]

    def run(self) -> Cover:
        """Refresh directories whole one after the other; keep the cheapest state."""
        heap = [item for v in range(len(self.files)) if (item := self._item(v))]
        heapq.heapify(heap)
        taken: list[int] = []
        best, best_length = self._total(), 0
        while heap:
            item = heapq.heappop(heap)
            v = item[1]
            if self.closed[v] or self.latest[v] != item[0]:
                continue
            taken.append(v)
            for above in self._take(v):
                if not self.closed[above] and (again := self._item(above)):
                    heapq.heappush(heap, again)
            total = self._total()
            if total < best:
                best, best_length = total, len(taken)
        return self._cover(taken[:best_length])

    def _total(self) -> tuple[float, int, int]:
        directories, files, cost = self.sums
        return self.bill.total(int(directories), int(files), cost)

    def _item(self, v: int) -> tuple[float, int] | None:
        """Return the collateral that refreshing ``v`` whole adds for each file token that it saves."""
        collateral = self.bill.tree.collateral[v]
        if math.isinf(collateral):
            return None
        added = collateral - self.cost[v]
        saved = self.files[v] + max(0, self.directories[v] - 1)
        if added > 0 and not saved:
            self.latest[v] = math.inf
            return None
        self.latest[v] = added / saved if added > 0 else added
        return self.latest[v], v

    def _take(self, v: int) -> list[int]:
        """Refresh ``v`` whole; return the directories above it."""
        delta = (1 - self.directories[v], -self.files[v], self.bill.tree.collateral[v] - self.cost[v])
        stack = [v]
        while stack:
            below = stack.pop()
            self.closed[below] = True
            stack.extend(child for child in self.children[below] if not self.closed[child])
        self.sums = [old + change for old, change in zip(self.sums, delta, strict=True)]
        above, path = v, []
        while above >= 0:
            self.directories[above] += int(delta[0])
            self.files[above] += int(delta[1])
            self.cost[above] += delta[2]
            path.append(above)
            above = self.bill.tree.parents[above]
        return path[1:]

    def _cover(self, taken: list[int]) -> Cover:
        chosen = [False] * len(self.files)
        for v in taken:
            chosen[v] = True
        return self.bill.cover(chosen)
