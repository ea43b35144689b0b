"""One round of planning, in a reading thread and from one snapshot: what to send, what waits, and until when."""

from __future__ import annotations

import heapq
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from listener import planner
from listener.pipeline.accounts import Account
from listener.pipeline.attempt_requests import requests_for_plan, requests_for_scope
from listener.pipeline.batches import host_of
from listener.pipeline.gc_pause import gc_paused
from listener.pipeline.overrides import ActiveOverrides
from listener.pipeline.plan_inputs import PlanInputs, params_are_stubborn
from listener.pipeline.sites import Sites, root_of, share_name
from listener.refresh import RefreshKind, Scope
from listener.settings import PlannerSettings
from listener.store.needs import Load, expires, loads
from listener.store.reservation import AttemptRequest

__all__ = ["Overdue", "PlanningResult", "PlanningRound"]

MOST_TOLD = 10_000
"""Deferrals that are kept, the oldest first: a long list of them would be walked over on the event loop."""
EXPIRY_SECONDS = 60.0
"""While something waits that expires by itself, it is looked at so often."""


class Overdue(NamedTuple):
    """Needs of one directory that no cache can still serve the old copy of."""

    load: Load
    before: float
    """Those whose newest change is older than this, in seconds since the epoch."""


class PlanningResult(NamedTuple):
    """What a round came to."""

    overdue: Sequence[Overdue] = ()
    """To be settled first; nothing was planned then."""
    wanted: Sequence[AttemptRequest] = ()
    evicts: Mapping[tuple[str, str], Sequence[tuple[str, int]]] = {}
    """Of each directory (target and URL) the sites whose origins it concerns, and how many unchanged it evicts."""
    deferred: Sequence[planner.Deferral] = ()
    waiting: int = 0
    """How many deferrals there are, those left out included."""
    wake_at: float | None = None
    backfill: bool = False
    """Whether there is more that only a backfill requested: to be planned once this is reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningRound:
    """All that a round depends on, apart from the snapshot."""

    account: Account
    sites: Sites
    settings: PlannerSettings
    overrides: ActiveOverrides
    room: Callable[[str], int]
    """How many more URLs may be queued for a host."""
    now: float
    open_at: float
    """When something may be sent, in seconds since the epoch."""
    backfill: bool = False
    """Whether it is about what only a backfill requested, and nothing else."""

    def run(self, connection: sqlite3.Connection) -> PlanningResult:
        """Look at everything that is due, and choose."""
        with gc_paused():
            due = [load for load in loads(connection, apart=True) if load.target in self.account.targets]
            mine = [load for load in due if load.backfill is self.backfill]
            if overdue := self._overdue(connection, mine):
                return PlanningResult(overdue=overdue)
            return self._choose(connection, mine)._replace(backfill=not self.backfill and len(mine) < len(due))

    def _overdue(self, connection: sqlite3.Connection, mine: Sequence[Load]) -> list[Overdue]:
        if not any(site.max_ttl_seconds for site in self.sites.behind(self.account.targets)):
            return []
        found = [Overdue(load, self.now - ttl) for load in mine if (ttl := self._ttl(load))]
        return [one for one in found if expires(connection, one.load, before=one.before)]

    def _ttl(self, load: Load) -> float:
        site = self.sites.of(load.target, load.url)
        return 0.0 if site is None else site.max_ttl_seconds

    def _choose(self, connection: sqlite3.Connection, mine: Sequence[Load]) -> PlanningResult:
        free, waits = self.overrides.part(self._unqueued(mine))
        if not free:
            return self._result(waits, [self.overrides.ends_at])
        if self.open_at > self.now:
            why = self.account.closed_reason or "the quota day is about to turn"
            return self._result([*waits, *_all_of(free, why)], [self.open_at])
        closed = self.sites.closed(self.now)
        inputs = PlanInputs(
            connection,
            self.account,
            self.sites,
            reserve=self.settings.reserve,
            now=self.now,
            backfill=self.backfill,
        )
        made = planner.plan(
            inputs.given(free, allowed=lambda url: not (closed.holds(url) or self.overrides.reached(url)))
        )
        wakes = [made.wake_at, self.overrides.ends_at, closed.until, self._expiry(free) if made.deferred else None]
        wakes += [self.account.exhausted_until(kind) for kind in RefreshKind]
        wanted: list[AttemptRequest] = []
        if why := self.overrides.unapproved(made, self.settings.approve_above):
            waits += _all_of(free, why)
        else:
            wanted = requests_for_plan(
                connection, made, free, account=self.account, sites=self.sites, budgets=inputs.budgets
            )
            waits += made.deferred
        if self.account.exhausted_until(RefreshKind.PREFETCH) > self.now:
            waits += _all_of([load for load in free if load.prefetch], "the CDN refuses for its quota")
        wanted += self._apart(connection, free, inputs)
        if self.backfill:
            wanted = self._little(wanted)
        return self._result(waits, wakes)._replace(wanted=wanted, evicts=self._evicts(made))

    def _little(self, wanted: Iterable[AttemptRequest]) -> list[AttemptRequest]:
        """Return only what is soon sent: quota that is held for a backfill is kept from what changes meanwhile."""
        room: dict[str, int] = {}
        found: list[AttemptRequest] = []
        for one in wanted:
            host = host_of(one.url)
            left = room.get(host)
            if left is None:
                left = self.room(host)
            room[host] = left - 1
            if left > 0:
                found.append(one._replace(backfill=True))
        return found

    def _unqueued(self, mine: Sequence[Load]) -> list[Load]:
        """Return the loads of hosts that have not enough queued already: what is held longer cannot be planned."""
        full: dict[str, bool] = {}
        for load in mine:
            if (root := root_of(load.url)) not in full:
                full[root] = not self.room(host_of(root))
        return [load for load in mine if not full[root_of(load.url)]]

    def _apart(self, connection: sqlite3.Connection, free: Sequence[Load], inputs: PlanInputs) -> list[AttemptRequest]:
        """Return what is not planned: all-params needs that no directory would heal, and prefetches."""
        params = inputs.budgets.get(RefreshKind.IGNORE_PARAMS)
        left = 0 if params is None else params.left - math.ceil(params.limit * self.settings.reserve)
        stubborn = [load for load in free if params_are_stubborn(self.account, load)]
        why = "a directory refresh would not heal it"
        wanted = requests_for_scope(connection, stubborn, Scope.ALL_PARAMS, left, account=self.account, reason=why)
        prefetches = inputs.budgets.get(RefreshKind.PREFETCH)
        left = 0 if prefetches is None else prefetches.left
        why = "asked for; nothing is left to refresh"
        asked = [load for load in free if load.prefetch]
        return wanted + requests_for_scope(connection, asked, Scope.PREFETCH, left, account=self.account, reason=why)

    def _evicts(self, made: planner.Plan) -> dict[tuple[str, str], list[tuple[str, int]]]:
        """Count a directory against every site that it touches, as its plan did."""
        bounded = [site for site in self.sites.behind(self.account.targets) if site.evictions_per_minute]
        return {
            (one.target, one.url): [
                (share_name(site), one.collateral) for site in bounded if one.url.startswith(site.base_urls)
            ]
            for one in made.directories
        }

    def _expiry(self, free: Iterable[Load]) -> float | None:
        """Return when to look again at what expires by itself."""
        ends = min((load.oldest + ttl for load in free if (ttl := self._ttl(load))), default=None)
        return None if ends is None else max(ends, self.now + EXPIRY_SECONDS)

    def _result(self, waits: Sequence[planner.Deferral], wakes: Iterable[float | None]) -> PlanningResult:
        shown = heapq.nsmallest(MOST_TOLD, waits, key=lambda one: one.oldest) if len(waits) > MOST_TOLD else waits
        wake_at = min((at for at in wakes if at is not None and at > self.now), default=None)
        return PlanningResult(deferred=shown, waiting=len(waits), wake_at=wake_at)


def _all_of(these: Sequence[Load], why: str) -> list[planner.Deferral]:
    return [
        planner.Deferral(load.target, load.url, load.exact + load.subtree + load.all_params, why, load.oldest)
        for load in these
    ]
