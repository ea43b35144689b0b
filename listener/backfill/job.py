"""One backfill: what it would take, then the deed, resumable at any instant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from listener import planner
from listener.backfill.cost import Cost, Tally, cost_of
from listener.backfill.listing import Listing
from listener.backfill.oneshot import run_until_idle, stopping
from listener.backfill.source import ListingSource
from listener.change import Change
from listener.clock import window_end
from listener.contracts import Target
from listener.errors import ConfigurationError, KeyRejected
from listener.pipeline import Pipeline
from listener.pipeline.intake import Intake
from listener.pipeline.patience import Patience
from listener.pipeline.sites import Sites
from listener.refresh import Scope
from listener.settings import Settings
from listener.store import NeedInput, Store
from listener.store.report import Counts
from listener.store.upkeep import Progress

__all__ = ["Backfill", "BackfillPlan", "Mode", "Outcome"]

TALLY_KEYS = 10_000
SOURCE_NAME = "backfill"


class Mode(StrEnum):
    """What a backfill does with each key."""

    REFRESH = "refresh"
    """Its URLs are refreshed, as if it had changed."""
    PREFETCH = "prefetch"
    """Its URLs are fetched into the cache, after any refresh of them."""
    SEED = "seed"
    """The index learns it; nothing is sent."""
    AUDIT = "audit"
    """It is compared with the index; nothing is sent or written."""


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What would be done."""

    cost: Cost
    begun: Progress | None
    """How far an earlier run got that did not finish."""

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

    @property
    def put_off(self) -> bool:
        """Whether something waits for quota, time or people."""
        counts = self.counts
        return self.sent_here and bool(counts.deferred or counts.failed or counts.parked or counts.unconfirmed)


class Backfill:
    """One listing, and what to do with it."""

    def __init__(
        self, settings: Settings, targets: Mapping[str, Target], listing: Listing, modes: Sequence[Mode]
    ) -> None:
        """Take what to list. Raise :class:`~listener.errors.ConfigurationError` for modes that exclude one another."""
        if len(modes) > 1 and {Mode.SEED, Mode.AUDIT} & set(modes):
            raise ConfigurationError(
                "--mode: seed and audit each stand alone", hint="write --mode seed, or --mode refresh,prefetch"
            )
        self._settings = settings
        self._targets = targets
        self._listing = listing
        self._modes = frozenset(modes)
        self._sites = Sites(settings.sites)
        self._digest = f"{listing.digest()}-{'-'.join(sorted(modes))}"

    # -- before --------------------------------------------------------------------------------------

    async def plan(self, store: Store | None, *, now: float, anew: bool = False) -> BackfillPlan:
        """List everything once and return what it would take; nothing is changed."""
        begun = None if store is None or anew else await store.progress(self._digest)
        begun = begun if begun is not None and not begun.finished else None
        tally = Tally(self._sites)
        changes = self._listing.changes(begun.after if begun else "")
        while portion := await asyncio.to_thread(lambda: list(islice(changes, TALLY_KEYS))):
            tally.add(portion)
        if not self._modes & {Mode.REFRESH, Mode.PREFETCH}:
            return BackfillPlan(tally.cost, begun)
        accounts = self._accounts()
        budgets = {targets[0].account: await self._budgets(store, targets[0], now) for targets in accounts}

        def count(connection: Any = None) -> Cost:
            return cost_of(
                tally,
                self._sites,
                accounts,
                budgets,
                now=now,
                reserve=self._settings.planner.reserve,
                refresh=Mode.REFRESH in self._modes,
                prefetch=Mode.PREFETCH in self._modes,
                connection=connection,
            )

        return BackfillPlan(count() if store is None else await store.read(count), begun)

    def _accounts(self) -> list[list[Target]]:
        found: dict[str, list[Target]] = {}
        for target in self._targets.values():
            found.setdefault(target.account, []).append(target)
        return list(found.values())

    async def _budgets(self, store: Store | None, target: Target, now: float) -> dict[Any, planner.Budget]:
        found = {}
        for kind, default in target.quota.items():
            if store is None:
                found[kind] = planner.Budget(default, default, window_end(now))
            else:
                ledger = await store.budget(target.account, kind, default=default)
                found[kind] = planner.Budget(ledger.limit, ledger.left, ledger.resets_at)
        return found

    # -- the deed ------------------------------------------------------------------------------------

    async def run(
        self,
        store: Store,
        begun: Progress | None,
        *,
        follow: bool,
        watch: Callable[[ListingSource], None] | None = None,
    ) -> Outcome:
        """
        List, make durable, and as the owner of the store send until nothing but quota or people is waited for.

        Raises:
            ConfigurationError: a seeding of what is seeded: it would hide changes.
        """
        if Mode.SEED in self._modes and await store.seeded(self._listing.root):
            raise ConfigurationError(
                f"source {self._listing.root}: its index is seeded; doing it again would hide what changed since",
                hint="use --mode refresh, or --mode audit to see what differs",
            )
        source = self._source(store, begun)
        if watch is not None:
            watch(source)
        if store.owner:
            pipeline, interrupted = await run_until_idle(
                self._settings, store, self._targets, sources={SOURCE_NAME: source}, follow=follow
            )
            troubles = _troubles(pipeline)
        else:
            interrupted, troubles = await self._only_record(store, source), []
        return Outcome(
            source.listed, source.health.ready, interrupted, store.owner, await store.counts(), tuple(troubles)
        )

    def _source(self, store: Store, begun: Progress | None) -> ListingSource:
        async def prefetch(portion: Sequence[Change]) -> None:
            await store.ask(self._prefetches(portion), reason="backfill")

        return ListingSource(
            SOURCE_NAME,
            self._listing,
            store,
            begun=begun,
            record=bool(self._modes & {Mode.REFRESH, Mode.SEED}),
            seed=Mode.SEED in self._modes,
            digest=self._digest,
            then=prefetch if Mode.PREFETCH in self._modes else None,
        )

    def _prefetches(self, portion: Sequence[Change]) -> list[NeedInput]:
        found: list[NeedInput] = []
        for change in portion:
            try:
                needs = self._sites.route(change)
            except KeyRejected:
                continue
            found += [NeedInput(need.target, need.url, Scope.PREFETCH) for need in needs if need.scope is Scope.EXACT]
        return found

    async def _only_record(self, store: Store, source: ListingSource) -> bool:
        """Make the needs durable and leave the sending to the daemon; return whether a signal ended it."""
        intake = Intake(lambda: {SOURCE_NAME: source}, store, self._sites, patience=Patience(), committed=lambda: None)
        async with asyncio.TaskGroup() as tasks:
            commit = tasks.create_task(intake.commit(), name="commit")
            reader = tasks.create_task(intake.read(SOURCE_NAME), name="read")
            with stopping(lambda: _cancel(reader)) as caught:
                await asyncio.wait([reader])
                await intake.drained()
            commit.cancel()
        return bool(caught)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _troubles(pipeline: Pipeline) -> list[str]:
    """Return what stood in the way, and once each why something was deferred."""
    reasons = {left.reason for engine in pipeline.engines for left in engine.outcome.deferred}
    return [*pipeline.troubles, *sorted(reasons)]
