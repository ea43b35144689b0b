"""
The filesystem source, and one run of it: watch first, then scan, then follow events.

::

    open ─▶ scan ─▶ follow ──root lost, thread dead──▶ wait ─▶ open ─▶ …
             ▲        │ overflow, schedule, deletion guard
             └────────┘
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import ClassVar

import structlog
from pydantic import BaseModel

from listener.change import key_to_text
from listener.contracts import (
    HELD_DELETIONS,
    WAITING_SINCE,
    Check,
    CheckState,
    Delivery,
    IndexView,
    SourceHealth,
    SourceState,
)
from listener.errors import ConfigurationError, SourceUnavailable
from listener.event_loop import call_in_loop
from listener.sources.filesystem.checks import (
    TOO_MANY_LINKS,
    choose_backend,
    ignored_paths,
    open_hint,
    probe,
    probe_path,
    uncompared_words,
    unread_words,
    unwatched_words,
)
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.fanotify import FanotifyWatches, refusal
from listener.sources.filesystem.known import Acks, Digests
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.live import Live
from listener.sources.filesystem.mounts import Surroundings, outdated
from listener.sources.filesystem.names import Ignore, StatReader
from listener.sources.filesystem.outstanding import START, UNWATCHED, Rescans, found_rest_seconds
from listener.sources.filesystem.path_watch import PathSignal
from listener.sources.filesystem.scan import Scanner
from listener.sources.filesystem.settings import FilesystemSettings, Root
from listener.sources.filesystem.watcher import RootIdentity, Watcher
from listener.sources.filesystem.watches import Watches

__all__ = ["FilesystemSource"]

_log = structlog.get_logger()


class FilesystemSource:
    """See :class:`listener.contracts.Source`; its only root has its own name, keys are paths below ``path``."""

    Settings: ClassVar[type[BaseModel]] = FilesystemSettings

    def __init__(self, name: str, settings: FilesystemSettings) -> None:
        """Keep the settings; touch nothing."""
        self.name = name
        self.roots: Sequence[str] = (name,)
        self.health = SourceHealth()
        self._settings = settings
        self._session: Session | None = None

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        """
        Yield what differs from the index, then what changes; wait, degraded, while the path cannot be read.

        Raise :class:`~listener.errors.ConfigurationError` when the configured backend is refused at the start, and
        :class:`~listener.errors.SourceUnavailable` when it is refused for a path that came later.
        """
        refused_error = SourceUnavailable if await self._wait_for_path() else ConfigurationError
        backend, why = await asyncio.to_thread(choose_backend, self._settings)
        refused = await asyncio.to_thread(refusal, self._settings.path) if backend == "fanotify" else None
        if refused is not None:
            raise refused_error(f"sources.{self.name}.backend: {refused}", hint=refused.hint)
        _log.info("filesystem.backend_chosen", source=self.name, backend=backend, reason=why)
        self._session = Session(
            name=self.name, settings=self._settings, backend=backend, health=self.health, index=index
        )
        try:
            async with aclosing(self._session.run()) as found:
                async for delivery in found:
                    yield delivery
        except OSError as error:
            self.health.state, self.health.detail = SourceState.FAILED, str(error)
            raise SourceUnavailable(f"{self._key}: {error}", hint=open_hint(error)) from error
        except BaseException as error:
            self.health.state = SourceState.STOPPED if isinstance(error, _ENDS) else SourceState.FAILED
            raise
        finally:
            self.health.ready = False

    def watcher(self) -> Watcher | None:
        """Return what watches the tree at present, for tests; ``None`` while nothing does."""
        return self._session.watcher if self._session else None

    @property
    def compares(self) -> bool:
        """Whether the first scan is over and recorded, so that what changes is compared with the index."""
        return self._session is not None and self._session.compares

    def unfinished(self) -> int:
        """Return how many files are held because they may still be written to."""
        return self._session.unfinished if self._session else 0

    def ignored(self) -> Iterator[tuple[str, str]]:
        """Yield every path that is left out, with the pattern that leaves it out; blocking."""
        return ignored_paths(self._settings)

    def confirm_deletions(self) -> None:
        """Take what the deletion guard holds back for really deleted, once."""
        if self._session is not None:
            self._session.confirm_deletions()

    def rescan(self, reason: str) -> None:
        """Have the whole tree compared with the index soon; ``reason`` is what the log will say."""
        if self._session is not None:
            self._session.rescan(reason)

    async def check(self) -> Sequence[Check]:
        """Look whether the path can be read, which backend serves it, and whether the kernel's limits suffice."""
        try:
            await asyncio.to_thread(probe_path, self._key, self._settings.path)
        except SourceUnavailable as error:
            return [Check(self._key, CheckState.FAILED, str(error).removeprefix(f"{self._key}: "), error.hint)]
        found = await asyncio.to_thread(lambda: list(probe(self._key, self._settings)))
        return [Check(self._key, CheckState.OK, f"{self._settings.path} can be read"), *found]

    @property
    def _key(self) -> str:
        return f"sources.{self.name}.path"

    async def _wait_for_path(self) -> bool:
        """Return once the path can be read; whether it had to be waited for. A mount or a first deploy may be late."""
        waited = False
        while True:
            self.health.progressed(time.monotonic())
            try:
                await asyncio.to_thread(probe_path, self._key, self._settings.path)
            except SourceUnavailable as error:
                waited = True
                detail = f"{error}; {error.hint}"
                if detail != self.health.detail:
                    _log.warning("filesystem.degraded", source=self.name, detail=detail)
                self.health.state, self.health.ready, self.health.detail = SourceState.DEGRADED, False, detail
            else:
                self.health.detail = ""
                return waited
            await asyncio.sleep(self._settings.root_check_seconds)


_ENDS = (asyncio.CancelledError, GeneratorExit)
_BACKENDS = {"inotify": Watches, "fanotify": FanotifyWatches}
"""Those that read events; the backend ``polling`` is a :class:`Watcher` alone."""
_GATHER_SECONDS = 0.05
_PROGRESS_SECONDS = 25.0
"""How long it may wait without reporting progress: see :meth:`listener.contracts.SourceHealth.progressed`."""
_QUIET_FACTOR = 12
_QUIET_SECONDS = 24.0
"""How much more rarely, and how often at least, to check what the kernel reports, while it reports nothing."""
_MOST_POLLED = 256
"""Beyond so many unwatched directories the whole tree is polled."""
_SOON_SECONDS = 5.0
"""A comparison that waits no longer is ordinary work, and not reported."""


class Session:
    """Everything that lives as long as one iteration of ``deliveries``."""

    def __init__(
        self, *, name: str, settings: FilesystemSettings, backend: str, health: SourceHealth, index: IndexView
    ) -> None:
        """Prepare; nothing is touched yet. ``backend`` is one that was decided, not ``auto``."""
        path, ignore = os.fsencode(settings.path).rstrip(b"/") + b"/", Ignore(settings.ignore)
        self._root = root = Root(name, path, settings, ignore=ignore, links=Links(path), index=index)
        self._name = name
        self._settings = settings
        self._backend = backend
        self._health = health
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._acks = Acks(on_ack=self._wake.set)
        self._deletion_guard = DeletionGuard(share=settings.max_delete_share, minimum=settings.min_delete_count)
        polling = backend == "polling"
        self._rescans = Rescans(
            interval_seconds=settings.poll_interval_seconds if polling else settings.rescan_interval_seconds,
            jitter=settings.rescan_jitter,
            now=time.monotonic(),
        )
        self._live = Live(
            root,
            stat_reader=StatReader(path, ignore, root.links, stable_seconds=settings.stable_seconds),
            acks=self._acks,
            deletion_guard=self._deletion_guard,
            rescans=self._rescans,
        )
        self._scanner = Scanner(
            root,
            acks=self._acks,
            deletion_guard=self._deletion_guard,
            rescans=self._rescans,
            live=self._live,
            health=health,
        )
        self._surroundings = Surroundings(
            root, live=self._live, deletion_guard=self._deletion_guard, rescans=self._rescans
        )
        self._digests = Digests(root, self._acks)
        self._path_signal = PathSignal(path, self._check_soon)
        self._identity: RootIdentity | None = None
        """Of the root that is watched; ``None`` while none is."""
        self._checked_at = -math.inf
        """When the root was checked last, on the monotonic clock; minus infinity: it is to be checked now."""
        self._checked_events = 0
        """How many events had been read then."""
        self._next_poll = 0.0
        self._is_first = False
        """True from the end of the first scan until what it delivered is durable."""
        self._is_complete = False
        """Whether the first scan since the root was found is over and durable."""
        self._sound_at = 0.0
        """When the root was last seen to be the same, in seconds since the epoch."""
        self._served_until = 0.0
        """Until when the root that was compared last was seen to be in place; 0: none was."""
        self._awaited: frozenset[int] = frozenset()
        self._logged: frozenset[str] = frozenset()
        """Kinds of trouble that were logged and go on."""

    @property
    def watcher(self) -> Watcher | None:
        """What watches the root at present; ``None`` while nothing does."""
        return self._live.watcher if self._identity is not None else None

    @property
    def compares(self) -> bool:
        """Whether the index is complete, so that changes are compared with it."""
        return self._live.may_skip

    @property
    def unfinished(self) -> int:
        """How many files are held because they may still be written to."""
        return len(self._live.unfinished)

    def confirm_deletions(self) -> None:
        """Take the deletions that the deletion guard holds back for meant."""
        self._deletion_guard.confirmed = True
        self.rescan("an operator confirmed the deletions")

    def rescan(self, reason: str) -> None:
        """Compare the whole tree with the index soon."""
        self._rescans.want("", reason, time.monotonic(), prompt=True)
        self._wake.set()

    async def run(self) -> AsyncGenerator[Delivery, None]:
        """Yield deliveries until cancelled. Raise OSError when the root cannot be opened at first."""
        reason = START
        self._surroundings.follow_mounts(self._check_soon)
        try:
            await self._open()
            while True:
                if self._identity is not None:
                    self._report(SourceState.SCANNING)
                    async for delivery in self._scanner.deliveries(
                        self._identity.holds, "", reason, not_before=self._served_until
                    ):
                        yield delivery
                if not self._scanner.aborted:
                    self._awaited = self._acks.under_way()
                    self._is_first = True
                    async for delivery in self._follow():
                        yield delivery
                reason = await self._reopen()
        finally:
            self._surroundings.close()
            self._path_signal.close()
            await self._close()

    # --- the root -------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._path_signal.follow()
        self._identity, watcher = await asyncio.to_thread(self._find_root)
        self._live.follow(watcher)
        self._note_check()

    def _note_check(self) -> None:
        self._checked_at, self._checked_events = time.monotonic(), self._live.watcher.events

    def _check_soon(self) -> None:
        """Check the root at once: something may have happened to it."""
        self._checked_at = -math.inf
        self._wake.set()

    @property
    def _next_check(self) -> float:
        """
        When to check the root, on the monotonic clock.

        Where the kernel reports whatever may happen to it, more rarely, as long as nothing happens in the tree either:
        a renamed directory takes mounts with it.
        """
        seconds = self._settings.root_check_seconds
        is_quiet = self._live.watcher.events == self._checked_events and not self._root.links.leads
        if is_quiet and self._backend != "polling" and self._path_signal.reports_all:
            seconds = max(seconds, min(_QUIET_FACTOR * seconds, _QUIET_SECONDS))
        return self._checked_at + seconds

    def _find_root(self) -> tuple[RootIdentity, Watcher]:
        identity = RootIdentity(self._root.path)
        backend = _BACKENDS.get(self._backend)
        watcher = Watcher()
        if backend is not None:
            found_seconds = found_rest_seconds(self._settings.stable_seconds)
            root, bound = self._root, self._settings.max_pending
            watcher = backend(root.path, root.ignore, root.links, bound=bound, found_seconds=found_seconds)
        watcher.start(self._on_event)
        return identity, watcher

    def _on_event(self) -> None:
        call_in_loop(self._loop, self._wake.set)

    async def _close(self) -> None:
        watcher, self._identity = self._live.watcher, None
        self._live.follow(Watcher())
        await asyncio.shield(asyncio.to_thread(watcher.stop))

    async def _reopen(self) -> str:
        """Wait until the root is there again and listened to; return why the scan that must follow is needed."""
        if self._is_complete:
            self._served_until = self._sound_at
        self._health.ready = self._is_complete = self._live.may_skip = False
        self._deletion_guard.drop()
        self._report(SourceState.SCANNING)
        await self._close()
        while True:
            self._health.progressed(time.monotonic())
            try:
                await self._open()
            except OSError as error:
                await self._surroundings.look_at_mounts()
                parts = (f"{self._settings.path} cannot be read: {error.strerror}", self._deletion_guard.suspended)
                self._report(SourceState.DEGRADED, ". ".join(filter(None, parts)))
                await asyncio.sleep(self._settings.root_check_seconds)
            else:
                _log.info("filesystem.root_found", source=self._name, path=str(self._settings.path))
                return "the root was away or replaced"

    async def _is_sound(self) -> bool:
        """Look, now and then, whether the root is the same and every thread lives."""
        if self._identity is None or time.monotonic() < self._next_check:
            return self._identity is not None
        if self._checked_at == -math.inf:  # a signal requested it, which arrives well within that time
            self._sound_at = max(self._sound_at, time.time() - self._settings.root_check_seconds)
        self._note_check()
        if not self._path_signal.is_watching:
            await self._path_signal.follow()
        if not await asyncio.to_thread(self._identity.holds):
            _log.warning("filesystem.root_lost", source=self._name, path=str(self._settings.path))
            return False
        self._sound_at = time.time()
        if not self._live.watcher.is_healthy:
            _log.error("filesystem.thread_died", source=self._name)
            return False
        await self._surroundings.look()
        return True

    # --- following --------------------------------------------------------------------------------

    async def _follow(self) -> AsyncIterator[Delivery]:
        """Yield what events report and what due scans find, until the root is lost or a thread is dead."""
        while await self._is_sound():
            self._health.progressed(time.monotonic())
            await self._end_first_scan()
            self._allow_skipping()
            self._poll_unwatched()
            self._report(SourceState.LISTENING)
            self._figures()
            async for delivery in self._live.deliveries():
                self._health.last_event_at = time.time()
                self._digests.note(delivery.changes, time.monotonic())
                yield delivery
            due = self._rescans.take(time.monotonic())
            if due is not None and self._identity is not None:
                async for delivery in self._scanner.deliveries(self._identity.holds, *due):
                    yield delivery
                self._digests.want_all()
            async for delivery in self._digests.deliveries():
                yield delivery
            await self._rest()

    async def _end_first_scan(self) -> None:
        await self._mark_seeded()
        self._health.ready = self._is_complete and not self._deletion_guard.suspended

    async def _mark_seeded(self) -> None:
        if not self._is_first or self._acks.is_any_under_way(self._awaited):
            return
        if not await self._root.index.seeded(self._name):
            await self._root.index.mark_seeded(self._name)
        self._is_first = False
        self._is_complete = True
        self._digests.want_all()

    def _allow_skipping(self) -> None:
        """Compare bytes once the first scan is over and all events meanwhile have been reported."""
        if self._health.ready and not self._live.may_skip:
            self._live.may_skip = self._live.watcher.is_idle

    def _poll_unwatched(self) -> None:
        """Scan what cannot be watched or read as often as a tree that is polled."""
        now = time.monotonic()
        polled = self._live.unread.directories() + [key_to_text(prefix) for prefix in self._live.watcher.failed]
        if polled and now >= self._next_poll:
            self._next_poll = now + self._settings.poll_interval_seconds
            for prefix in polled if len(polled) <= _MOST_POLLED else [""]:
                self._rescans.want(prefix, UNWATCHED, now)
            self._report(SourceState.LISTENING)

    async def _rest(self) -> None:
        if not self._is_first:  # events within a moment make one delivery; the first scan is not delayed for that
            await asyncio.sleep(_GATHER_SECONDS)
        now = time.monotonic()
        dues = (part.next_due(now) for part in (self._live, self._rescans, self._digests))
        wait = max(0.0, min(_PROGRESS_SECONDS, self._next_check - now, *dues))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()
        self._wake.clear()
        if self._live.watcher.root_may_be_gone():
            self._check_soon()

    # --- telling ----------------------------------------------------------------------------------

    def _figures(self) -> None:
        """Write what is known at any time; what a scan found is written when it ends."""
        watcher = self._live.watcher
        known = dict(self._health.figures)
        self._health.figures.update(
            unreadable_paths=len(self._live.unread),
            unwatched_directories=len(watcher.failed),
            watched_directories=watcher.count,
            events=watcher.events,
            overflows=watcher.overflows,
            unfinished_files=self.unfinished,
            skipped_unchanged=self._live.skipped,
            links_outside=self._root.links.outside,
            link_check_seconds=round(self._surroundings.link_check_seconds, 1),
            digests_made=self._digests.made,
            waiting_comparisons=len(self._rescans.waiting()),
            skipped_transient=self._live.transient,
            ignored_changes=self._live.stat_reader.ignored,
        )
        guard = self._deletion_guard
        self._health.figures[HELD_DELETIONS] = guard.held_back if guard.is_holding_back else 0
        self._health.figures[WAITING_SINCE] = self._waiting_since()
        if self._health.figures != known:
            self._health.changed()

    def _waiting_since(self) -> float:
        """Return since when what may have changed waits to be compared, in seconds since the epoch; 0: nothing does."""
        now, waiting = time.monotonic(), [one.since for one in self._rescans.waiting()[:1]]
        if (held := self._deletion_guard.held_since(now, over_seconds=_SOON_SECONDS)) is not None:
            waiting.append(held)
        return time.time() - (now - min(waiting)) if waiting else 0.0

    def _report(self, state: SourceState, detail: str = "") -> None:
        """Write the state where status reads it; what is wrong turns listening into degraded."""
        troubles = {detail: detail} if detail else {}
        if state is SourceState.LISTENING:
            troubles = self._troubles()
            if troubles:
                state = SourceState.DEGRADED
            elif not self._health.ready:  # what the first scan found is not committed yet
                state = SourceState.SCANNING
        detail = ". ".join(troubles.values())
        # A trouble is logged when it begins: its number of paths may change with each look.
        if not troubles.keys() <= self._logged:
            _log.warning("filesystem.degraded", source=self._name, detail=detail)
        self._logged = frozenset(troubles)
        self._health.state, self._health.detail = state, detail

    def _troubles(self) -> dict[str, str]:
        """Return what is wrong, in words, by kind."""
        watcher, unread, guard = self._live.watcher, self._live.unread, self._deletion_guard
        now = time.monotonic()
        late = [one for one in self._rescans.waiting() if now - one.since > _SOON_SECONDS]
        troubles: dict[str, str] = {}
        if guard.refused and not guard.suspended:
            troubles["deletions"] = (
                f"nothing is taken for deleted: {guard.refused}; "
                f"bring the files back, or: cdn-listener confirm-deletions {self._name}"
            )
        if self._root.links.overfull:
            troubles["links"] = TOO_MANY_LINKS
        troubles.update((f"mount {mount.point}", outdated(mount)) for mount in self._surroundings.replaced)
        if watcher.failed:
            troubles["unwatched"] = unwatched_words(watcher.failed, watcher.count)
        if late:
            troubles["comparisons"] = uncompared_words(late)
        if unread.paths:
            troubles["unread"] = unread_words(unread.paths)
        return troubles
