"""
The directories that matter to one plan, as a forest: those with something due, and where their paths meet.

:func:`weigh` adds what refreshing each of them would evict, and what leaving its needs would cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest

from listener.planner.constants import AGE_WEIGHT_HOURS, MOST_CANDIDATES, REVALIDATION_COST, UNKNOWN_WEIGHT
from listener.planner.cover import CoverTree
from listener.planner.model import DirectoryLoad, PlanInput
from listener.planner.pacing import TokenPrices

__all__ = ["Forest", "Weighed", "build_forest", "root_length", "waiting_weight", "weigh"]

NONE = -1


class Forest:
    """
    Parallel lists, one entry per directory, parents before their children.

    A directory without a load and with a single child is left out: refreshing the child instead
    covers the same and evicts no more. Trees of other hosts or targets are simply further roots.
    """

    __slots__ = ("below", "loads", "members", "oldest", "parents", "subtrees", "targets", "urls")

    def __init__(self, loads: Sequence[DirectoryLoad]) -> None:
        """Begin an empty forest over these loads."""
        self.loads = loads
        self.urls: list[str] = []
        self.targets: list[str] = []
        self.parents: list[int] = []
        self.members: list[tuple[int, int]] = []
        """Directory and index into ``loads``, for every load: its own directory, or the nearest above it."""
        self.below: list[int] = []
        """Due exact needs in the directory and below."""
        self.subtrees: list[int] = []
        """Due subtree needs for the directory and below."""
        self.oldest: list[float] = []
        """``stale_since`` of the oldest need in the directory and below."""

    def __len__(self) -> int:
        """Return how many directories there are."""
        return len(self.urls)

    def add(self, target: str, url: str, parent: int) -> int:
        """Append a directory and return its index."""
        self.urls.append(url)
        self.targets.append(target)
        self.parents.append(parent)
        return len(self.urls) - 1

    def total_up(self) -> None:
        """Sum what is due up the trees, once all directories and members stand."""
        self.below = [0] * len(self)
        self.subtrees = [0] * len(self)
        self.oldest = [math.inf] * len(self)
        for v, i in self.members:
            self.below[v] += self.loads[i].due
            self.subtrees[v] += self.loads[i].subtree_due
            self.oldest[v] = min(self.oldest[v], self.loads[i].oldest)
        for v in range(len(self) - 1, -1, -1):
            parent = self.parents[v]
            if parent >= 0:
                self.below[parent] += self.below[v]
                self.subtrees[parent] += self.subtrees[v]
                self.oldest[parent] = min(self.oldest[parent], self.oldest[v])


def root_length(url: str) -> int:
    """Return the length of the URL's scheme and host with the ``/`` that ends them."""
    scheme = url.find("://")
    return url.index("/", scheme + 3) + 1 if scheme >= 0 else 0


def build_forest(loads: Sequence[DirectoryLoad], most: int = MOST_CANDIDATES) -> Forest:
    """
    Return the forest of these loads (one for each target and URL).

    Of more than ``most`` loads only those with a subtree need and those with most due stand as
    directories of their own, with all places where their paths meet and the hosts' roots; the others
    count to the nearest directory above them.
    """
    forest = Forest(loads)
    if len(loads) <= most:
        links = _link(loads, range(len(loads)), roots=False)
    else:
        links = _link(loads, _candidates(loads, most), roots=True)
    index: list[int] = [NONE] * len(links.urls)
    for node in sorted(range(len(links.urls)), key=links.urls.__getitem__):
        parent = links.parents[node]
        target, url = links.urls[node]
        index[node] = forest.add(target, url, index[parent] if parent >= 0 else NONE)
        if links.load[node] >= 0:
            forest.members.append((index[node], links.load[node]))
    if len(forest.members) < len(loads):
        _count_the_rest(forest)
    forest.total_up()
    return forest


def _candidates(loads: Sequence[DirectoryLoad], most: int) -> list[int]:
    return nlargest(most, range(len(loads)), key=lambda i: (loads[i].subtree_due, loads[i].due))


def _count_the_rest(forest: Forest) -> None:
    """Let every load without a directory of its own count to the nearest above it."""
    nearest: dict[tuple[str, str], int] = dict(
        zip(zip(forest.targets, forest.urls, strict=True), range(len(forest)), strict=True)
    )
    standing = {i for _, i in forest.members}
    for i, load in enumerate(forest.loads):
        if i in standing:
            continue
        target, url = load.target, load.url
        found = nearest.get((target, url))
        while found is None:
            url = url[: url.rindex("/", 0, -1) + 1]
            found = nearest.get((target, url))
        forest.members.append((found, i))


class _Links:
    """The forest while it is built, meeting points coming after their first child."""

    def __init__(self) -> None:
        self.urls: list[tuple[str, str]] = []
        self.parents: list[int] = []
        self.load: list[int] = []

    def add(self, target: str, url: str, load: int) -> int:
        self.urls.append((target, url))
        self.parents.append(NONE)
        self.load.append(load)
        return len(self.urls) - 1


def _link(loads: Sequence[DirectoryLoad], chosen: Iterable[int], *, roots: bool) -> _Links:
    """
    Join the chosen loads' directories, and the roots of all hosts if asked.

    In lexicographic order all directories below one come right after it, so that the ancestors of the last one
    are a stack, and the meeting point of two neighbours is where the next one leaves it.
    """
    places = dict.fromkeys(_roots(loads), NONE) if roots else {}
    places.update({(loads[i].target, loads[i].url): i for i in chosen})
    links = _Links()
    stack: list[int] = []
    host = ("", "")
    for target, url in sorted(places):
        root = (target, url[: root_length(url)])
        if root != host:
            _close(links, stack)
            host = root
        if stack:
            _meet(links, stack, url, len(root[1]))
        stack.append(links.add(target, url, places[target, url]))
    _close(links, stack)
    return links


def _roots(loads: Sequence[DirectoryLoad]) -> set[tuple[str, str]]:
    """Return the hosts' roots; as :func:`root_length`, without a call for each load."""
    return {(load.target, load.url[: load.url.find("/", load.url.find("://") + 3) + 1]) for load in loads}


def _meet(links: _Links, stack: list[int], url: str, root: int) -> None:
    """Pop what does not lie above ``url``; add the directory where it leaves the popped ones."""
    last = NONE
    while stack and not url.startswith(links.urls[stack[-1]][1]):
        if last >= 0:
            links.parents[last] = stack[-1]
        last = stack.pop()
    if last < 0:
        return
    target, meeting = links.urls[last]
    while len(meeting) > root and not url.startswith(meeting):
        meeting = meeting[: meeting.rindex("/", 0, -1) + 1]
    if not stack or links.urls[stack[-1]][1] != meeting:
        stack.append(links.add(target, meeting, NONE))
    links.parents[last] = stack[-1]


def _close(links: _Links, stack: list[int]) -> None:
    while stack:
        last = stack.pop()
        if stack:
            links.parents[last] = stack[-1]


@dataclass(frozen=True, slots=True)
class Weighed:
    """A forest with its weights, ready to be covered."""

    forest: Forest
    tree: CoverTree
    weights: list[int | None]
    """Objects known below each directory; ``None`` where nothing is known."""
    unchanged: list[int]
    """Objects below each directory that are not stale; an assumption where nothing is known."""
    forced: int
    """File tokens that are needed whatever is chosen."""

    def evictions(self) -> Callable[[DirectoryLoad], int | None]:
        """Return a function from a load to what its own directory would evict; ``None`` where that is not known."""
        places = zip(self.forest.targets, self.forest.urls, strict=True)
        known = (None if weight is None else n for weight, n in zip(self.weights, self.unchanged, strict=True))
        counts = dict(zip(places, known, strict=True))
        return lambda load: counts.get((load.target, load.url))


def weigh(
    forest: Forest, given: PlanInput, prices: TokenPrices, *, files_short: bool, all_params_short: bool
) -> Weighed:
    """
    Read the weights and lay out the problem.

    While file tokens are short, what costs less than usual to leave waiting (a site of low priority, an object
    that expires by itself before the reset) does not compete for them: its price is a penalty of its own.
    """
    allowed = [given.allowed(url) for url in forest.urls]
    weights = [given.weights(url) if asked else None for url, asked in zip(forest.urls, allowed, strict=True)]
    unchanged = _unchanged(forest, weights)
    rate = 1.0 if given.force else REVALIDATION_COST
    files = [0] * len(weights)
    penalties = [0.0] * len(weights)
    forced, params_are_files = 0, given.params_are_files
    for v, i in forest.members:
        load = forest.loads[i]
        if load.forced_only and not given.force:
            forced += load.due
            due = 0
        else:
            due = load.due
        if load.subtree_due or load.due_all_params or load.priority < 1.0 or load.ttl_seconds > 0:
            waiting = prices.defer_cost * waiting_weight(load, given.now, prices.hours)
            penalties[v] += waiting * load.due_all_params * all_params_short
            due += load.due_all_params * params_are_files
            if load.subtree_due:
                penalties[v] += waiting * max(1, _or_prior(weights[v]))
            if files_short and waiting < prices.defer_cost:
                penalties[v] += waiting * due
                due = 0
        files[v] += due
    collateral = [rate * n if asked else math.inf for asked, n in zip(allowed, unchanged, strict=True)]
    return Weighed(forest, CoverTree(forest.parents, files, penalties, collateral), weights, unchanged, forced)


def waiting_weight(load: DirectoryLoad, now: float, hours: float) -> float:
    """
    Return what leaving a load until the reset costs, as a part of what it usually costs.

    A site's priority scales it, every day of age raises it, and what expires by itself before the reset is
    stale only until then.
    """
    age_hours = max(0.0, now - load.oldest) / 3600.0
    weight = load.priority * (1.0 + age_hours / AGE_WEIGHT_HOURS)
    if load.ttl_seconds > 0:
        stale_hours = load.ttl_seconds / 3600.0 - age_hours
        weight *= min(1.0, max(0.0, stale_hours) / hours)
    return weight


def _unchanged(forest: Forest, weights: list[int | None]) -> list[int]:
    """Count what is not stale: below a subtree need nothing is known to be unchanged."""
    stale = [0] * len(weights)
    subtree_due = [False] * len(weights)
    for v, i in forest.members:
        load = forest.loads[i]
        stale[v] += load.due + load.due_all_params if load.objects is None else load.objects
        subtree_due[v] = subtree_due[v] or (load.subtree_due and load.url == forest.urls[v])
    unchanged = [0] * len(weights)
    for v in range(len(weights) - 1, -1, -1):
        weight = weights[v]
        if subtree_due[v]:
            stale[v] = max(stale[v], weight or 0)
        else:
            unchanged[v] = UNKNOWN_WEIGHT if weight is None else max(0, weight - stale[v])
        if forest.parents[v] >= 0:
            stale[forest.parents[v]] += stale[v]
    return unchanged


def _or_prior(weight: int | None) -> int:
    return UNKNOWN_WEIGHT if weight is None else weight
