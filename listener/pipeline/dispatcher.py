"""The dispatcher: what is due becomes a plan, and the plan becomes held attempts."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from listener import planner
from listener.clock import Clock
from listener.pipeline.accounts import CAREFUL_URLS, Account
from listener.pipeline.batches import host_of
from listener.pipeline.orders import Orders, Standing
from listener.pipeline.sender import Sender
from listener.pipeline.sites import Closed, Sites
from listener.refresh import RefreshKind, Scope
from listener.settings import Planner as PlannerSettings
from listener.settings import Site
from listener.store import Store
from listener.store.attempts import Wanted
from listener.store.index import weight_below
from listener.store.needs import DueRow, Load
from listener.store.upkeep import is_seeded

__all__ = ["Dispatcher", "Outcome"]

log = structlog.get_logger()

PLENTY = 0.5
"""While more than this part of a day's quota is left, no URL waits for its minimal interval."""
ASKED_ROWS = 1_000
HOLD_SLICE = 1_000
"""Attempts held in one commit: as many as one request carries."""
_SCOPES = {RefreshKind.FILE: Scope.EXACT, RefreshKind.IGNORE_PARAMS: Scope.ALL_PARAMS}
_KINDS = {scope: kind for kind, scope in _SCOPES.items()} | {
    Scope.SUBTREE: RefreshKind.DIRECTORY,
    Scope.PREFETCH: RefreshKind.PREFETCH,
}

Budgets = Mapping[RefreshKind, planner.Budget]


class Outcome(NamedTuple):
    """What one round of planning came to."""

    held: int
    """Attempts that were made."""
    deferred: list[planner.Deferral]
    wake_at: float | None
    """When to plan again though nothing changes, in seconds since the epoch."""
    thinking_seconds: float = 0.0
    """What looking and choosing took, holding not counted."""


class Dispatcher:
    """Plans for one account."""

    def __init__(
        self,
        account: Account,
        store: Store,
        sites: Sites,
        clock: Clock,
        *,
        settings: PlannerSettings,
        sender: Sender,
    ) -> None:
        """Take the account to plan for, and who sends what is held."""
        self._account = account
        self._store = store
        self._sites = sites
        self._clock = clock
        self._settings = settings
        self._sender = sender
        self._orders = Orders(store)

    async def plan(self) -> Outcome:
        """Hold quota for what should be sent now; what is left is deferred, with the reasons."""
        now, began = self._clock.now(), time.perf_counter()
        open_at = self._account.open_at(now)
        standing = await self._orders.standing()
        # What was asked for is held before the loads are read, so that it is not planned once more.
        held = await self._asked(standing) if open_at <= now else 0
        loads = [load for load in await self._store.loads() if load.target in self._account.targets]
        loads = [load for load in loads if not await self._expired(load, now)]
        loads = [load for load in loads if not self._sender.backlog(host_of(load.url))]
        loads, ordered = standing.part(loads)
        if not loads:
            return Outcome(held, ordered, standing.ends_at, time.perf_counter() - began)
        if open_at > now:
            why = self._account.closed_reason or "the quota day is about to turn"
            return Outcome(0, [*ordered, *_closed(loads, why)], open_at, time.perf_counter() - began)
        budgets = await self._budgets()
        closed = self._sites.closed(now)
        made = await self._decide(loads, budgets, now, closed)
        thinking = time.perf_counter() - began
        unapproved = standing.unapproved(made, self._settings.approve_above)
        if not unapproved:
            held += await self._hold(await self._wanted(made, loads, budgets))
        held += await self._stubborn_params(loads, budgets)
        held += await self._prefetches(loads, budgets)
        if held:
            log.info("dispatcher.held", account=self._account.name, attempts=held, deferred=len(made.deferred))
        wakes = [
            made.wake_at,
            standing.ends_at,
            closed.until,
            *(self._account.exhausted_until(kind) for kind in RefreshKind),
        ]
        wake_at = min((at for at in wakes if at is not None and at > now), default=None)
        deferred = [*ordered, *(_closed(loads, unapproved) if unapproved else made.deferred)]
        if self._account.exhausted_until(RefreshKind.PREFETCH) > now:
            deferred += _closed([load for load in loads if load.prefetch], "the CDN refuses for its quota")
        return Outcome(held, deferred, wake_at, thinking)

    async def _budgets(self) -> dict[RefreshKind, planner.Budget]:
        found = {}
        for kind, default in self._account.quota.items():
            budget = await self._store.budget(self._account.name, kind, default=default)
            left = 0 if self._account.exhausted_until(kind) > self._clock.now() else budget.left
            found[kind] = planner.Budget(limit=budget.limit, left=left, resets_at=budget.resets_at)
        return found

    async def _expired(self, load: Load, now: float) -> bool:
        """Settle what every cache has dropped by itself; return whether nothing is left of the load."""
        site = self._sites.of(load.target, load.url)
        if site is None or not site.max_ttl_seconds or load.oldest >= now - site.max_ttl_seconds:
            return False
        count = await self._store.expire(load, before=now - site.max_ttl_seconds)
        log.info("dispatcher.expired", directory=load.url, needs=count)
        return count >= load.exact + load.all_params + load.subtree + load.prefetch

    async def _asked(self, standing: Standing) -> int:
        """Hold what people asked for, unpaced: the urgent from the whole quota, the rest from all but the reserve."""
        rows = [row for row in await self._store.asked_rows(ASKED_ROWS) if row.target in self._account.targets]
        rows = standing.asked(rows)
        if not rows:
            return 0
        held = await self._hold([self._row(row, row.reason or "urgent", urgent=True) for row in rows if row.urgent])
        budgets = await self._budgets()
        left = {kind: one.left - math.ceil(one.limit * self._settings.reserve) for kind, one in budgets.items()}
        wanted = []
        for row in rows:
            kind = _KINDS[row.scope]
            if not row.urgent and left.get(kind, 0) > 0:
                left[kind] -= 1
                wanted.append(self._row(row, row.reason or "asked for by hand"))
        return held + await self._hold(wanted)

    async def _decide(self, loads: Sequence[Load], budgets: Budgets, now: float, closed: Closed) -> planner.Plan:
        """Plan in a reading thread, so that the loop goes on and weights come from one snapshot."""
        router = self._sites.router
        targets = list(self._account.targets)
        due = [one for one in map(self._planner_load, loads) if one.due or one.subtree_due or one.due_all_params]
        subtrees = {load.url for load in loads if load.subtree}
        refused = self._account.refused(now)

        def allowed(url: str) -> bool:
            # A subtree need of its own was parked with the refusal: that it is due again is a person's word.
            spoilt = url not in subtrees and any(one.startswith(url) for one in refused)
            return not spoilt and not closed.holds(url) and router.depth_floor(targets, url)

        def decide(connection: sqlite3.Connection) -> planner.Plan:
            def weight(url: str) -> int | None:
                prefixes = router.key_prefixes(targets, url)
                weight = sum(weight_below(connection, root, prefix) for root, prefix in prefixes)
                # Nothing below is knowledge only where everything was listed once.
                known = weight or all(is_seeded(connection, root) for root, _ in prefixes)
                return weight if known else None

            return planner.plan(
                planner.PlanInput(
                    now=now,
                    loads=due,
                    budgets=budgets,
                    weights=weight,
                    allowed=allowed,
                    reserve=self._settings.reserve,
                    force=self._account.forces,
                )
            )

        return await self._store.read(decide)

    def _planner_load(self, load: Load) -> planner.DirectoryLoad:
        forces = self._account.targets[load.target].forces
        can = self._account.can(load.target, RefreshKind.IGNORE_PARAMS)
        return planner.DirectoryLoad(
            target=load.target,
            url=load.url,
            due=load.exact,
            subtree_due=bool(load.subtree),
            oldest=load.oldest,
            # Where some do not need force a directory heals those; the rest is left to the next round.
            forced_only=not forces and load.stubborn >= load.exact,
            due_all_params=load.all_params if can and not self._params_are_stubborn(load) else 0,
        )

    def _params_are_stubborn(self, load: Load) -> bool:
        return not self._account.targets[load.target].forces and 0 < load.all_params <= load.stubborn_all_params

    async def _stubborn_params(self, loads: Sequence[Load], budgets: Budgets) -> int:
        """Hold all-params needs that no directory would heal, as far as there are tokens for them."""
        budget = budgets.get(RefreshKind.IGNORE_PARAMS)
        left = 0 if budget is None else budget.left - math.ceil(budget.limit * self._settings.reserve)
        wanted: list[Wanted] = []
        for load in loads:
            if self._params_are_stubborn(load) and left > len(wanted):
                rows = await self._store.due_rows(load, Scope.ALL_PARAMS, left - len(wanted))
                wanted += [self._row(row, "a directory refresh would not heal it") for row in rows]
        return await self._hold(wanted)

    async def _wanted(self, made: planner.Plan, loads: Sequence[Load], budgets: Budgets) -> list[Wanted]:
        oldest = {(load.target, load.url): load for load in loads}
        wanted = [
            Wanted(
                one.target,
                RefreshKind.DIRECTORY,
                one.url,
                self._account.targets[one.target].forces,
                one.reason,
                min((load.oldest for load in loads if _below(load, one)), default=self._clock.now()),
                covered=one.covers,
            )
            for one in made.directories
        ]
        for part in made.files:
            load = oldest[part.target, part.directory_url]
            interval = self._interval(self._sites.of(load.target, load.url), part.kind, budgets)
            rows = await self._store.due_rows(load, _SCOPES[part.kind], part.take)
            wanted += [self._row(row, part.reason, interval=interval) for row in rows]
        return wanted

    def _interval(self, site: Site | None, kind: RefreshKind, budgets: Budgets) -> float:
        budget = budgets.get(kind)
        if site is None or (budget is not None and budget.left > budget.limit * PLENTY):
            return 0.0
        return site.min_interval_seconds

    def _row(self, row: DueRow, reason: str, *, urgent: bool = False, interval: float = 0.0) -> Wanted:
        kind = _KINDS[row.scope]
        # Like a file, one path with its queries is always evicted.
        target = self._account.targets[row.target]
        force = (urgent and target.can_force) or kind is RefreshKind.IGNORE_PARAMS or target.forces
        return Wanted(row.target, kind, row.url, force, reason, row.stale_since, 1, urgent, interval)

    async def _prefetches(self, loads: Sequence[Load], budgets: Budgets) -> int:
        budget = budgets.get(RefreshKind.PREFETCH)
        left = budget.left if budget is not None else 0
        wanted: list[Wanted] = []
        for load in loads:
            if load.prefetch and left > len(wanted):
                rows = await self._store.due_rows(load, Scope.PREFETCH, left - len(wanted))
                wanted += [self._row(row, "asked for; nothing is left to refresh") for row in rows]
        return await self._hold(wanted)

    async def _hold(self, wanted: Sequence[Wanted]) -> int:
        count = 0
        now, account = self._clock.now(), self._account
        wanted = [
            one for one in wanted if account.can(one.target, one.kind) and account.exhausted_until(one.kind) <= now
        ]
        if account.careful:
            wanted = wanted[: account.careful * CAREFUL_URLS]  # the rest once these went well
        for start in range(0, len(wanted), HOLD_SLICE):
            part = wanted[start : start + HOLD_SLICE]
            held = await self._store.hold(part, account=self._account.name, quota=self._account.quota)
            # A slice at a time, so that sending begins early.
            self._sender.put(held)
            count += len(held)
        return count


def _below(load: Load, one: planner.PlannedDirectory) -> bool:
    return load.target == one.target and load.url.startswith(one.url)


def _closed(loads: Sequence[Load], why: str) -> list[planner.Deferral]:
    return [
        planner.Deferral(load.target, load.url, load.exact + load.subtree + load.all_params, why, load.oldest)
        for load in loads
    ]
