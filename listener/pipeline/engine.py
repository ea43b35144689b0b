"""
One account's engine: what is due becomes a plan, the plan becomes held attempts, and the sender sends them.

The :class:`Engine` decides when to plan, resolves unknown outcomes and corrects the ledger by the live quota; its
:class:`Dispatcher` plans once and reserves.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import structlog

from listener import planner
from listener.allowances import Allowance, costs_of
from listener.clock import Clock
from listener.errors import Misconfigured, TargetError
from listener.pipeline.accounts import (
    CAREFUL_URLS,
    QUOTA_RETRY_SECONDS,
    RESET_GUARD_SECONDS,
    Account,
)
from listener.pipeline.intake import StoreRetry
from listener.pipeline.layers import Layers
from listener.pipeline.outcomes import UnknownOutcomes
from listener.pipeline.plan_inputs import learned, requests_for_needs
from listener.pipeline.planning_round import ActiveOverrides, Overdue, PlanningResult, PlanningRound
from listener.pipeline.sender import Sender
from listener.pipeline.spenders import Spenders, large_spenders
from listener.pipeline.waking import TICK_SECONDS, WakeUp
from listener.refresh import KIND_OF_SCOPE, Priority, QuotaReading, RefreshKind, reserved_units
from listener.router.routing import Sites
from listener.settings import PlannerSettings, Settings
from listener.store import Store
from listener.store.controls import AccountReport, Controls
from listener.store.leadership import Term
from listener.store.ledger import Budget
from listener.store.transitions import AttemptRequest

__all__ = ["Dispatcher", "Engine", "Outcome", "rest_seconds"]

log = structlog.get_logger()

SPENDERS_SECONDS = 30.0
"""How often the account looks who spends its quota."""
LEAST_REST_SECONDS = 1.0
"""How often, at most, to try what could not be done when it was due."""
QUOTA_SECONDS = 300.0
"""How often the live quota is read when nothing needs it sooner."""
REST_SECONDS = 3 * QUOTA_SECONDS
"""An account with nothing to send for so long is at rest: its quota was read twice since, as a correction takes."""
QUOTA_AT_REST_SECONDS = 3600.0
"""How often the live quota of an account at rest is read: of a thousand accounts some each minute."""
PATIENCE_SECONDS = 30.0
"""How long a run that is to end waits for a CDN that refuses every request."""
QUOTA_REFUSALS = 5
"""Refusals of a quota in a row after which such a run does not wait any longer: about half a minute of them."""
REPORTED_DEFERRALS = 100
REST = 4
"""Planning takes at most a fifth of the time: it rests this many times as long as it took."""
FRUITLESS_REST = 9
"""Likewise after a round that found nothing to send: at most a tenth of the time."""
FRUITLESS_REST_SECONDS = 5.0
"""The longest rest for that reason, since something urgent may come; after longer rounds :data:`REST` decides alone."""


class Engine:
    """Brings what is due on one account to the CDN."""

    def __init__(
        self,
        account: Account,
        term: Term,
        clock: Clock,
        *,
        settings: Settings,
        sites: Sites,
        layers: Layers,
        retry: StoreRetry,
        quota_turns: asyncio.Semaphore,
        changed: Callable[[], None],
    ) -> None:
        """
        Take the account.

        Args:
            account: to plan and send for.
            term: during which it does so; its store holds what is due.
            clock: the time of day.
            settings: of the whole program.
            sites: all of them.
            layers: what the account's targets wait for.
            retry: repeats what the store could not do.
            quota_turns: bounds how many accounts read their live quota at once.
            changed: called whenever :attr:`report` may have changed.
        """
        self.account = account
        self._quota_turns = quota_turns
        self._changed = changed
        self._store = store = term.store
        self._retry = retry
        self._clock = clock
        self.sender = Sender(
            account,
            term,
            clock,
            retry=retry,
            first_look_seconds=settings.verifier.first_seconds,
            changed=self.replan,
        )
        self._dispatcher = Dispatcher(
            account, store, sites, clock, settings=settings.planner, sender=self.sender, layers=layers
        )
        self._unknowns = UnknownOutcomes(
            account,
            store,
            clock,
            first_seconds=settings.verifier.first_seconds,
            give_up_seconds=settings.verifier.give_up_seconds,
            resend=self.sender.resend,
            unknown_since={i: clock.now() - seconds for i, seconds in term.unknown_seconds.items()},
        )
        self._spenders = Spenders(sites, account.targets)
        self._spenders_read_at = -math.inf
        self._spenders_stale = True
        self._active_at = clock.now()
        """When there was something to send last, in seconds since the epoch."""
        self._wake = asyncio.Event()
        self._watch_due = WakeUp()
        self.attempts_due = WakeUp()
        """Set when attempts of the account are to be looked at."""
        self._quota_known = asyncio.Event()
        self._replan = True
        self._seen = -1
        self.outcome = Outcome(0, [], None)
        self.settled = False
        """Whether nothing could be sent when it was last looked at."""

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent, and what is left waits for quota or people: not for the CDN's next answer."""
        account, now = self.account, self._clock.now()
        refused_since = now if account.closed_since is None else account.closed_since
        waits_for_cdn = account.open_at(now) > now and now - refused_since < PATIENCE_SECONDS
        waits_for_cdn = waits_for_cdn or any(
            now - one.since < PATIENCE_SECONDS and not one.remedy for one in account.full(now).values()
        )
        waits_for_cdn = waits_for_cdn or account.waits_for_quota(now, QUOTA_REFUSALS)
        woken = self.outcome.wake_at is not None and now >= self.outcome.wake_at
        waits_for_cdn = waits_for_cdn and not account.misconfigured
        return self.settled and self.sender.idle and not woken and not (waits_for_cdn and self.outcome.deferred)

    @property
    def planned_to(self) -> int:
        """The store's sequence when it planned last."""
        return self._seen

    @property
    def report(self) -> AccountReport:
        """What keeps the account from sending, and why needs wait; of very many the oldest."""
        waiting = sorted(self.outcome.deferred, key=lambda one: one.oldest)[:REPORTED_DEFERRALS]
        return self.account.report(
            {(one.target, one.directory_url): one.reason for one in waiting}, now=self._clock.now()
        )

    def set_back(self, seconds: float) -> None:
        """Follow a clock that was set back by so much."""
        self.account.set_back(seconds)
        self._spenders_read_at = -math.inf
        self.replan()

    def wake(self) -> None:
        """Look whether there is something to plan."""
        self._wake.set()

    def follow(self, revision: int, *, has_ready: bool) -> None:
        """Plan where what was committed up to a revision of the store may concern the account; else only note it."""
        if revision == self._seen:
            return
        if has_ready or self.outcome.deferred or not self.sender.idle:
            self.wake()
        else:
            self._seen = revision

    def try_again(self) -> None:
        """Try at once what was refused for missing credentials: they are there now."""
        self.account.try_again()
        self.sender.read_quota_soon = True
        self.replan()

    def replan(self) -> None:
        """Plan again: tokens, needs or the account changed."""
        self._replan = True
        self.settled = False
        self._wake.set()
        self._changed()
        if self.sender.read_quota_soon:
            self._watch_due.set()

    def look_at_attempts(self) -> None:
        """Look what became of attempts, and whether the live quota is to be read."""
        self.attempts_due.set()
        self._watch_due.set()

    async def dispatch(self) -> None:
        """Plan whenever something is due or a plan may come out differently, for ever; the live quota first."""
        await self._retry.until_done("read the quota", self.read_quota)
        self._quota_known.set()
        await self._retry.until_done("learn", self._dispatcher.learn)
        while True:
            self._wake.clear()
            took = await self._retry.until_done("plan", self._round)
            await self._wait()
            await asyncio.sleep(rest_seconds(took, is_fruitless=not self.outcome.held))

    async def _wait(self) -> None:
        """Wait until it is woken, or until the plan is to be made again though nothing changes."""
        while not self._wake.is_set():
            at = self.outcome.wake_at
            left = None if at is None else at - self._clock.now()
            if left is not None and left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if left is None else min(TICK_SECONDS, max(left, 0.005))):
                    await self._wake.wait()

    async def _round(self) -> float:
        """Plan where there is reason to; return how long planning took, in seconds."""
        was_settled, self.settled = self.settled, False
        sequence = await self._store.revision()
        woken = self.outcome.wake_at is not None and self._clock.now() >= self.outcome.wake_at
        if not (self._replan or woken or sequence != self._seen):
            self.settled = True
            if not was_settled:
                self._changed()
            return 0.0
        self._replan, self._seen = False, sequence
        await self.sender.recheck()
        try:
            self.outcome = await self._dispatcher.plan()
        except BaseException:
            self._replan = True  # what is ready would else wait for the next change
            raise
        self.settled = not self.outcome.held and not self._replan
        if self.outcome.held or self.outcome.deferred:
            self._note_activity()
        self._changed()
        return self.outcome.planning_seconds

    def _note_activity(self) -> None:
        was_at_rest, self._active_at = self._is_at_rest, self._clock.now()
        self._spenders_stale = True
        if was_at_rest:
            self._watch_due.set()  # its quota was read long ago, maybe

    @property
    def _is_at_rest(self) -> bool:
        """Whether the account has had nothing to send for long, and nothing is wrong with it."""
        is_well = self.sender.idle and not self.account.closed_reason and self.account.quota_trouble is None
        return is_well and self._clock.now() - self._active_at > REST_SECONDS

    async def watch(self) -> None:
        """Resolve unknown outcomes and keep the ledger true, for ever."""
        await self._quota_known.wait()
        while True:
            since = self._watch_due.count
            await self._retry.until_done("watch", self._watch_once)
            await self._watch_due.wait(self._watch_seconds(), since=since)

    def _watch_seconds(self) -> float:
        """Return how long there is nothing to watch, as far as is known."""
        due_at = min(self._quota_due_at(), self._spenders_due_at())
        return max(LEAST_REST_SECONDS, due_at - self._clock.now())

    async def _watch_once(self) -> None:
        if await self._unknowns.resolve():
            self.sender.read_quota_soon = True
            self.replan()
        if self._quota_due():
            await self.read_quota()
        if self._spenders_due():
            await self._report_spenders()

    def _spenders_due_at(self) -> float:
        """Return when to look at spenders, in seconds since the epoch: not where nothing was sent since."""
        if not self.account.spenders and not self._spenders_stale:
            return math.inf
        return self._spenders_read_at + SPENDERS_SECONDS

    def _spenders_due(self) -> bool:
        return self._clock.now() >= self._spenders_due_at()

    async def _report_spenders(self) -> None:
        """Look who spent much of the quota within the last hour, and log who is new among them."""
        now, account = self._clock.now(), self.account
        self._spenders_read_at, self._spenders_stale = now, False
        known = {(one.name, one.kind) for one in account.spenders}
        account.spenders = await self._store.read(
            lambda snapshot: large_spenders(snapshot, account, self._spenders, now=now)
        )
        for one in account.spenders:
            if (one.name, one.kind) not in known:
                log.warning(
                    "quota.large_spender",
                    account=account.name,
                    source=one.source,
                    spender=one.name,
                    kind=one.kind,
                    spent=one.units,
                    left_before=one.left,
                )
        self._changed()

    def _quota_due_at(self) -> float:
        """Return when to read the live quota next, in seconds since the epoch: regularly, and after each reset."""
        if self.sender.read_quota_soon:
            return -math.inf
        read_at = self.account.quota_read_at
        if self.account.needs_quota:
            return read_at + QUOTA_RETRY_SECONDS
        if self._is_at_rest:
            return read_at + QUOTA_AT_REST_SECONDS
        return min(read_at + QUOTA_SECONDS, self.account.next_reset(read_at) + RESET_GUARD_SECONDS)

    def _quota_due(self) -> bool:
        return self._clock.now() >= self._quota_due_at()

    async def read_quota(self) -> None:
        """Read the live quota while nothing is being sent, and correct the ledger by it."""
        async with self._quota_turns, self.account.exclusive():
            now = self._clock.now()
            self.account.quota_read_at = now
            if self.account.is_near_reset(now) and (self.account.needs_quota or not self.account.closed_reason):
                return  # around a reset nobody can say which window the answer is of
            self.sender.read_quota_soon = False
            try:
                readings = await self.account.any_target.read_quota()
            except TargetError as error:
                log.warning("quota.unreadable", account=self.account.name, error=str(error), hint=error.hint)
                self.account.quota_unreadable(now, str(error), error.hint)
                if isinstance(error, Misconfigured) and not self.account.has_succeeded:
                    self.account.refused_for_good(str(error))
                return
            if self.account.needs_quota:
                await self._presume_spent(readings)
            is_idle = self.sender.idle and not self.outcome.deferred
            self.account.quota_read(now, is_idle=is_idle, is_reported=bool(readings))
            answered_at = self._clock.now()
            same = [one for one in self.account.allowances if one.window.start(answered_at) == one.window.start(now)]
            await self._store.correct_ledger(self.account.name, same, readings)
        self.replan()

    async def _presume_spent(self, readings: Mapping[str, QuotaReading]) -> None:
        """
        Spend no more, until its reset, of what no live quota is reported: the ledger lacks some of what was spent.

        What the lost commits had spent is at most all that the ledger has left.
        """
        unread = [one for one in self.account.allowances if one.name not in readings]
        if unread:
            units = await self._store.presume_rest_spent(self.account.name, unread)
            log.warning("quota.presumed_spent", account=self.account.name, units=units, hint=PRESUMED_HINT)


PRESUMED_HINT = "nothing that spends them is sent until their reset; a synchronous standby avoids it: docs/fleet.md"


def rest_seconds(took_seconds: float, *, is_fruitless: bool) -> float:
    """Return for how long to plan no more after a round that took so long."""
    rest = REST * took_seconds
    return max(rest, min(FRUITLESS_REST * took_seconds, FRUITLESS_REST_SECONDS)) if is_fruitless else rest


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
        layers: Layers,
    ) -> None:
        """Take the account to plan for, and who sends what is held."""
        self._account = account
        self._store = store
        self._sites = sites
        self._clock = clock
        self._settings = settings
        self._sender = sender
        self._controls = Controls(store)
        self._layers = layers
        self._requests = partial(requests_for_needs, account)

    async def learn(self) -> None:
        """Learn the account's arrivals from what was sent before this process."""
        now = self._clock.now()
        self._account.arrivals = await self._store.read(lambda snapshot: learned(snapshot, self._account.name, now=now))

    async def plan(self) -> Outcome:
        """Reserve quota for what should be sent now; what is left is deferred, with the reasons."""
        now, began = self._clock.now(), time.perf_counter()
        open_at = self._account.open_at(now)
        overrides = ActiveOverrides(await self._controls.active())
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
                layers=self._layers,
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
        found = await self._store.read(
            lambda snapshot: self._layers.manual(snapshot, snapshot.manual_rows(MANUAL_ROWS))
        )
        rows = overrides.manual([row for row in found if row.target in self._account.targets])
        if not rows:
            return 0
        urgent = [row for row in rows if row.urgent]
        held = await self._hold(
            [one for row in urgent for one in self._requests([row], row.reason or "urgent", urgent=True)]
        )
        left = {one.name: await self._store.budget(self._account.name, one) for one in self._account.allowances}
        wanted = []
        for row in (row for row in rows if not row.urgent):
            kind = KIND_OF_SCOPE[row.scope]
            if all(self._is_unreserved(one, kind, left[one.name]) for one in self._account.spends(kind)):
                for name, units in costs_of(self._account.allowances, kind).items():
                    left[name] = left[name]._replace(held=left[name].held + units)
                wanted += self._requests([row], row.reason or "manual request")
        return held + await self._hold(wanted)

    def _is_unreserved(self, allowance: Allowance, kind: RefreshKind, budget: Budget) -> bool:
        """Return whether one more of a kind is left apart from the reserve."""
        kept = reserved_units(kind, budget.limit, self._settings.reserve)
        return budget.left - kept >= allowance.costs[kind]

    async def _hold(self, wanted: Sequence[AttemptRequest], evicts: Evicts | None = None) -> int:
        count = 0
        now, account = self._clock.now(), self._account
        able = {
            (target, kind)
            for target, kind in {(one.target, one.kind) for one in wanted}
            if account.can(target, kind) and account.closed_until_for(kind) <= now
        }
        wanted = [one for one in wanted if (one.target, one.kind) in able]
        if account.careful:
            wanted = wanted[: account.careful * CAREFUL_URLS]  # the rest once these went well
        for priority in Priority:
            mine = [one for one in wanted if one.priority is priority]
            for start in range(0, len(mine), HOLD_SLICE):
                part = mine[start : start + HOLD_SLICE]
                held = await self._store.hold(part, account=account.name, allowances=account.allowances)
                # A slice at a time, so that sending begins early.
                self._sender.put(held, priority)
                count += len(held)
                for attempt in held if evicts else ():
                    if attempt.kind is RefreshKind.DIRECTORY:
                        for site, objects in (evicts or {}).get((attempt.target, attempt.url), ()):
                            account.evict(site, objects, now)
        return count
