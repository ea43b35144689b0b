"""The dispatcher: what is due becomes a plan, and the plan becomes held attempts."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import structlog

from listener import planner
from listener.clock import Clock
from listener.pipeline.accounts import CAREFUL_URLS, Account
from listener.pipeline.attempt_requests import request_for_need
from listener.pipeline.overrides import ActiveOverrides, Overrides
from listener.pipeline.plan_inputs import learned
from listener.pipeline.planning_round import Overdue, PlanningResult, PlanningRound
from listener.pipeline.sender import Sender
from listener.pipeline.sites import Sites
from listener.refresh import KIND_OF_SCOPE, Priority, RefreshKind
from listener.settings import PlannerSettings
from listener.store import Store
from listener.store.reservation import AttemptRequest

__all__ = ["Dispatcher", "Outcome"]

log = structlog.get_logger()

MANUAL_ROWS = 1_000
HOLD_SLICE = 1_000
"""Attempts held in one commit: as many as one request carries."""
EXPIRE_TOGETHER = 100
"""Directories whose expired needs are settled in one commit group."""

Evicts = Mapping[tuple[str, str], Sequence[tuple[str, int]]]


class Outcome(NamedTuple):
    """What one round of planning came to."""

    held: int
    """Attempts that were made."""
    deferred: Sequence[planner.Deferral]
    """What waits; of very much the oldest."""
    wake_at: float | None
    """When to plan again though nothing changes, in seconds since the epoch."""
    planning_seconds: float = 0.0
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
        self._overrides = Overrides(store)

    async def learn(self) -> None:
        """Learn the account's arrivals from what was sent before this process."""
        now = self._clock.now()
        self._account.arrivals = await self._store.read(lambda snapshot: learned(snapshot, self._account.name, now=now))

    async def plan(self) -> Outcome:
        """Reserve quota for what should be sent now; what is left is deferred, with the reasons."""
        now, began = self._clock.now(), time.perf_counter()
        open_at = self._account.open_at(now)
        overrides = await self._overrides.active()
        # What was requested is reserved before the loads are read, so that it is not planned once more.
        held = await self._manual(overrides) if open_at <= now else 0
        result = await self._choose(overrides, now, open_at)
        took = time.perf_counter() - began
        held += await self._hold(result.wanted, result.evicts)
        if held:
            log.info("dispatcher.held", account=self._account.name, attempts=held, deferred=result.waiting)
        return Outcome(held, result.deferred, result.wake_at, took)

    async def _choose(self, overrides: ActiveOverrides, now: float, open_at: float) -> PlanningResult:
        """Choose in a reading thread, so that the loop goes on; what expired by itself is settled before."""
        while True:
            planning = PlanningRound(
                account=self._account.copy(),
                sites=self._sites,
                settings=self._settings,
                overrides=overrides,
                queued=self._sender.queued(),
                now=now,
                open_at=open_at,
            )
            result = await self._store.read(planning.run)
            if not result.overdue:
                return result
            await self._expire(result.overdue)

    async def _expire(self, overdue: Sequence[Overdue]) -> None:
        """Settle what every cache has dropped by itself."""
        needs = 0
        for start in range(0, len(overdue), EXPIRE_TOGETHER):
            part = overdue[start : start + EXPIRE_TOGETHER]
            needs += sum(await asyncio.gather(*(self._store.expire(one.load, before=one.before) for one in part)))
        log.info("dispatcher.expired", account=self._account.name, directories=len(overdue), needs=needs)

    async def _manual(self, overrides: ActiveOverrides) -> int:
        """Reserve what people requested, unpaced: urgent needs from all of the quota, others apart from the reserve."""
        rows = [row for row in await self._store.manual_rows(MANUAL_ROWS) if row.target in self._account.targets]
        rows = overrides.manual(rows)
        if not rows:
            return 0
        row_of = partial(request_for_need, self._account)
        held = await self._hold([row_of(row, row.reason or "urgent", urgent=True) for row in rows if row.urgent])
        left = {kind: await self._unreserved(kind) for kind in self._account.quota}
        wanted = []
        for row in rows:
            kind = KIND_OF_SCOPE[row.scope]
            if not row.urgent and left.get(kind, 0) > 0:
                left[kind] -= 1
                wanted.append(row_of(row, row.reason or "manual request"))
        return held + await self._hold(wanted)

    async def _unreserved(self, kind: RefreshKind) -> int:
        """Return what is left of a kind without the reserve."""
        if self._account.exhausted_until(kind) > self._clock.now():
            return 0
        budget = await self._store.budget(self._account.name, kind, default=self._account.quota[kind])
        return budget.left - math.ceil(budget.limit * self._settings.reserve)

    async def _hold(self, wanted: Sequence[AttemptRequest], evicts: Evicts | None = None) -> int:
        count = 0
        now, account = self._clock.now(), self._account
        wanted = [
            one for one in wanted if account.can(one.target, one.kind) and account.exhausted_until(one.kind) <= now
        ]
        if account.careful:
            wanted = wanted[: account.careful * CAREFUL_URLS]  # the rest once these went well
        for priority in Priority:
            mine = [one for one in wanted if one.priority is priority]
            for start in range(0, len(mine), HOLD_SLICE):
                part = mine[start : start + HOLD_SLICE]
                held = await self._store.hold(part, account=account.name, quota=account.quota)
                # A slice at a time, so that sending begins early.
                self._sender.put(held, priority)
                count += len(held)
                for attempt in held:
                    if attempt.kind is RefreshKind.DIRECTORY and evicts:
                        for site, objects in evicts.get((attempt.target, attempt.url), ()):
                            account.evict(site, objects, now)
        return count
