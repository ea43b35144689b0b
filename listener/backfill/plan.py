"""
What a backfill is: its modes, what it would take, how far it is, and what it did.

The cost is counted by listing once, and planned by the same planner, before anything is spent.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from listener import planner
from listener.allowances import length_days
from listener.backfill.share import ShareBudget, Taken
from listener.backfill.source import Feed, RepairFeed
from listener.change import Change
from listener.contracts import Target, evicts_directories
from listener.errors import KeyRejected
from listener.refresh import RefreshKind, Scope, directory_of, reserved_units
from listener.router.routing import Sites
from listener.store import Store
from listener.store.controls import Progress
from listener.store.needs import Snapshot
from listener.store.report import Counts

__all__ = ["BackfillPlan", "Cost", "Figures", "Outcome", "Tally", "Watch", "cost_of"]

RATE_SECONDS = 30.0
"""The rate is that of so long."""


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What would be done."""

    cost: Cost
    begun: Progress | None
    """How far an earlier run got that did not finish."""
    budget: ShareBudget | None = None
    """What it may take of the quota; None: all of it."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**self.cost.as_json(), "resumes_after": self.begun.after if self.begun else None}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done."""

    listed: int
    """Keys whose needs are durable, those of earlier runs included."""
    finished: bool
    """Whether the whole listing is durable."""
    interrupted: bool
    sent_here: bool
    """False where a daemon owns the state file and sends."""
    counts: Counts
    troubles: tuple[str, ...] = ()
    stopped: str = ""
    """Why not everything was asked for: the share of today is used up, or deletions are not believed."""
    abandoned: bool = False
    """Whether something waits for a daemon that is gone."""
    instances: tuple[str, ...] = ()
    """Which instances of a fleet run, and send."""
    misconfigured: str = ""
    """Why an account can never be sent to as it is configured; empty: none is known."""

    @property
    def put_off(self) -> bool:
        """Whether something waits for quota, time or people."""
        counts = self.counts
        left = bool(counts.deferred or counts.failed or counts.parked or counts.unconfirmed)
        return bool(self.stopped) or self.abandoned or (self.sent_here and left)


@dataclass(slots=True)
class Cost:
    """What it would take."""

    objects: int = 0
    """Keys listed."""
    urls: int = 0
    """URLs that they are served under."""
    parked: int = 0
    """Keys that can never be a URL."""
    unserved: int = 0
    """Keys that no site takes."""
    refreshes: dict[str, int] = field(default_factory=dict)
    """Units by kind that would be spent now."""
    collateral: int = 0
    """Unchanged objects below the directories that would be refreshed."""
    deferred: int = 0
    """URLs that today's quota does not cover."""
    further_days: int | None = 0
    """Days until those are sent at the present quota; None: never, there is no quota for them."""
    dollars: float = 0.0
    """What the refreshes of now cost, where units cost money."""
    quota_assumed: str = ""
    """Why the quota was assumed as the ledger or the configuration has it; empty where the live one counted."""
    directories: list[tuple[str, str]] = field(default_factory=list)
    """Target and URL of each directory that would be refreshed; not shown, they may be many."""

    def admit(self, taken: Taken, urls: int, budget: ShareBudget) -> None:
        """
        Reduce it to what a share of the quota pays for now.

        Args:
            taken: what was chosen.
            urls: that it is for.
            budget: of the share, before it was taken.
        """
        spent: Counter[str] = Counter()
        for (_, kind), requests in taken.requests.items():
            spent[kind.value] += requests
        self.refreshes = {kind: count for kind, count in sorted(spent.items()) if count}
        self.deferred = max(0, self.urls - urls)
        self.dollars = sum(budget.dollars(key, units) for key, units in taken.units.items())
        a_day = sum(budget.a_day(account, kind) for account, kind in taken.requests)
        if not self.deferred:
            self.further_days = 0
        else:
            self.further_days = math.ceil(self.deferred / a_day) if a_day else None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        plain = asdict(self)
        del plain["directories"]
        return plain


class Tally:
    """What a listing comes to, by directory: memory grows with directories, not with keys."""

    def __init__(self, sites: Sites) -> None:
        """Count for these sites."""
        self._sites = sites
        self.cost = Cost()
        self.exact: Counter[tuple[str, str]] = Counter()
        self.all_params: Counter[tuple[str, str]] = Counter()
        self.subtrees: set[tuple[str, str]] = set()
        self.keys: Counter[tuple[str, str]] = Counter()

    def add(self, changes: Iterable[Change]) -> None:
        """Count these."""
        for change in changes:
            self._add(change)

    def _add(self, change: Change) -> None:
        self.cost.objects += 1
        self.keys[change.root, change.key[: change.key.rfind("/") + 1]] += 1
        try:
            needs = self._sites.route(change)
        except KeyRejected:
            self.cost.parked += 1
            return
        self.cost.unserved += not needs
        for need in needs:
            place = need.target, directory_of(need.url)
            if need.scope is Scope.SUBTREE:
                self.subtrees.add(place)
            else:
                (self.all_params if need.scope is Scope.ALL_PARAMS else self.exact)[place] += 1
            self.cost.urls += 1

    def loads(self, targets: Iterable[str]) -> list[planner.DirectoryLoad]:
        """Return what the planner gets for these targets."""
        mine = set(targets)
        places = [place for place in {*self.exact, *self.all_params, *self.subtrees} if place[0] in mine]
        return [
            planner.DirectoryLoad(
                target=place[0],
                url=place[1],
                due=self.exact[place],
                subtree_due=place in self.subtrees,
                due_all_params=self.all_params[place],
            )
            for place in sorted(places)
        ]

    def weigher(self) -> Callable[[str, str], int]:
        """Return a function that returns how many of the listed keys lie below a (root, prefix)."""
        roots: dict[str, tuple[list[str], list[int]]] = {}
        for root, directory in sorted(self.keys):
            directories, sums = roots.setdefault(root, ([], [0]))
            directories.append(directory)
            sums.append(sums[-1] + self.keys[root, directory])

        def below(root: str, prefix: str) -> int:
            directories, sums = roots.get(root, ([], [0]))
            end = bisect_left(directories, prefix[:-1] + "0") if prefix else len(directories)
            return sums[end] - sums[bisect_left(directories, prefix)]

        return below


def cost_of(
    tally: Tally,
    sites: Sites,
    accounts: Sequence[Sequence[Target]],
    budgets: Mapping[str, Sequence[planner.Budget]],
    *,
    now: float,
    reserve: float,
    object_dollars: float,
    prefetch: bool = False,
    refresh: bool = True,
    snapshot: Snapshot | None = None,
) -> Cost:
    """
    Return what the tally would take.

    Args:
        tally: what was listed.
        sites: the sites that serve it.
        accounts: targets by account.
        budgets: what each account (by name) may spend.
        now: seconds since the epoch.
        reserve: the part of each allowance that is left alone, 0 to 1.
        object_dollars: what an evicted object is worth, where refreshes cost money.
        prefetch: whether each URL is fetched into the cache, too.
        refresh: whether each URL is refreshed.
        snapshot: the state file, for weights of what is not listed; None where there is none.
    """
    cost = tally.cost
    spent: Counter[str] = Counter()
    days = [0.0]
    listed = tally.weigher()
    for targets in accounts:
        names = [target.name for target in targets]
        loads = tally.loads(names)
        kinds = {kind for target in targets for kind in target.limits}
        budget, waiting = budgets[targets[0].account], 0
        if refresh and loads:
            made = planner.plan(
                planner.PlanInput(
                    now=now,
                    loads=loads,
                    budgets=budget,
                    kinds=kinds,
                    weights=_weights(sites, names, listed, snapshot),
                    allowed=_allowed(sites, names),
                    reserve=reserve,
                    object_dollars=object_dollars,
                    force=evicts_directories(targets[0]),
                )
            )
            spent.update({kind.value: count for kind, count in made.spent.items()})
            cost.collateral += made.collateral
            cost.dollars += made.dollars
            cost.directories += [(one.target, one.url) for one in made.directories]
            waiting = sum(deferral.needs for deferral in made.deferred)
            cost.deferred += waiting
            days.append(_days(waiting, RefreshKind.FILE, budget, reserve, now))
        if prefetch:
            urls = sum(load.due for load in loads)
            left = planner.left_of(budget, RefreshKind.PREFETCH) if RefreshKind.PREFETCH in kinds else 0
            ready = urls - waiting  # a URL is prefetched once its refresh is complete
            left = int(min(ready, max(0, left)))
            spent["prefetch"] += left
            cost.deferred += max(0, ready - left)
            days.append(_days(max(0, urls - left), RefreshKind.PREFETCH, budget, 0.0, now))
    cost.refreshes = dict(sorted(spent.items()))
    cost.further_days = None if math.inf in days else int(max(days))
    return cost


def _days(waiting: int, kind: RefreshKind, budgets: Iterable[planner.Budget], reserve: float, now: float) -> float:
    """Return in how many days so many refreshes of a kind are sent, of whole allowances less the reserve."""
    if not waiting:
        return 0.0
    a_day = min(
        (
            (one.limit - reserved_units(kind, one.limit, reserve)) // cost / length_days(one.allowance.window, now)
            for one in budgets
            if (cost := one.cost(kind))
        ),
        default=0,
    )
    return math.ceil(waiting / a_day) if a_day > 0 else math.inf


def _allowed(sites: Sites, names: Sequence[str]) -> Callable[[str], bool]:
    return lambda url: any(sites.router.depth_floor(name, url) for name in names)


def _weights(
    sites: Sites, names: Sequence[str], listed: Callable[[str, str], int], snapshot: Snapshot | None
) -> Callable[[str], int | None]:
    def weight(url: str) -> int | None:
        prefixes = {pair for name in names for pair in sites.router.key_prefixes(name, url)}
        return sum(
            max(listed(root, prefix), 0 if snapshot is None else snapshot.weight_below(root, prefix))
            for root, prefix in prefixes
        )

    return weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One moment of a backfill."""

    listed: int
    """Keys whose needs are durable."""
    total: int
    """Keys that there are."""
    planned: int
    """URLs asked for up to now."""
    waiting: int
    """Needs in no attempt, those of others included."""
    sent: int
    """Quota units spent since it began, by everybody on the account; without a quota URLs sent."""
    done: int
    """URLs of which nothing is left to do."""
    per_second: float
    """URLs that were done, lately."""
    seconds_left: float | None
    """At that rate; None where nobody can say."""
    quota_left: dict[str, int] = field(default_factory=dict)
    """By allowance, of the account that has least; empty where nothing is limited."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        left = None if self.seconds_left is None else round(self.seconds_left)
        return {**asdict(self), "per_second": round(self.per_second, 1), "seconds_left": left}


class Watch:
    """Looks now and then, and remembers how it went."""

    def __init__(self, feed: Feed | RepairFeed, store: Store, plan: BackfillPlan, targets: dict[str, Target]) -> None:
        """Take what to look at."""
        self._feed = feed
        self._store = store
        self._urls = plan.cost.urls
        before = plan.begun.listed if plan.begun else 0
        self._before = before
        self.total = plan.cost.objects + before
        self._accounts = {target.account: target for target in targets.values()}
        self._spent_before: int | None = None
        self._done: deque[tuple[float, int]] = deque()

    async def look(self, *, now: float) -> Figures:
        """Return the figures of this moment; ``now`` is any clock that only goes forward, in seconds."""
        counts = await self._store.counts()
        left, spent = await self._quota()
        if self._spent_before is None:
            self._spent_before = spent
        fresh = max(0, self._feed.listed - self._before)
        share = fresh / (self.total - self._before) if self.total > self._before else 1.0
        planned = round(self._urls * min(1.0, share))
        done = max(0, planned - counts.pending - counts.in_flight - counts.failed)
        rate = self._rate(done, now)
        return Figures(
            listed=self._feed.listed,
            total=self.total,
            planned=planned,
            waiting=counts.pending,
            sent=max(0, spent - self._spent_before) if left else done + counts.in_flight,
            done=done,
            per_second=rate,
            seconds_left=(self._urls - done) / rate if rate > 0 else None,
            quota_left=left,
        )

    async def _quota(self) -> tuple[dict[str, int], int]:
        left: dict[str, int] = {}
        spent = 0
        for account, target in self._accounts.items():
            for one in target.allowances:
                budget = await self._store.budget(account, one)
                left[one.name] = min(left.get(one.name, budget.left), budget.left)
                spent += budget.spent
        return left, spent

    def _rate(self, done: int, now: float) -> float:
        self._done.append((now, done))
        while len(self._done) > 2 and self._done[0][0] < now - RATE_SECONDS:
            self._done.popleft()
        (at, before), span = self._done[0], now - self._done[0][0]
        return (done - before) / span if span > 0 and at < now else 0.0
