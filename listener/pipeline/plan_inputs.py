"""
What the planner gets of one account, read from one snapshot of the store, and the attempts that its plan requests.

Rows are read only where they are sent one by one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from listener import planner
from listener.allowances import DAY_SECONDS, Allowance, Day, costs_of
from listener.contracts import KindLimits, ReportsRates
from listener.pipeline.accounts import EVICTION_SECONDS, Account
from listener.pipeline.spenders import DEFAULT_SHARE, Spenders, units_spent
from listener.planner.constants import ARRIVAL_SECONDS, HISTORY_DAYS, MOST_CANDIDATES
from listener.refresh import KIND_OF_SCOPE, SCOPE_OF_KIND, Priority, RefreshKind, Scope, reserved_units
from listener.router.routing import Sites, root_of, share_name
from listener.settings import PlannerSettings
from listener.store.moments import moments
from listener.store.needs import DueRow, Load, Sent, Snapshot
from listener.store.transitions import AttemptRequest
from listener.urls import is_canonical_path

__all__ = [
    "PlanInputs",
    "directory_request",
    "learned",
    "params_are_forced_only",
    "requests_for_needs",
    "requests_for_plan",
    "requests_for_scope",
]

MOST_ROWS = 1_000_000_000
"""More than there are of any kind."""
NAMED_ROWS = 20_000
"""Needs whose objects are looked up by name for one plan; beyond, at most as many as their folder holds are assumed."""
SHARED_KINDS = (RefreshKind.FILE, RefreshKind.DIRECTORY)


def learned(snapshot: Snapshot, account: str, *, now: float) -> planner.Arrivals:
    """Return the arrivals that an account's history of attempts shows; a process learns them when it starts."""
    arrivals = planner.Arrivals()
    since = now - 3 * HISTORY_DAYS * DAY_SECONDS
    for at, needs in snapshot.run(moments, account, since=since, span_seconds=ARRIVAL_SECONDS):
        arrivals = arrivals.seen(min(at, now), needs)
    return arrivals.until(now)


def params_are_forced_only(account: Account, load: Load) -> bool:
    """Return whether no directory refresh would heal the all-params needs of a load."""
    return not account.evicts(load.target) and 0 < load.all_params <= load.forced_all_params


class PlanInputs:
    """One account at one moment; lives in a reading thread."""

    def __init__(
        self,
        snapshot: Snapshot,
        account: Account,
        sites: Sites,
        settings: PlannerSettings,
        *,
        now: float,
    ) -> None:
        """Read the budgets; what else a plan needs is read when it does."""
        self._snapshot = snapshot
        self._account = account
        self._sites = sites
        self._settings = settings
        self._now = now
        self._spenders = Spenders(sites, account.targets)
        self._served = self._spenders.served
        self._plain = all(site.priority == 1.0 and not site.max_ttl_seconds for site in self._served)
        self._has_shares = len(self._served) > 1 and self._spenders.has_shares
        self._sharing = self._has_shares
        self._taken: list[AttemptRequest] = []
        self._evicts: Counter[str] = Counter()
        self._rows_left = NAMED_ROWS
        self.kinds = account.kinds
        self.budgets = [self._budget(one) for one in account.allowances]

    def _budget(self, allowance: Allowance) -> planner.Budget:
        found = self._snapshot.budget(self._account.name, allowance, now=self._now)
        left = 0 if self._account.is_exhausted(allowance, self._now) else found.left
        return planner.Budget(replace(allowance, limit=found.limit), left, found.resets_at)

    def left(self, kind: RefreshKind, *, reserve: float = 0.0) -> float:
        """Return how many refreshes of a kind the allowances leave, less a reserve that no prefetch regards."""
        if kind not in self.kinds:
            return 0
        kept = [one._replace(left=one.left - reserved_units(kind, one.limit, reserve)) for one in self.budgets]
        return planner.left_of(kept, kind)

    def take(self, wanted: Sequence[AttemptRequest], evicts: Mapping[str, int]) -> None:
        """Leave less to what is planned later in this round: these attempts, and what they evict by share name."""
        self._taken += wanted
        self._evicts.update(evicts)
        refreshes = Counter(one.kind for one in wanted)
        self.budgets = [
            one._replace(left=max(0, one.left - sum(one.cost(kind) * n for kind, n in refreshes.items())))
            for one in self.budgets
        ]

    def given(
        self,
        loads: Sequence[Load],
        priority: Priority = Priority.LIVE,
        *,
        allowed: Callable[[str], bool] = lambda _: True,
    ) -> planner.PlanInput:
        """
        Return the planner's question about these loads.

        Args:
            loads: what is due and may go.
            priority: of these loads; only what is live is held to a default share.
            allowed: whether a directory may be refreshed now, apart from its blast radius and what the CDN refused.
        """
        has_default = self._spenders.are_several and priority is Priority.LIVE
        self._rows_left = NAMED_ROWS
        self._sharing = self._has_shares or (has_default and self._may_exceed_default(loads))
        due = map(self._load, loads)
        return planner.PlanInput(
            now=self._now,
            loads=[one for one in due if one.due or one.subtree_due or one.due_all_params],
            budgets=self.budgets,
            kinds=self.kinds,
            weights=self.weight,
            allowed=self.allowed({load.url for load in loads if load.subtree}, allowed),
            reserve=self._settings.reserve,
            object_dollars=self._settings.object_dollars,
            force=self._account.forces,
            arrivals=self._account.arrivals,
            shares=self._shares() if self._sharing else {},
            spent=self._spent() if self._sharing else {},
            limits=self.limits(),
        )

    # -- loads -----------------------------------------------------------------------------------

    def _load(self, load: Load) -> planner.DirectoryLoad:
        forces = self._account.evicts(load.target)
        can = self._account.can(load.target, RefreshKind.IGNORE_PARAMS)
        site = None if self._plain else self._sites.of(load.target, load.url)
        return planner.DirectoryLoad(
            target=load.target,
            url=load.url,
            due=load.exact,
            subtree_due=bool(load.subtree),
            oldest=load.oldest,
            # Where some do not need force a directory heals those; the rest is left to the next round.
            forced_only=not forces and load.forced >= load.exact,
            due_all_params=load.all_params if can and not params_are_forced_only(self._account, load) else 0,
            objects=self._objects(load),
            site=self._payer(load),
            priority=1.0 if site is None else site.priority,
            ttl_seconds=0.0 if site is None else site.max_ttl_seconds,
        )

    def _objects(self, load: Load) -> int | None:
        """
        Return how many objects a load is about, by name while that is no long work, by number beyond.

        A directory in another spelling is about none of its own: they count where the spelling is the canonical one.
        """
        if not is_canonical_path(load.url[len(root_of(load.url)) :]):
            return 0
        if self._rows_left <= -MOST_CANDIDATES:
            return None
        by_name = load.exact <= self._rows_left
        self._rows_left = self._rows_left - load.exact if by_name else min(0, self._rows_left) - 1
        found = 0
        for root, folder in self._sites.router.key_prefixes(load.target, load.url):
            if by_name:
                found += self._snapshot.objects_named(root, folder, load.directory)
            else:
                found += self._snapshot.objects_in(root, folder)
        return min(found, load.exact + load.all_params)

    # -- directories -----------------------------------------------------------------------------

    def weight(self, url: str) -> int | None:
        """Return how many objects lie below a directory URL, None where that is not known."""
        prefixes = self._sites.router.key_prefixes(list(self._account.targets), url)
        weight = sum(self._snapshot.weight_below(root, prefix) for root, prefix in prefixes)
        # Nothing below is knowledge only where everything was listed once.
        known = weight or all(self._snapshot.is_seeded(root) for root, _ in prefixes)
        return weight if known else None

    def allowed(self, subtrees: set[str], allowed: Callable[[str], bool]) -> Callable[[str], bool]:
        """Return whether a directory may be refreshed; those with a due subtree need even if the CDN refused them."""
        targets, refused = list(self._account.targets), self._account.refused(self._now)

        def ask(url: str) -> bool:
            # A subtree need of its own was parked with the refusal: that it is due again is a person's word.
            spoilt = url not in subtrees and any(one.startswith(url) for one in refused)
            return not spoilt and allowed(url) and self._sites.router.depth_floor(targets, url)

        return ask

    # -- shares and limits -----------------------------------------------------------------------

    def _payer(self, load: Load) -> str:
        return (self._spenders.name(load.target, load.url) or "") if self._sharing else ""

    def _may_exceed_default(self, loads: Sequence[Load]) -> bool:
        """Return whether anybody could exceed the default share, were all this refreshed."""
        most = {
            RefreshKind.FILE: sum(load.exact for load in loads),
            RefreshKind.DIRECTORY: len(loads),
            RefreshKind.IGNORE_PARAMS: sum(load.all_params for load in loads),
        }
        return any(
            self.left(kind) - units < (1.0 - DEFAULT_SHARE) * planner.limit_of(self.budgets, kind)
            for kind, units in most.items()
            if kind in self.kinds and math.isfinite(self.left(kind))
        )

    def _shares(self) -> dict[tuple[str, RefreshKind], planner.QuotaShare]:
        if not self._has_shares:
            found = {kind: planner.limit_of(self.budgets, kind) for kind in self.kinds}
            return self._spenders.default_shares(
                {kind: int(units) for kind, units in found.items() if math.isfinite(units)}
            )
        return {
            (share_name(site), kind): planner.QuotaShare(
                getattr(site.guaranteed, kind.value), getattr(site.share, kind.value)
            )
            for site in self._served
            for kind in SHARED_KINDS
        }

    def _spent(self) -> Counter[tuple[str, str]]:
        """Return the units of each allowance that whoever has a share spent or holds."""
        payer = self._site_name if self._has_shares else self._spenders.live_payer
        spent = units_spent(self._snapshot, self._account, payer, self._now)
        for one in self._taken if self._has_shares else ():
            if (site := self._sites.of(one.target, one.url)) is not None:
                for name, units in costs_of(self._account.allowances, one.kind).items():
                    spent[share_name(site), name] += units
        return spent

    def _site_name(self, sent: Sent) -> str | None:
        site = self._sites.of(sent.target, sent.url)
        return None if site is None else share_name(site)

    def limits(self) -> list[planner.Limit]:
        """Return what bounds a plan apart from the quota."""
        return [*self._eviction_limits(), *self._slot_limits(), *self._full_limits(), *self._rate_limits()]

    def _full_limits(self) -> list[planner.Limit]:
        return [
            planner.Limit(f"its rate limit: {one.reason}", left=0, costs={kind: 1.0}, resets_at=one.until)
            for kind, one in self._account.full(self._now).items()
        ]

    def _rate_limits(self) -> list[planner.Limit]:
        return [
            planner.Limit(
                f"its rate limit: {one.name}",
                left=one.left,
                costs=dict.fromkeys(one.kinds, 1.0),
                target=name,
                resets_at=self._now + one.refills_after_seconds,
            )
            for name, target in self._account.targets.items()
            if isinstance(target, ReportsRates)
            for one in target.rates()
        ]

    def _eviction_limits(self) -> list[planner.Limit]:
        limits = []
        for site in self._served:
            if site.evictions_per_minute:
                evicted, since = self._account.evicted(share_name(site), self._now)
                evicted += self._evicts[share_name(site)]
                limits.append(
                    planner.Limit(
                        f"the {site.evictions_per_minute} evictions a minute that its origin may have",
                        left=site.evictions_per_minute - evicted,
                        eviction_cost=1.0,
                        host=self._sites.bases(site),
                        resets_at=since + EVICTION_SECONDS,
                        whole=evicted == 0,
                    )
                )
        return limits

    def _slot_limits(self) -> list[planner.Limit]:
        bounds = [
            (name, kind, limits.slots)
            for name, target in self._account.targets.items()
            for kind, limits in target.limits.items()
            if limits.slots is not None
        ]
        taken = self._snapshot.slots_taken() if bounds else Counter()
        taken.update((one.target, one.kind) for one in self._taken)
        return [
            planner.Limit(
                f"one of the {slots} {kind} refreshes that {name} takes at once",
                left=slots - taken[name, kind],
                costs={kind: 1.0},
                target=name,
            )
            for name, kind, slots in bounds
        ]


NO_LIMITS = KindLimits(batch_urls=0)
PLENTY = 0.5
"""While more than this part of a day's quota is left, no URL waits for its minimal interval."""
AT_PACE = 1.0
"""What the next unit costs, in evicted objects, where as many are left as will be wanted."""


def requests_for_needs(
    account: Account,
    rows: Sequence[DueRow],
    reason: str,
    *,
    urgent: bool = False,
    intervals: tuple[float, float] = (0.0, 0.0),
) -> list[AttemptRequest]:
    """
    Return the attempts for needs of one target and scope.

    Args:
        account: that sends them.
        rows: the needs.
        reason: why they are sent.
        urgent: whether they may have the reserve.
        intervals: the least and the greatest seconds between two attempts at one URL.
    """
    if not rows:
        return []
    name, _, scope, *_ = rows[0]
    kind = KIND_OF_SCOPE[scope]
    limits = account.targets[name].limits.get(kind, NO_LIMITS)  # what it cannot do is left out when it is reserved
    force = {on_demand: limits.forces(on_demand=on_demand) for on_demand in (False, True)}
    return [
        AttemptRequest(
            name,
            kind,
            row.url,
            force[urgent or row.needs_force],
            reason,
            row.stale_since,
            1,
            urgent,
            *intervals,
            watermark=row.passed and row.passed.watermark,
            later_since=row.passed and row.passed.later_since,
        )
        for row in rows
    ]


def requests_for_plan(
    snapshot: Snapshot,
    made: planner.Plan,
    loads: Iterable[Load],
    *,
    account: Account,
    sites: Sites,
    budgets: Sequence[planner.Budget],
) -> list[AttemptRequest]:
    """Return the attempts of a plan, directories first; where tokens are scarce with an interval for each URL."""
    wanted = [_directory(one, account) for one in made.directories]
    chosen = {(part.target, part.directory_url) for part in made.files}
    by_place = {place: load for load in loads if (place := (load.target, load.url)) in chosen}
    for part in made.files:
        load = by_place[part.target, part.directory_url]
        is_plenty = all(_is_plenty(one, made.file_price) for one in budgets if one.cost(part.kind))
        intervals = (0.0, 0.0) if is_plenty else _interval(sites, load, made.file_price)
        rows = snapshot.due_rows(load, SCOPE_OF_KIND[part.kind], part.take)
        wanted += requests_for_needs(account, rows, part.reason, intervals=intervals)
    return wanted


def _directory(one: planner.PlannedDirectory, account: Account) -> AttemptRequest:
    return AttemptRequest(
        one.target,
        RefreshKind.DIRECTORY,
        one.url,
        account.evicts(one.target),
        one.reason,
        one.oldest,
        covered=one.covers,
    )


def directory_request(load: Load, account: Account, reason: str) -> AttemptRequest:
    """Return the attempt for a load's subtree need."""
    force = account.evicts(load.target)
    return AttemptRequest(load.target, RefreshKind.DIRECTORY, load.url, force, reason, load.oldest)


def _is_plenty(budget: planner.Budget, file_price: float) -> bool:
    """Return whether so much is left that no URL has to wait; of a longer window than a day by what the next costs."""
    if isinstance(budget.allowance.window, Day):
        return budget.left > budget.limit * PLENTY
    return file_price < AT_PACE


def _interval(sites: Sites, load: Load, file_price: float) -> tuple[float, float]:
    """Return the shortest time between two refreshes of a URL, and what it may grow to while the URL changes on."""
    site = sites.of(load.target, load.url)
    if site is None:
        return 0.0, 0.0
    least = site.min_interval_seconds
    return least, max(least, planner.widest_seconds(file_price))


def requests_for_scope(
    snapshot: Snapshot, loads: Sequence[Load], scope: Scope, left: float, *, account: Account, reason: str
) -> list[AttemptRequest]:
    """Return the attempts for up to ``left`` needs of one scope, load by load."""
    wanted: list[AttemptRequest] = []
    most = int(min(left, MOST_ROWS))
    for load in loads:
        if most <= len(wanted):
            break
        rows = snapshot.due_rows(load, scope, most - len(wanted))
        wanted += requests_for_needs(account, rows, reason)
    return wanted
