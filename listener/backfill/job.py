"""One backfill: what it would take, then the deed, resumable at any instant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from itertools import islice

from listener import planner
from listener.backfill.oneshot import misconfigured, require_usable, run_until_idle, stopping
from listener.backfill.plan import BackfillPlan, Cost, Outcome, Tally, cost_of
from listener.backfill.share import Chooser, LiveQuota, Share, ShareBudget, Taken, share_budget
from listener.backfill.source import ALONE, Admission, Feed, Mode, RepairFeed, digest_for
from listener.change import Change, ChangeKind
from listener.clock import Clock
from listener.contracts import Target
from listener.errors import ConfigurationError, KeyRejected, TargetError
from listener.pipeline import Pipeline
from listener.pipeline.accounts import accounts_of
from listener.pipeline.intake import Intake, StoreRetry
from listener.plugins import sites_of
from listener.refresh import QuotaReading, Scope
from listener.settings import Settings
from listener.sources.listing import Comparison, Listing
from listener.store import NeedInput, Store
from listener.store.controls import Progress
from listener.store.needs import Snapshot

__all__ = ["Backfill"]

TALLY_KEYS = 10_000
QUOTA_SECONDS = 10.0
"""How long to wait for the live quota; where it cannot be read, the ledger's or the configured one counts."""


class Backfill:
    """One listing, and what to do with it."""

    def __init__(
        self,
        settings: Settings,
        targets: Mapping[str, Target],
        listing: Listing,
        modes: Sequence[Mode],
        *,
        share: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Take what to list.

        Args:
            settings: the configuration.
            targets: the configured targets.
            listing: the keys.
            modes: what to do with each.
            share: part of each allowance (0 to 1) that it may have; None: all, and the rest waits in the store.
            clock: returns the time of day; by default the store's.

        Raises :class:`~listener.errors.ConfigurationError` for modes that exclude one another.
        """
        if len(modes) > 1 and ALONE & set(modes):
            raise ConfigurationError(
                "--mode: seed, audit and repair each stand alone",
                hint="write --mode seed, or --mode refresh,prefetch",
            )
        self._share = share
        self._clock = clock
        self._settings = settings
        self._targets = targets
        self._listing = listing
        self._modes = frozenset(modes)
        self._sites = sites_of(settings, targets)

    # -- before --------------------------------------------------------------------------------------

    async def require_usable(self) -> None:
        """Raise :class:`~listener.errors.ConfigurationError` where the targets of the source can never be sent to."""
        served = {name for site in self._settings.sites if site.source == self._listing.root for name in site.targets}
        try:
            await require_usable({name: target for name, target in self._targets.items() if name in served})
        finally:  # the next call opens it again
            for target in self._targets.values():
                await target.close()

    async def plan(self, store: Store | None, *, now: float, restart: bool = False) -> BackfillPlan:
        """List everything and return what it would take; nothing is changed."""
        begun = None if store is None or restart else await store.progress(digest_for(self._listing, self._modes))
        begun = begun if begun is not None and not begun.finished else None
        tally = Tally(self._sites)
        async with aclosing(self._portions(store, begun)) as portions:
            async for portion in portions:
                tally.add(portion)
        if Mode.SEED in self._modes:
            return BackfillPlan(tally.cost, begun)
        accounts, live = self._accounts(), {}
        for account in accounts:
            live[account[0].account], assumed = await _live_quota(account[0])
            tally.cost.quota_assumed = tally.cost.quota_assumed or assumed
        budget = None if self._share is None else await self._share_budget(store, now, live)
        budgets = {
            account[0].account: await self._budgets(store, account[0], now, live, budget) for account in accounts
        }

        def count(snapshot: Snapshot | None = None) -> Cost:
            return cost_of(
                tally,
                self._sites,
                accounts,
                budgets,
                # Of a share the same is chosen at whatever hour of its day; and the whole reserve is left already.
                now=now if budget is None else float(budget.began),
                reserve=self._settings.planner.reserve if budget is None else 0.0,
                object_dollars=self._settings.planner.object_dollars,
                refresh=bool(self._modes & {Mode.REFRESH, Mode.REPAIR}),
                prefetch=Mode.PREFETCH in self._modes,
                snapshot=snapshot,
            )

        cost = count() if store is None else await store.read(count)
        if budget is not None:
            await self._admit(store, begun, cost, budget)
        return BackfillPlan(cost, begun, budget)

    async def _share_budget(self, store: Store | None, now: float, live: LiveQuota) -> ShareBudget:
        def look(snapshot: Snapshot | None) -> ShareBudget:
            return share_budget(
                snapshot,
                self._targets,
                self._share or 0.0,
                reserve=self._settings.planner.reserve,
                now=now,
                live=live,
            )

        return look(None) if store is None else await store.read(look)

    async def _admit(self, store: Store | None, begun: Progress | None, cost: Cost, budget: ShareBudget) -> None:
        """Put into the cost what the run would request of the share: by the same chooser, from the same budget."""
        chooser, left, whole = self._chooser(cost), budget.left.copy(), Taken(Counter(), Counter())
        covered = Tally(self._sites)
        async with aclosing(self._portions(store, begun)) as portions:
            async for portion in _with_end(portions):
                admitted, taken = chooser.choose(portion, left)
                left.subtract(taken.units)
                whole.requests.update(taken.requests)
                whole.units.update(taken.units)
                covered.add([*admitted.seeds, *(one for one in admitted.changes if one.kind is not ChangeKind.SUBTREE)])
                if admitted.reason:
                    break
        cost.admit(whole, covered.cost.urls, budget)

    async def _portions(self, store: Store | None, begun: Progress | None) -> AsyncGenerator[list[Change], None]:
        """Yield what would be asked for: everything that is listed, in a repair what differs."""
        if Mode.REPAIR in self._modes:
            if store is None or not await store.seeded(self._listing.root):
                raise ConfigurationError(
                    f"source {self._listing.root}: nothing is known of it yet that it could be compared with",
                    hint="use --mode seed where the CDN is fresh, --mode refresh where it is not",
                )
            with closing(Comparison(self._listing, store)) as comparison:
                async for found in comparison.findings():
                    yield found
                for gone in comparison.deletions():
                    yield gone
            return
        changes = self._listing.changes(begun.after if begun else "")
        while portion := await asyncio.to_thread(lambda: list(islice(changes, TALLY_KEYS))):
            yield portion

    def _accounts(self) -> list[list[Target]]:
        found: dict[str, list[Target]] = {}
        for target in self._targets.values():
            found.setdefault(target.account, []).append(target)
        return list(found.values())

    async def _budgets(
        self, store: Store | None, target: Target, now: float, live: LiveQuota, share: ShareBudget | None
    ) -> list[planner.Budget]:
        """Return what it may spend of each allowance; of a share, as if that were the whole allowance."""
        found = []
        for one in accounts_of(self._targets)[target.account].allowances:
            reading = live.get(target.account, {}).get(one.name)
            ledger = None if store is None else await store.budget(target.account, one)
            limit, left = (one.limit, one.limit) if ledger is None else (ledger.limit, ledger.left)
            if reading is not None:
                limit, left = reading.limit, reading.remaining if ledger is None else min(reading.remaining, left)
            if share is not None:
                key = target.account, one.name
                # What is spent counts, too, where it decides what the next unit costs.
                limit = share.used[key] + share.left[key] if one.is_paid else share.most[key]
                left = share.left[key]
            found.append(planner.Budget(replace(one, limit=limit), left, one.window.end(now)))
        return found

    # -- the deed ------------------------------------------------------------------------------------

    async def run(
        self,
        store: Store,
        plan: BackfillPlan | None,
        *,
        follow: bool,
        deletions: bool = False,
        watch: Callable[[Feed | RepairFeed], None] | None = None,
    ) -> Outcome:
        """
        List, make durable, and as the owner of the store send until nothing but quota or people is waited for.

        Args:
            store: open; its owner sends, anybody else leaves that to the owner.
            plan: what was shown before: where an earlier run ended, and which directories were chosen.
            follow: wait for tasks to end, too.
            deletions: in a repair, any number of missing keys is taken for deleted.
            watch: called with the feed before it begins.

        Raises:
            ConfigurationError: a seeding of what is seeded: it would hide changes.
        """
        if Mode.SEED in self._modes and await store.seeded(self._listing.root):
            raise ConfigurationError(
                f"source {self._listing.root}: its index is seeded; doing it again would hide what changed since",
                hint="use --mode refresh, or --mode audit to see what differs",
            )
        feed = self._feed(store, plan, deletions=deletions)
        if watch is not None:
            watch(feed)
        if store.owner:
            pipeline, interrupted = await run_until_idle(
                self._settings, store, self._targets, sources={feed.name: feed}, follow=follow
            )
            troubles, refused = _troubles(pipeline), misconfigured(pipeline)
        else:
            interrupted, troubles, refused = await self._only_record(store, feed), [], ""
        counts = await store.counts()
        unsent = store.owner and (counts.pending or counts.failed)
        if feed.health.ready and not interrupted and not unsent:
            await feed.finish()
        instances = () if store.owner else await store.running_instances()
        return Outcome(
            feed.listed,
            feed.health.ready,
            interrupted,
            store.owner,
            counts,
            tuple(dict.fromkeys(troubles)),
            feed.stopped,
            not store.owner and bool(counts.pending) and (await store.sender()).is_running is False,
            instances,
            refused,
        )

    def _feed(self, store: Store, plan: BackfillPlan | None, *, deletions: bool = False) -> Feed | RepairFeed:
        admission = self._admission(store, plan)
        if Mode.REPAIR in self._modes:
            return RepairFeed(self._listing, deletions=deletions, admission=admission)

        async def prefetch(portion: Sequence[Change]) -> None:
            await store.request(self._prefetches(portion), reason="backfill", priority=feed.priority)

        feed = Feed(
            self._listing,
            store,
            self._modes,
            begun=plan.begun if plan else None,
            admission=admission,
            then=prefetch if Mode.PREFETCH in self._modes else None,
        )
        return feed

    def _admission(self, store: Store, plan: BackfillPlan | None) -> Admission | None:
        if self._share is None or Mode.SEED in self._modes:
            return None
        share = Share(
            store,
            self._chooser(plan.cost if plan else None),
            share=self._share,
            reserve=self._settings.planner.reserve,
            clock=self._clock or store.clock,
            budget=plan.budget if plan else None,
        )
        return share.admit

    def _chooser(self, cost: Cost | None) -> Chooser:
        # With a prefetch every object is requested by itself: a directory refresh fetches nothing. And what a repair
        # finds is no listing, in which a directory would be passed as a whole.
        alone = bool(self._modes & {Mode.PREFETCH, Mode.REPAIR})
        return Chooser(
            self._listing.root,
            self._sites,
            self._targets,
            prefetch=Mode.PREFETCH in self._modes,
            refresh=bool(self._modes & {Mode.REFRESH, Mode.REPAIR}),
            directories=self._prefixes(cost.directories if cost is not None and not alone else ()),
        )

    def _prefixes(self, chosen: Sequence[tuple[str, str]]) -> set[str]:
        """Return the keys' prefixes that stand behind these directories."""
        found: set[str] = set()
        for target, url in chosen:
            found |= {
                prefix for root, prefix in self._sites.router.key_prefixes(target, url) if root == self._listing.root
            }
        return {one for one in found if not any(one != other and one.startswith(other) for other in found)}

    def _prefetches(self, portion: Sequence[Change]) -> list[NeedInput]:
        found: list[NeedInput] = []
        for change in portion:
            if change.kind is not ChangeKind.CONTENT:
                continue
            try:
                needs = self._sites.route(change)
            except KeyRejected:
                continue
            found += [NeedInput(need.target, need.url, Scope.PREFETCH) for need in needs if need.scope is Scope.EXACT]
        return found

    async def _only_record(self, store: Store, source: Feed | RepairFeed) -> bool:
        """Make the needs durable and leave the sending to the daemon; return whether a signal ended it."""
        intake = Intake(lambda: {source.name: source}, store, self._sites, retry=StoreRetry(), committed=lambda: None)
        async with asyncio.TaskGroup() as tasks:
            commit = tasks.create_task(intake.commit(), name="commit")
            reader = tasks.create_task(intake.read(source.name), name="read")
            with stopping(reader.cancel) as caught:
                await asyncio.wait([reader])
                await intake.drained()
            commit.cancel()
        return bool(caught)


async def _live_quota(target: Target) -> tuple[Mapping[str, QuotaReading], str]:
    """Return the live quota of an account; where it cannot be read nothing, and why."""
    try:
        async with asyncio.timeout(QUOTA_SECONDS):
            return await target.read_quota(), ""
    except TimeoutError:
        return {}, f"{target.name}: no answer within {QUOTA_SECONDS:.0f} s"
    except TargetError as error:
        return {}, f"{target.name}: {error}"
    finally:
        await target.close()  # a plan may be all that is asked for; the next call opens it again


async def _with_end(portions: AsyncGenerator[list[Change], None]) -> AsyncIterator[list[Change]]:
    """Yield the portions, and an empty one when the listing is over."""
    async for portion in portions:
        yield portion
    yield []


def _troubles(pipeline: Pipeline) -> list[str]:
    """Return what stood in the way, and once each why something was deferred."""
    reasons = {left.reason for engine in pipeline.engines for left in engine.outcome.deferred}
    troubles = pipeline.troubles
    return [*troubles, *sorted(reason for reason in reasons if not any(reason in trouble for trouble in troubles))]
