"""
The intake: deliveries are merged, made durable, and only then acknowledged (promise 1).

:class:`Stalls` reports a source whose worker makes no progress within a minute, whatever it hangs in (promise 7).
:class:`StoreRetry` repeats what a store that cannot commit, as on a full disk, could not do: that stops the work and
not the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import NamedTuple, TypeVar

import structlog

from listener.change import key_to_text
from listener.coalescer import Inbox, Taken
from listener.contracts import Delivery, Source, SourceHealth, SourceState, Unreadable, parts_of
from listener.errors import (
    ConfigurationError,
    Fenced,
    KeyRejected,
    SourceError,
    SourceUnavailable,
    StoreError,
    StoreUnusable,
)
from listener.pipeline.replay import Replay
from listener.pipeline.waking import WakeUp
from listener.router.routing import Sites
from listener.store import Store
from listener.store.batches import Batch
from listener.store.durability import CommitMark
from listener.store.ring import Letter
from listener.telemetry.outages import Outage

__all__ = ["STALLED_SECONDS", "Intake", "Stalls", "StoreRetry", "judged"]

log = structlog.get_logger()


COMMIT_KEYS = 2_000
"""Keys in one commit: some 20 ms of the writer."""
RETRY_SECONDS = 1.0
RETRY_MOST_SECONDS = 60.0


class Intake:
    """Reads every source and records what it brings; the only caller of ``ack``."""

    def __init__(
        self,
        make_sources: Callable[[], Mapping[str, Source]],
        store: Store,
        sites: Sites,
        *,
        retry: StoreRetry,
        replay: Replay | None = None,
        committed: Callable[[], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Make the sources.

        Args:
            make_sources: makes them, and again when one has failed.
            store: keeps what they bring.
            sites: what is served where.
            retry: repeats what the store could not do.
            replay: keeps what is acknowledged, where the store may lose a commit.
            committed: called after a commit, and when a source has ended.
            changed: called when the health of a source changed, maybe in a thread.
        """
        self._make_sources = make_sources
        self._changed = changed
        self.sources: dict[str, Source] = dict(make_sources())
        for source in self.sources.values():
            source.health.announce_to(changed)
        self._first = dict(self.sources)
        self._store = store
        self._sites = sites
        self._committed = committed
        self._retry = retry
        self._inbox = Inbox()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self.finished: set[str] = set()
        self.busy: set[str] = set()
        """Sources whose delivery is being taken."""
        self._committing = False
        self._replay = replay

    @property
    def idle(self) -> bool:
        """Whether everything that was delivered is durable."""
        return self._inbox.idle and not self._committing

    async def read(self, name: str) -> None:
        """Read one source to its end; recreate it after growing waits when it fails."""
        wait = RETRY_SECONDS
        while True:
            source = self.sources[name]
            try:
                async with _closing(source.deliveries(self._store)) as deliveries:
                    async for delivery in deliveries:
                        wait = RETRY_SECONDS
                        await self._take(name, delivery)
            except ConfigurationError:
                if self._inbox.idle and source is self._first[name]:
                    raise  # wrong from the start: to be mended before anything runs
                log.exception("source.failed", source=name, retry_seconds=wait)
                _report(source, SourceState.FAILED, "its configuration no longer fits: see the log; it is retried")
            except (SourceError, StoreError) as error:
                log.error("source.failed", source=name, error=str(error), hint=error.hint, retry_seconds=wait)
                # What may pass by itself (a port, a mount, a service that is not there yet) is degraded, not failed.
                passing = isinstance(error, SourceUnavailable | StoreError)
                state = SourceState.DEGRADED if passing else SourceState.FAILED
                _report(source, state, "; ".join(filter(None, (str(error), error.hint))))
            except Exception as error:
                # A mistake in one source must not end the others.
                log.exception("source.broken", source=name, retry_seconds=wait)
                detail = f"stopped by an unexpected {type(error).__name__}: see the log; it is retried"
                _report(source, SourceState.FAILED, detail)
            else:
                self.finished.add(name)
                _rest(source)
                self._changed()
                self._committed()
                return
            _rest(source)
            await asyncio.sleep(wait)
            wait = min(RETRY_MOST_SECONDS, 2 * wait)
            self.renew(name)

    def renew(self, name: str) -> None:
        """Make a source once more: it failed, or it is to be read by this instance again."""
        source, fresh = self.sources[name], self._make_sources()[name]
        fresh.health.lost_events, fresh.health.rescans = source.health.lost_events, source.health.rescans
        fresh.health.announce_to(self._changed)
        self.sources[name] = fresh
        self._changed()

    def stand_by(self, name: str) -> None:
        """Report that another instance reads a source: this one is ready to take over."""
        health = self.sources[name].health
        _rest(self.sources[name])
        health.state, health.ready, health.detail = SourceState.STANDBY, True, ""

    async def _take(self, name: str, delivery: Delivery) -> None:
        """Merge a delivery, and wait until there is room for another; the source waits for us meanwhile."""
        self.busy.add(name)
        try:
            await self.set_aside(name, delivery.unreadable)
            self._inbox.add(await self._without_known(name, delivery))
            self._arrived.set()
            while self._inbox.full:
                self._room.clear()
                await self._room.wait()
        finally:
            self.busy.discard(name)
            now = asyncio.get_running_loop().time()
            for health in judged(self.sources[name]):
                if health.silent_seconds(now) is not None:
                    health.progressed(now)

    async def _without_known(self, name: str, delivery: Delivery) -> Delivery:
        """Leave out what messages brought that were recorded before: their origin has not learned of it yet."""
        ids, before = delivery.message_ids, self._mark
        known = await self._retry.until_done("known", lambda: self._store.known_messages(ids)) if ids else ()
        if not known:
            return delivery
        log.info("intake.redelivered", source=name, messages=len(known))
        pairs = list(zip(delivery.changes, ids, strict=True))
        urls: list[str] = []
        for change, one in pairs:
            with suppress(KeyRejected):
                urls += [need.url for need in self._sites.route(change)] if one in known else []
        await self._retry.until_done("redelivered", lambda: self._store.note_redelivered(urls))
        if before is not None:
            # Maybe another instance recorded it, and ended before it kept it. It is kept at the mark of a later commit.
            again = [(change, one) for change, one in pairs if one in known]
            batch = Batch([change for change, _ in again], message_ids=[one for _, one in again])
            if not await self._keep(before, batch):
                return delivery
        new = [(change, one) for change, one in pairs if one not in known]
        return replace(delivery, changes=[change for change, _ in new], message_ids=[one for _, one in new])

    async def set_aside(self, name: str, unreadable: Sequence[Unreadable]) -> None:
        """Keep what cannot be read before its delivery, and with that its ack, can go on."""
        if not unreadable:
            return
        for one in unreadable:
            log.warning("intake.unreadable", source=name, subject=key_to_text(one.subject), reason=one.reason)
        letters, is_kept = [(name, one) for one in unreadable], False
        while not is_kept:
            before = self._mark
            await self._retry.until_done("set_aside", lambda: self._store.add_dead_letters(name, unreadable))
            is_kept = await self._keep(before, Batch([]), letters)

    async def commit(self) -> None:
        """Record what arrives, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while not self._inbox.idle:
                await self._commit_once()

    async def _commit_once(self) -> None:
        self._committing = True
        try:
            taken = self._inbox.take(COMMIT_KEYS)
            await self._record(taken)
            for ack in taken.acks:
                await self._ack(ack)
        finally:
            self._committing = False
        self._room.set()
        self._committed()

    async def _record(self, taken: Taken) -> None:
        """Record until it is durable: without that nothing more is taken, so the sources stop by themselves."""
        await self.record(Batch(taken.changes, taken.scan_sequence, taken.seed, taken.priority, taken.message_ids))

    async def record(self, batch: Batch) -> None:
        """Record a batch until it is durable, and kept where the store may lose it all the same."""
        record, sites = self._store.record, self._sites
        while True:
            before = self._mark
            (recorded,) = await self._retry.until_done("record", lambda: record([batch], sites.route, sites.folder))
            if await self._keep(before, batch):
                break
        for key, reason in recorded.rejected:
            log.warning("intake.parked", key=key.encode("utf-8", "backslashreplace").decode(), reason=reason)

    @property
    def _mark(self) -> CommitMark | None:
        """What was confirmed so far, where the store may lose it all the same."""
        return None if self._replay is None else self._replay.mark

    async def _keep(self, before: CommitMark | None, batch: Batch, letters: Sequence[Letter] = ()) -> bool:
        """Keep what was recorded since a mark; False where it is to be repeated, since commits were lost meanwhile."""
        return self._replay is None or before is None or await self._replay.keep(before, batch, letters)

    async def _ack(self, ack: Callable[[], object]) -> None:
        try:
            await ack()  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - whatever a source lets through
            # The changes are safe; the origin will deliver them again, and they merge.
            log.warning("intake.ack_failed", error=str(error), error_type=type(error).__name__)

    async def drained(self) -> None:
        """Wait until what is already here is durable; called once no source is read any more."""
        while not self.idle:
            self._arrived.set()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _closing(deliveries: AsyncIterator[Delivery]) -> AsyncIterator[AsyncIterator[Delivery]]:
    """Let a source clean up at once, and not when it is collected, where it was left between two deliveries."""
    try:
        yield deliveries
    finally:
        if isinstance(deliveries, AsyncGenerator):
            await deliveries.aclose()


def _rest(source: Source) -> None:
    """Note that nothing of a source runs: it is not expected to make progress."""
    for health in judged(source):
        health.rests()


def _report(source: Source, state: SourceState, detail: str) -> None:
    source.health.state, source.health.ready, source.health.detail = state, False, detail


def judged(source: Source) -> Sequence[SourceHealth]:
    """Return the health of each worker of a source: one made of several (``parts``) only joins what they say."""
    return [part.health for part in parts_of(source)]


STALLED_SECONDS = 60.0


_LOOK_SECONDS = 5.0
"""How often, at most, to look."""
_REST_SECONDS = 30.0
"""How often at least, while no source can have been silent for too long."""


_REPORTED = (SourceState.FAILED, SourceState.STOPPED)


class Stalls:
    """
    Looks when each source last made progress (:meth:`~listener.contracts.SourceHealth.progressed`).

    A source that rests or never says so is not judged, nor is one whose delivery is being taken.
    """

    def __init__(self, sources: Callable[[], Mapping[str, Source]], busy: Collection[str]) -> None:
        """Judge these sources, but for those named in ``busy``, which wait for us."""
        self._sources = sources
        self._busy = busy
        self._reported: dict[tuple[str, int], tuple[str, _Before]] = {}

    async def watch(self) -> None:
        """Look at all sources, for ever."""
        while True:
            now, rest = asyncio.get_running_loop().time(), _REST_SECONDS
            for name, source in self._sources().items():
                for part, health in enumerate(judged(source)):
                    self._judge((name, part), health, now)
                    rest = min(rest, STALLED_SECONDS - (health.silent_seconds(now) or 0.0))
            await asyncio.sleep(max(_LOOK_SECONDS, rest) if not self._reported else _LOOK_SECONDS)

    def _judge(self, worker: tuple[str, int], health: SourceHealth, now: float) -> None:
        name, silent = worker[0], health.silent_seconds(now)
        is_stalled = silent is not None and silent > STALLED_SECONDS - _LOOK_SECONDS and name not in self._busy
        text, before = self._reported.get(worker, ("", _Before(health.state, health.ready, health.detail)))
        if is_stalled and not text and health.state not in _REPORTED:
            text = (
                f"no progress for {silent:.0f} s: a call to a file system, a thread or the network does not return;"
                " look at the mount or the service behind it, then restart the daemon if it stays so"
            )
            self._reported[worker] = (text, before)
            log.error("source.stalled", source=name, silent_seconds=round(silent or 0.0, 1))
            health.state, health.ready, health.detail = SourceState.DEGRADED, False, text
        elif text and not is_stalled:
            del self._reported[worker]
            log.info("source.moves_again", source=name)
            if health.detail == text:
                health.state, health.ready, health.detail = before


class _Before(NamedTuple):
    """What a source said of itself before it was reported."""

    state: SourceState
    ready: bool
    detail: str


STORE_RETRY_SECONDS = 1.0


STORE_RETRY_MOST_SECONDS = 30.0


T = TypeVar("T")


class StoreRetry:
    """
    Does what needs the store again and again until it can, and says meanwhile that it cannot.

    What a CDN has answered is known only to this process until it is booked, so giving up would turn
    a known outcome into an unknown one; and a restart would not free the disk.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        """Start without trouble; call ``changed`` whenever there is another one, or none any more."""
        self._changed = changed
        self._troubles: dict[str, StoreError] = {}
        self._hurried = WakeUp()
        self.raises_damage = False
        """Whether a damaged state file ends the work: a daemon stays up to report it, a command does not."""

    @property
    def trouble(self) -> StoreError | None:
        """What the store could not do when it was last asked to, if anything."""
        return next(iter(self._troubles.values()), None)

    def _forget(self, what: str) -> bool:
        """Forget that something failed; return whether it had."""
        failed = self._troubles.pop(what, None) is not None
        if failed:
            self._changed()
        return failed

    def hurry(self) -> None:
        """Try at once what waits to be tried again."""
        self._hurried.set()

    async def until_done(self, what: str, do: Callable[[], Awaitable[T]]) -> T:
        """
        Await ``do()``, again after each :class:`~listener.errors.StoreError` but ``Fenced``, with growing waits.

        After damage there is nothing to try again: it waits to be cancelled, or raises it (``raises_damage``).
        """
        wait, outage = STORE_RETRY_SECONDS, Outage()
        while True:
            try:
                result = await do()
            except Fenced:
                self._forget(what)
                raise  # another process does it
            except StoreError as error:
                self._troubles[what] = error
                self._changed()
                if outage.is_to_be_logged(str(error)):
                    log.error("store.failed", doing=what, error=str(error), hint=error.hint, retry_seconds=wait)
                if isinstance(error, StoreUnusable):
                    if self.raises_damage:
                        raise
                    await asyncio.Event().wait()
            else:
                if self._forget(what):
                    log.info("store.resumed", doing=what, after_seconds=round(outage.end() or 0.0, 1))
                    self.hurry()  # what else failed did so for the same reason, most likely
                return result
            try:
                await self._hurried.wait(wait)
            except asyncio.CancelledError:
                self._forget(what)  # nobody tries it any more
                raise
            wait = min(STORE_RETRY_MOST_SECONDS, 2 * wait)
