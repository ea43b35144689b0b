"""One account's engine: plan, send, ask, correct."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import structlog

from listener.clock import Clock, window_start
from listener.errors import TargetError
from listener.pipeline.accounts import RESET_GUARD_SECONDS, Account
from listener.pipeline.dispatcher import Dispatcher, Outcome
from listener.pipeline.sender import Sender
from listener.pipeline.sites import Sites
from listener.pipeline.spenders import Spenders, large_spenders
from listener.pipeline.store_retry import StoreRetry
from listener.pipeline.unknown_outcomes import UnknownOutcomes
from listener.settings import Settings
from listener.store import Store
from listener.store.promotion import Promoted
from listener.store.staleness import AccountReport

__all__ = ["Engine"]

log = structlog.get_logger()

POLL_SECONDS = 1.0
"""How often the store is asked whether another process added needs."""
SPENDERS_SECONDS = 30.0
"""How often the account looks who spends its quota."""
QUOTA_SECONDS = 300.0
"""How often the live quota is read when nothing needs it sooner."""
PATIENCE_SECONDS = 30.0
"""How long a run that is to end waits for a CDN that refuses every request."""
QUOTA_REFUSALS = 5
"""Refusals of a quota in a row after which such a run does not wait any longer: about half a minute of them."""
REPORTED_DEFERRALS = 100
REST = 4
"""Planning takes at most a fifth of the time: it rests this many times as long as it took."""


class Engine:
    """Brings what is due on one account to the CDN."""

    def __init__(
        self,
        account: Account,
        store: Store,
        sites: Sites,
        clock: Clock,
        *,
        settings: Settings,
        retry: StoreRetry,
        promoted: Callable[[Promoted], None],
    ) -> None:
        """Take the account, and what to call with the needs that became due, of whatever account."""
        self.account = account
        self._ripened = promoted
        self._store = store
        self._retry = retry
        self._clock = clock
        self._poll_seconds = min(POLL_SECONDS, settings.coalescer.quiet_seconds or POLL_SECONDS)
        self.sender = Sender(
            account,
            store,
            clock,
            retry=retry,
            first_look_seconds=settings.verifier.first_seconds,
            changed=self.replan,
        )
        self._dispatcher = Dispatcher(account, store, sites, clock, settings=settings.planner, sender=self.sender)
        self._unknowns = UnknownOutcomes(
            account,
            store,
            clock,
            first_seconds=settings.verifier.first_seconds,
            give_up_seconds=settings.verifier.give_up_seconds,
        )
        self._spenders = Spenders(sites, account.targets)
        self._spenders_read_at = -math.inf
        self._wake = asyncio.Event()
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
        waits_for_cdn = waits_for_cdn or account.waits_for_quota(now, QUOTA_REFUSALS)
        woken = self.outcome.wake_at is not None and now >= self.outcome.wake_at
        return self.settled and self.sender.idle and not woken and not (waits_for_cdn and self.outcome.deferred)

    @property
    def planned_to(self) -> int:
        """The store's sequence when it planned last."""
        return self._seen

    @property
    def report(self) -> AccountReport:
        """What keeps the account from sending, and why needs wait; of very many the oldest."""
        waiting = sorted(self.outcome.deferred, key=lambda one: one.oldest)[:REPORTED_DEFERRALS]
        return self.account.report({(one.target, one.directory_url): one.reason for one in waiting})

    def set_back(self, seconds: float) -> None:
        """Follow a clock that was set back by so much."""
        self.account.set_back(seconds)
        self.replan()

    def wake(self) -> None:
        """Look whether something is due."""
        self._wake.set()

    def replan(self) -> None:
        """Plan again: tokens, needs or the account changed."""
        self._replan = True
        self.settled = False
        self._wake.set()

    async def dispatch(self) -> None:
        """Plan whenever something is due or a plan may come out differently, for ever; the live quota first."""
        await self._retry.until_done("read the quota", self.read_quota)
        self._quota_known.set()
        await self._retry.until_done("learn", self._dispatcher.learn)
        while True:
            self._wake.clear()
            took = await self._retry.until_done("plan", self._round)
            due = await self._retry.until_done("plan", self._store.next_due)
            times = [at for at in (due, self.outcome.wake_at) if at is not None]
            wait = min([self._poll_seconds, *(max(0.0, at - self._clock.now()) for at in times)])
            try:
                async with asyncio.timeout(max(wait, 0.005)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(REST * took)

    async def _round(self) -> float:
        """Ripen, and plan where there is reason to; return how long planning took, in seconds."""
        self.settled = False  # what ripens here must not be taken for deferred before it was planned
        if promoted := await self._store.promote_due():
            self._ripened(promoted)
        sequence = await self._store.sequence()
        woken = self.outcome.wake_at is not None and self._clock.now() >= self.outcome.wake_at
        if not (promoted or self._replan or woken or sequence != self._seen):
            self.settled = True
            return 0.0
        self._replan, self._seen = False, sequence
        await self.sender.recheck()
        try:
            self.outcome = await self._dispatcher.plan()
        except BaseException:
            self._replan = True  # what is ready would else wait for the next change
            raise
        self.settled = not self.outcome.held and not self._replan
        return self.outcome.planning_seconds

    async def watch(self) -> None:
        """Resolve unknown outcomes and keep the ledger true, for ever."""
        await self._quota_known.wait()
        while True:
            await self._retry.until_done("watch", self._watch_once)
            await asyncio.sleep(self._poll_seconds)

    async def _watch_once(self) -> None:
        if await self._unknowns.resolve():
            self.sender.read_quota_soon = True
            self.replan()
        if self._quota_due():
            await self.read_quota()
        if abs(self._clock.now() - self._spenders_read_at) >= SPENDERS_SECONDS:
            await self._report_spenders()

    async def _report_spenders(self) -> None:
        """Look who spent much of the quota within the last hour, and log who is new among them."""
        now, account = self._clock.now(), self.account
        self._spenders_read_at = now
        known = {(one.name, one.kind) for one in account.spenders}
        account.spenders = await self._store.read(
            lambda snapshot: large_spenders(snapshot, account.name, self._spenders, account.quota, now=now)
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

    def _quota_due(self) -> bool:
        now = self._clock.now()
        new_day = window_start(now) != window_start(self.account.quota_read_at)
        settled = now - window_start(now) >= RESET_GUARD_SECONDS
        return self.sender.read_quota_soon or now - self.account.quota_read_at >= QUOTA_SECONDS or (new_day and settled)

    async def read_quota(self) -> None:
        """Read the live quota while nothing is being sent, and correct the ledger by it."""
        async with self.account.exclusive():
            now = self._clock.now()
            self.account.quota_read_at = now
            if self.account.open_at(now) > now and not self.account.closed_reason:
                return  # around the reset nobody can say which day the answer is of
            self.sender.read_quota_soon = False
            try:
                readings = await self.account.any_target.read_quota()
            except TargetError as error:
                log.warning("quota.unreadable", account=self.account.name, error=str(error), hint=error.hint)
                self.account.quota_unreadable(now, str(error), error.hint)
                return
            self.account.quota_read(now, is_idle=self.sender.idle and not self.outcome.deferred)
            if window_start(self._clock.now()) == window_start(now):
                await self._store.correct_ledger(self.account.name, readings)
        self.replan()
