"""The flow, wired: flat, every task named."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from listener.clock import Clock
from listener.contracts import ChecksDeadline, ConfirmsDeletions, Source, SourceHealth, SourceState, Target
from listener.errors import ConfigurationError, StoreError, StoreUnusable, advised
from listener.event_loop import call_in_loop
from listener.pipeline.accounts import CAREFUL_BATCHES, Account, accounts_of, counted_since
from listener.pipeline.configured import ComparedConfiguration
from listener.pipeline.edge import edge_watch
from listener.pipeline.engine import Engine
from listener.pipeline.intake import Intake, Stalls, StoreRetry
from listener.pipeline.layers import Layers
from listener.pipeline.leading import DRAIN_SECONDS, Leader, Leaders, cancel
from listener.pipeline.lookout import LEAST_LOOK_SECONDS, LOOK_SECONDS, Lookout
from listener.pipeline.outcomes import Verifier
from listener.pipeline.owning import SourceOwner
from listener.pipeline.replay import Replay
from listener.pipeline.waking import TICK_SECONDS, WakeUp, followed_steps
from listener.plugins import sites_of
from listener.refresh import AttemptState, Scope
from listener.router.routing import Sites
from listener.settings import Settings, replicas_of_trees
from listener.store import Store
from listener.store.access import Counted
from listener.store.batches import Batch
from listener.store.controls import AccountReport, ControlKind, Controls
from listener.store.copies import CopiedSources
from listener.store.leadership import UPKEEP, Leadership, SoleOwner, Term
from listener.store.retention import Configured
from listener.store.store import StoreOptions
from listener.telemetry.outages import Outage

__all__ = ["Pipeline", "copied_sources", "store_options"]

log = structlog.get_logger()

REPORT_SECONDS = 1.0
"""How long reports of sources and accounts are gathered before they are stored for ``status``."""
KEPT_SECONDS = 55.0
"""The greatest age of a stored report of a source: ``status`` takes one that is silent for 150 s to be stopped."""
CHECKPOINT_SECONDS = 1.0
UPKEEP_SECONDS = 3600.0
UPKEEP_RETRY_SECONDS = 60.0
CLOCK_STEP_SECONDS = 60.0
"""A clock that is set back by less delays nothing for long."""
DAY_SECONDS = 24 * 3600.0
QUOTA_TURNS = 100
"""So many accounts read their live quota at once, each on a connection: at a start all of them want to."""
_UNSETTLED = (AttemptState.HELD, AttemptState.SENDING, AttemptState.UNKNOWN)
_FOLLOWED = (AttemptState.ACCEPTED, AttemptState.FAILED, AttemptState.COMPLETE)


def copied_sources(settings: Settings) -> CopiedSources | None:
    """Return which sources have a copy of their tree on every instance, None where none has."""
    trees = replicas_of_trees(settings.sources)
    names = frozenset(name for name, replicas in trees.items() if replicas == "each")
    if not names:
        return None
    return CopiedSources(
        names=names,
        instance=settings.instance.effective_name,
        wait_seconds=settings.fleet.replica_wait_seconds,
        route=sites_of(settings).route,
    )


def store_options(settings: Settings, targets: Mapping[str, Target]) -> StoreOptions:
    """Return what the store needs to know of the configuration."""
    trees = replicas_of_trees(settings.sources)
    return StoreOptions(
        copied=copied_sources(settings),
        owned=frozenset(name for name, replicas in trees.items() if replicas == "one"),
        timing=settings.coalescer,
        unforced=frozenset(
            name for name, target in targets.items() if not all(one.forces() for one in target.limits.values())
        ),
        expand_limit=Sites(settings.sites).expand_limit,
        instance=settings.instance.effective_name,
        lease_seconds=settings.fleet.lease_seconds,
        prepared=settings.store.prepared,
    )


class Pipeline:
    """Everything between the sources and the CDN, for one owner of one store."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        make_sources: Callable[[], Mapping[str, Source]],
        targets: Mapping[str, Target],
        clock: Clock | None = None,
        leadership: Leadership | None = None,
        state_directory: Path | None = None,
    ) -> None:
        """
        Join the parts; nothing starts yet.

        Without ``leadership`` this process leads every account; without ``clock`` it goes by the store's. In
        ``state_directory`` it keeps what is acknowledged, where the store may lose commits.
        """
        self._settings = settings
        self._store = store
        self._clock = clock or store.clock
        self._sites = sites_of(settings, targets)
        self._targets = targets
        self._accounts = {name: account.targets for name, account in accounts_of(targets).items()}
        self._leadership = leadership or SoleOwner(store, self._accounts)
        self.changed = WakeUp()
        """Set when anything changed that people see: sources, accounts, trouble, what is stored."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._retry = StoreRetry(self.changed.set)
        self._controls = Controls(store)
        self._quota_turns = asyncio.Semaphore(QUOTA_TURNS)
        self._losses_settled: dict[str, int] = {}
        """By account: after how many losses of commits its ledger was made right again."""
        self._reported: dict[str, AccountReport] = {}
        self._state_directory = state_directory
        self.replay = None if store.counted is None else self._make_replay(store.counted)
        self.intake = Intake(
            make_sources,
            store,
            self._sites,
            retry=self._retry,
            replay=self.replay,
            committed=self.changed.set,
            changed=self._source_changed,
        )
        self.compared = ComparedConfiguration(store, settings, targets)
        self._leaders = Leaders(self._leadership, self._accounts, make=self._leader, retry=self._retry)
        self.lookout = Lookout(store, self._clock, self._leaders, settings=settings, retry=self._retry)
        self._stalls = Stalls(lambda: self.intake.sources, self.intake.busy)
        self.edge = edge_watch(settings, store, self._sites, targets, self._clock, changed=self.changed.set)
        """Probes what was refreshed; None where that is off."""
        self._stop = asyncio.Event()
        self._verifying = 0
        self._ends_when_idle = False
        self._was_clean = False
        """Whether the last owner of the state file left in order."""
        self._kept: dict[str, tuple[SourceHealth, float]] = {}
        """What each source said when it was kept last, and when that was."""
        self._trouble_kept: str | None = None

    def _leader(self, term: Term) -> Leader:
        """Return who leads an account during a term; nothing that an earlier term left in memory is used."""
        careful = 0 if self._leadership.is_sole else CAREFUL_BATCHES  # the owner says at its start whether it is to be
        account = Account(term.account, self._accounts[term.account], careful=careful)
        for target in account.targets.values():
            if isinstance(target, ChecksDeadline):
                target.send_while(term.left_seconds)
        losses = 0 if self._store.counted is None else len(self._store.counted.mark.losses)
        if losses > self._losses_settled.get(term.account, 0):
            account.losses_settled = partial(self._losses_settled.__setitem__, term.account, losses)
            account.require_quota(self._clock.now())
        engine = Engine(
            account,
            term,
            self._clock,
            settings=self._settings,
            retry=self._retry,
            sites=self._sites,
            layers=Layers(self._sites, account.targets, known=self._targets),
            quota_turns=self._quota_turns,
            changed=self.changed.set,
        )
        self._reported.pop(term.account, None)  # another process may have stored its own since
        return Leader(engine, term, follow=lambda: self._verify(engine, term))

    def _make_replay(self, counted: Counted) -> Replay:
        return Replay(
            counted,
            lambda: self.intake.sources,
            self._settings.sites,
            record=self._record,
            set_aside=lambda name, unreadable: self.intake.set_aside(name, unreadable),  # noqa: PLW0108 - made later
            save=lambda _: self._retry.until_done("report", self._report_trouble),
            now=self._clock.now,
            changed=self.changed.set,
        )

    async def _record(self, batch: Batch) -> None:
        await self.intake.record(batch)

    # -- what people ask -------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether every source listens and its first scan is durable: whatever changes from now on is seen."""
        return self.store_trouble is None and all(
            source.health.ready or name in self.intake.finished for name, source in self.intake.sources.items()
        )

    @property
    def store_trouble(self) -> StoreError | None:
        """Damage to the state file, which stays until a restart, or what the store could not do when last asked."""
        return self._store.damage or self._retry.trouble

    @property
    def troubles(self) -> list[str]:
        """What keeps it from doing its work, a sentence each."""
        found = [advised(f"store: {error}", error.hint) for error in [self.store_trouble] if error is not None]
        found += [self._leadership.trouble] if self._leadership.trouble else []
        if lost := self.lost:
            found.append(f"store: {lost}")
        found += [
            advised(f"account {engine.account.name}: {engine.account.closed_reason}", engine.account.remedy)
            for engine in self.engines
            if engine.account.closed_reason
        ]
        found += [
            f"source {name}: {source.health.detail}"
            for name, source in self.intake.sources.items()
            if source.health.detail
        ]
        return found

    @property
    def lost(self) -> str:
        """What the store lost of what it had confirmed; empty where nothing is."""
        return "" if self.replay is None else self.replay.trouble

    @property
    def instance_trouble(self) -> str:
        """What is wrong with this instance of a fleet: its name or its clock."""
        return self._leadership.own_trouble

    @property
    def engines(self) -> Sequence[Engine]:
        """The engines of the accounts that are led here."""
        return [leader.engine for leader in self._leaders.present]

    def asked(self, target: str, url: str) -> tuple[str, Scope]:
        """Return under which URL a target keeps this one, and the scope of a need of it."""
        return self._sites.asked(target, url, Scope.EXACT)

    def addresses(self, url: str) -> list[str]:
        """Return a URL, and others under which a target keeps it."""
        return self._sites.addresses(url)

    def targets_of(self, url: str) -> Sequence[str]:
        """Return the targets in front of which this URL is served, inner layers first."""
        return self._sites.targets_of(url)

    def targets_serving(self, url: str) -> Sequence[str]:
        """Return the same; raise :class:`~listener.errors.ConfigurationError` where no site serves the URL."""
        return self._sites.targets_serving(url)

    def stop(self) -> None:
        """Request an orderly end: what was received is made durable, what is being sent is finished."""
        self._stop.set()

    # -- running ---------------------------------------------------------------------------------

    async def run(self, *, until_idle: bool = False, follow: bool = True) -> None:
        """
        Run until :meth:`stop`, or with ``until_idle`` until nothing can be done any more.

        Args:
            until_idle: end once all sources have ended and what is left must wait for quota or people.
            follow: with ``until_idle``, wait for tasks to end too, not only for their acceptance; those of inner layers
                are waited for anyway.
        """
        self._retry.raises_damage = self._ends_when_idle = until_idle
        self._loop = asyncio.get_running_loop()
        if not await self._begin():
            self.changed.set()
            await self._stop.wait()
            return
        await self.compared.start()
        try:
            with followed_steps(self._clock, self._look_at_all):
                try:
                    await self._flow(until_idle=until_idle, follow=follow)
                finally:
                    await self._leadership.leave()
        except BaseExceptionGroup as errors:
            if errors.split(ConfigurationError)[1] is None:
                await self._leave_as_found()
            raise
        finally:
            if self.replay is not None:
                await self.replay.close()
            self.changed.set()  # wakes what reports on it: no further change would

    async def _flow(self, *, until_idle: bool, follow: bool) -> None:
        """Run every task until the stop, and end them in order."""
        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(self._read(name), name=f"read {name}") for name in self.intake.sources]
            commit = tasks.create_task(self.intake.commit(), name="commit")
            others = [tasks.create_task(self._keep(), name="keep"), tasks.create_task(self._upkeep(), name="upkeep")]
            others.append(tasks.create_task(self.compared.follow(), name="compare the configuration"))
            if self._leadership.is_sole:
                others.append(tasks.create_task(self._settle(), name="settle"))
            look = self.lookout.run(self._confirm, committed=self.changed.set)
            others.append(tasks.create_task(look, name="look"))
            others.append(tasks.create_task(self._stalls.watch(), name="watch sources"))
            others += self._leaders.start(tasks)
            if self.replay is not None:
                others.append(tasks.create_task(self.replay.run(), name="replay"))
            if self.edge is not None and not until_idle:
                others.append(tasks.create_task(self.edge.run(), name="probe the edge"))
            if until_idle:
                others.append(tasks.create_task(self._stop_when_idle(follow), name="wait until idle"))
            await self._stop.wait()
            await self._wind_down(readers, commit, others)

    async def _read(self, name: str) -> None:
        """Read a source to its end, or while it is this instance's to read."""
        if self._leadership.is_sole or replicas_of_trees(self._settings.sources).get(name) != "one":
            await self.intake.read(name)
        else:
            owner = SourceOwner(
                self.intake, self._leadership, self._leaders.changed, name, is_scanned=lambda: self._is_scanned(name)
            )
            await owner.run()

    async def _is_scanned(self, name: str) -> bool:
        """Return whether the first scan of each storage of a source is durable."""
        for root in self.intake.sources[name].roots:
            if not await self._retry.until_done(f"read {name}", partial(self._store.seeded, root)):
                return False
        return True

    async def _begin(self) -> bool:
        """
        Check the state file and sort out what the last owner left; return False for a damaged file.

        A daemon stays up then, not ready, and does nothing: restarting it would only repeat that. A run that is to
        end raises instead.
        """
        try:
            await self._store.check_at_start()
            if self.replay is not None:
                name, seconds = self._settings.instance.effective_name, self._settings.fleet.replay_seconds
                await self.replay.open(self._state_directory, instance=name, seconds=seconds)
            if not self._leadership.is_sole:
                return True  # each account is taken over when its term begins
            self._was_clean = not await self._store.recover()
            if not self._was_clean:
                log.warning("pipeline.unclean_start", careful_batches=CAREFUL_BATCHES)
                for engine in self.engines:
                    engine.account.careful = CAREFUL_BATCHES
        except StoreUnusable:
            if self._retry.raises_damage:
                raise
            return False
        return True

    async def _leave_as_found(self) -> None:
        """After a start that was refused: nothing crashed, so the next start need not be careful on its account."""
        if self._was_clean and not await self._store.attempts_in(AttemptState.SENDING, limit=1):
            await self._give_back()
            await self._store.mark_clean()

    async def _wind_down(
        self,
        readers: list[asyncio.Task[None]],
        commit: asyncio.Task[None],
        others: list[asyncio.Task[None]],
    ) -> None:
        self._retry.hurry()  # a wait that grew during an outage would delay the end
        await cancel(readers)
        await self._leaders.stop_planning()
        drain_seconds = DRAIN_SECONDS if self._store.damage is None else 0.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self.intake.drained()
        await cancel([commit])
        await self._leaders.drain(drain_seconds)
        await asyncio.gather(self._leaders.stop(), cancel(others))
        try:
            await self._report_sources()
            await self._give_back()
            await self._store.checkpoint()
            if self._leadership.is_sole:
                await self._store.mark_clean()
        except StoreError as error:
            log.error("store.failed", doing="end in order", error=str(error), hint=error.hint)

    async def _give_back(self) -> None:
        """Refund what was held and will not be sent: its task was cancelled between the two."""
        if not self._leadership.is_sole:
            await self._leaders.give_back()
            return
        await self._store.look_again([])  # whatever was still on its way to the writer is written now
        while held := await self._store.attempts_in(AttemptState.HELD):
            await self._store.refund([attempt.id for attempt in held])

    async def _stop_when_idle(self, follow: bool) -> None:
        followed = list(self._targets if follow else self._sites.inner_targets())  # outer layers wait for inner ones
        since = self.changed.count
        while not await self._retry.until_done("see what is left", lambda: self._idle(followed)):
            await self.changed.wait(LOOK_SECONDS, since=since)
            await asyncio.sleep(LEAST_LOOK_SECONDS)
            since = self.changed.count
        self.stop()

    async def _idle(self, followed: Sequence[str]) -> bool:
        """Return whether nothing can be done any more; what flies for a target that is gone is nobody's to follow."""
        if len(self.intake.finished) < len(self.intake.sources) or not self.intake.idle:
            return False
        if not self._accounts.keys() <= {engine.account.name for engine in self.engines}:
            return await self._is_left_to_others()
        if (
            await self._store.attempts_in(*_UNSETTLED, targets=list(self._targets), limit=1)
            or await self._store.attempts_in(*_FOLLOWED, targets=followed, limit=1)
            or await self._store.next_due() is not None
        ):
            return False
        # In this order: what promoted before that had a sequence by now, and each engine must have planned since.
        sequence = await self._store.revision()
        planned = all(engine.idle and engine.planned_to >= sequence for engine in self.engines)
        return planned and not self._verifying

    async def _is_left_to_others(self) -> bool:
        """Return whether an instance of a fleet that started meanwhile sends what this command recorded."""
        return any(name != self._store.instance for name in await self._store.running_instances())

    def _source_changed(self) -> None:
        """Note that the health of a source changed; it may be written in a thread."""
        if self._loop is None or _running_loop() is self._loop:
            self.changed.set()
        else:
            call_in_loop(self._loop, self.changed.set)

    def _look_at_all(self) -> None:
        """See what is due by a clock that was set."""
        self.lookout.settle_due.set()
        for engine in self.engines:
            engine.wake()
            engine.look_at_attempts()
        self.lookout.look()
        self.changed.set()

    async def _verify(self, engine: Engine, term: Term) -> None:
        """Follow the tasks of one account, for ever: a CDN that does not answer holds up no other's."""
        targets = engine.account.targets
        completed = None if self.edge is None else self.edge.note
        verifier = Verifier(targets, term.store, self._clock, self._settings.verifier, completed=completed)

        async def look() -> Collection[str]:
            ended = 0
            if not self._leadership.is_sole:
                ended += len(await self._settle_once(term.store, targets=list(targets)))
                ended += await term.book_late_answers()
            return targets if ended + await verifier.look() else ()

        await self._whenever(engine.attempts_due, f"verify {engine.account.name}", look)

    async def _settle(self) -> None:
        """End back-offs that are over, and settle what complete directories cover, of any target, for ever."""
        await self._whenever(self.lookout.settle_due, "settle", lambda: self._settle_once(self._store, targets=None))

    async def _whenever(self, due: WakeUp, what: str, look: Callable[[], Awaitable[Collection[str]]]) -> None:
        while True:
            since = due.count
            await self._looking(what, look)
            await due.wait(None, since=since)

    async def _looking(self, what: str, look: Callable[[], Awaitable[Collection[str]]]) -> None:
        """Look once; where something ended, plan again for its targets, and for what fetches from them."""
        self._verifying += 1
        try:
            ended = await self._retry.until_done(what, look)
            concerned = self._sites.with_outer_layers(ended)
            for leader in self._leaders.of(concerned):
                leader.engine.replan()
            if not self._leadership.is_sole and concerned.difference(ended):
                await self._retry.until_done(what, self._store.note_revision)  # others may lead the outer layers
        finally:  # also where another term has begun, or its leader ends
            self._verifying -= 1
            if not self._verifying and self._ends_when_idle:
                self.changed.set()

    async def _settle_once(self, store: Store, *, targets: Sequence[str] | None) -> set[str]:
        """Settle what has ended, of these targets or of all; return of which there was anything."""
        over = await store.attempts_in(AttemptState.FAILED, due_by=self._clock.now(), targets=targets)
        if over:
            await store.end_backoff([attempt.id for attempt in over])
        complete = await store.attempts_in(AttemptState.COMPLETE, targets=targets)
        for attempt in complete:
            await store.sweep(attempt)
        return {attempt.target for attempt in (*over, *complete)}

    async def _keep(self) -> None:
        """Report the state of the sources, and move the log to the file: for ever."""
        checkpoint_at = self._clock.now()
        moved_rows = -1
        latest: float | None = None
        outage = Outage()
        while True:
            since, now = self.changed.count, self._clock.now()
            try:
                latest = await self._reported_last() if latest is None else latest
                # In a fleet one instance moves what all wait for.
                if UPKEEP in self._leadership.terms and now < latest - CLOCK_STEP_SECONDS:
                    await self._set_back(latest - now)
                    checkpoint_at = now
                latest = now
                await self._report_sources()
                await self._report_trouble()
                if now >= checkpoint_at and (changed_rows := self._store.changed_rows) != moved_rows:
                    await self._store.checkpoint()
                    checkpoint_at, moved_rows = now + CHECKPOINT_SECONDS, changed_rows
                _note_upkeep(outage)
            except StoreUnusable:
                return  # damage was reported, and stays
            except StoreError as error:
                _note_upkeep(outage, error)
            await self.changed.wait(TICK_SECONDS, since=since)
            await asyncio.sleep(REPORT_SECONDS)

    async def _upkeep(self) -> None:
        """Remove what is old, for ever; by itself, since a mass of rows takes minutes, a slice at a time."""
        keep_seconds = self._settings.store.keep_days * DAY_SECONDS
        outage = Outage()
        while True:
            pause = UPKEEP_SECONDS
            if UPKEEP not in self._leadership.terms:
                await asyncio.sleep(UPKEEP_RETRY_SECONDS)
                continue
            try:
                counted = counted_since(self._targets.values(), self._clock.now())
                await self._store.upkeep(
                    keep_seconds=keep_seconds, configured=self._configured(), counted_since=counted
                )
                _note_upkeep(outage)
            except StoreUnusable:
                return
            except StoreError as error:
                _note_upkeep(outage, error)
                pause = UPKEEP_RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _reported_last(self) -> float:
        """Return when sources were reported last, maybe by an earlier process with a wrong clock."""
        reported = await self._store.sources()
        return max((reported[name]["told_at"] for name in self.intake.sources if name in reported), default=0.0)

    async def _set_back(self, seconds: float) -> None:
        """Wait no longer than was meant for what waits: times are kept by a clock that was ahead until now."""
        log.warning("pipeline.clock_set_back", seconds=round(seconds, 1))
        await self._store.set_back(seconds)
        for engine in self.engines:
            engine.set_back(seconds)

    async def _confirm(self) -> None:
        """Pass on what people confirmed to the sources that stopped for it."""
        read_elsewhere = [
            name for name, source in self.intake.sources.items() if source.health.state is SourceState.STANDBY
        ]
        for place in await self._controls.take(ControlKind.CONFIRMATION, left_to_others=read_elsewhere):
            source = self.intake.sources.get(place.target)
            if isinstance(source, ConfirmsDeletions):
                source.confirm_deletions()
                log.info("source.deletions_confirmed", source=place.target)

    def _configured(self) -> Configured:
        sources = frozenset(self._settings.sources) | frozenset(self.intake.sources)
        return Configured(
            sources=sources,
            accounts=frozenset(target.account for target in self._targets.values()),
            roots=sources.union(*(source.roots for source in self.intake.sources.values())),
            targets=frozenset(self._targets),
        )

    async def _report_trouble(self) -> None:
        """Keep for the status on any host what is wrong with this instance, and what the store lost."""
        trouble = "; ".join(filter(None, (self.lost, self.instance_trouble)))
        if trouble != self._trouble_kept:
            await self._store.save_trouble(trouble)
            self._trouble_kept = trouble

    async def _report_sources(self) -> None:
        now = self._clock.now()
        for name, source in self.intake.sources.items():
            said = replace(source.health, figures=dict(source.health.figures))
            kept, at = self._kept.get(name, (None, 0.0))
            if said != kept or not 0 <= now - at < KEPT_SECONDS:
                await self._store.save_source(name, said)
                self._kept[name] = said, now
        for engine in self.engines:
            report = engine.report
            if self._reported.get(report.name) != report:
                await self._store.save_account(report)
                self._reported[report.name] = report


def _note_upkeep(outage: Outage, error: StoreError | None = None) -> None:
    """Log a failure when it begins, ever more rarely while it lasts, and its end."""
    if error is None:
        if (lasted_seconds := outage.end()) is not None:
            log.info("store.upkeep_resumed", after_seconds=round(lasted_seconds, 1))
    elif outage.is_to_be_logged(str(error)):
        log.error("store.upkeep_failed", error=str(error), hint=error.hint)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
