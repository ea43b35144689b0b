"""
The daemon's life: start, reload, end.

::

    start ─▶ running ──SIGTERM, SIGINT──▶ stopping ─▶ end        a second signal: gone at once
               ▲  │ SIGHUP: the new configuration is checked
               └──┘ and only then takes the place of the old one

Whatever was heard is durable before anybody is told that it is safe, so that leaving at once, or
being killed, loses nothing; ending in order only spares the next start some questions.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog

from listener.clock import SystemClock
from listener.contracts import CheckState, Source, Target
from listener.daemon.admin import AdminServer, AdminView
from listener.daemon.health import Finding, Heart, findings, reasons_not_ready, store_answers
from listener.daemon.metrics import exposition
from listener.daemon.notify import Notifier, watchdog_seconds
from listener.daemon.status import status_of
from listener.errors import ConfigurationError, ListenerError, StoreBusy
from listener.pipeline import Pipeline, store_options
from listener.plugins import load_sources, load_targets
from listener.settings import Settings
from listener.store import Store, open_store

__all__ = ["Daemon"]

log = structlog.get_logger()

TELL_SECONDS = 0.1
MORE_TIME_SECONDS = 30.0
REOPEN_SECONDS = 10.0
"""After a reload the state file is opened anew; a command that asked for something may own it for a moment."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """A configuration with all that was made from it; nothing is open yet."""

    settings: Settings
    targets: Mapping[str, Target]

    def sources(self) -> dict[str, Source]:
        return load_sources(self.settings)

    def open_store(self) -> Store:
        return open_store(self.settings.store.url, options=store_options(self.settings, self.targets), owner=True)


class Daemon:
    """One process that owns the state file and runs the pipeline until a signal ends it."""

    def __init__(self, load: Callable[[], Settings], *, environ: Mapping[str, str] = os.environ) -> None:
        """Take a reader of the configuration, called at the start and at each SIGHUP."""
        self._load = load
        self._notifier = Notifier(environ)
        self._watchdog_seconds = watchdog_seconds(environ)
        self._clock = SystemClock()
        self._heart = Heart()
        self._phase = "starting"
        self._parts: _Parts | None = None
        self._next: _Parts | None = None
        self._store: Store | None = None
        self._admin: AdminServer | None = None
        self.pipeline: Pipeline | None = None
        self._reloading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """
        Run until SIGTERM or SIGINT, and end in order.

        Raises:
            ConfigurationError: the configuration cannot be used.
            StoreBusy: another process owns the state file.
            StoreUnusable: the state file is corrupt, foreign or of a newer version.
            ListenerError: the admin port is taken.
        """
        parts = await asyncio.to_thread(self._make)
        with self._signals():
            self._store = parts.open_store()
            try:
                self._admin = await self._open_admin(parts.settings.admin.listen)
                async with asyncio.TaskGroup() as tasks:
                    helpers = [tasks.create_task(self._heart.beat(), name="beat")]
                    helpers.append(tasks.create_task(self._tell(), name="tell"))
                    if self._watchdog_seconds:
                        helpers.append(tasks.create_task(self._keep_watchdog(self._watchdog_seconds), name="watchdog"))
                    await self._generations(parts)
                    for helper in helpers:
                        helper.cancel()
            finally:
                await self._close()
        log.info("daemon.ended")

    def _make(self) -> _Parts:
        settings = self._load()
        for group in ("sources", "targets"):
            if not getattr(settings, group):
                # Also what a file that is being written to looks like: an empty one must not replace a running one.
                what = f"{group}: there is none in {settings.origin.path or 'the environment'}, so nothing can be done"
                raise ConfigurationError(what, hint=f"add a [{group}.NAME] table; the README has the smallest file")
        parts = _Parts(settings, load_targets(settings))
        parts.sources()  # a wrong table of a source must be found here, not while the pipeline is being made
        return parts

    # -- running -----------------------------------------------------------------------------------

    async def _generations(self, parts: _Parts) -> None:
        """Run one pipeline after the other, each with the configuration that was checked last."""
        while True:
            await self._generation(parts)
            if self._phase == "stopping" or self._next is None:
                return
            parts, self._next = await self._swap(parts, self._next), None

    async def _generation(self, parts: _Parts) -> None:
        if self._store is None:
            raise AssertionError("a generation needs an open store")
        self._parts = parts
        self.pipeline = Pipeline(
            parts.settings, self._store, make_sources=parts.sources, targets=parts.targets, clock=self._clock
        )
        log.info("daemon.running", sources=len(parts.settings.sources), targets=len(parts.targets), pid=os.getpid())
        if self._phase == "stopping":
            return
        self._phase = "running"
        try:
            await self.pipeline.run()
        finally:
            for target in parts.targets.values():
                await target.close()

    async def _swap(self, old: _Parts, new: _Parts) -> _Parts:
        """Open the state file as the new configuration wants it; where that fails, go on with the old one."""
        self.pipeline = None
        if self._store is not None:
            await self._store.close()
        try:
            self._store = await _reopen(new)
        except ListenerError as error:
            self._refuse(error)
            self._store = await _reopen(old)
            return old
        log.info("daemon.reloaded")
        return new

    async def _close(self) -> None:
        if self._admin is not None:
            await self._admin.close()
        if self._store is not None:
            await self._store.close()

    # -- signals -----------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._on_stop(signal.SIGTERM),
            signal.SIGINT: lambda: self._on_stop(signal.SIGINT),
            signal.SIGHUP: self._on_reload,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _on_stop(self, number: signal.Signals) -> None:
        if self._phase == "stopping":
            log.warning("daemon.leaves_at_once", signal=number.name)
            sys.stderr.flush()
            os._exit(128 + number)
        log.info("daemon.stopping", signal=number.name)
        self._phase = "stopping"
        self._notifier.stopping()
        self._notifier.status("stopping: finishing what is being sent")
        if self.pipeline is not None:
            self.pipeline.stop()

    def _on_reload(self) -> None:
        if self._phase != "running" or (self._reloading is not None and not self._reloading.done()):
            log.warning("daemon.reload_ignored", phase=self._phase)
            return
        self._reloading = asyncio.get_running_loop().create_task(self._reload(), name="reload")

    async def _reload(self) -> None:
        """Check the new configuration; only when it can be used, end the present pipeline."""
        self._notifier.reloading()
        self._notifier.status("reloading: checking the new configuration")
        try:
            parts = await asyncio.to_thread(self._make)
            await _check_sources(parts)
            await self._move_admin(parts.settings.admin.listen)
        except ListenerError as error:
            self._refuse(error)
            return
        if self._phase == "running" and self.pipeline is not None:
            self._next, self._phase = parts, "reloading"
            self.pipeline.stop()

    def _refuse(self, error: ListenerError) -> None:
        log.error("daemon.reload_refused", error=str(error), hint=error.hint)
        self._notifier.ready()
        self._notifier.status(f"running with the old configuration: {error}")

    # -- telling -----------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Tell the service manager how it goes, for ever."""
        told: Pipeline | None = None
        asked = 0.0
        loop = asyncio.get_running_loop()
        while True:
            if self._phase == "running" and self.pipeline is not None and told is not self.pipeline:
                reasons = self._not_ready()
                if not reasons:
                    told = self.pipeline
                    self._notifier.ready()
                    self._notifier.status("running: every source is listening")
                    log.info("daemon.ready")
                elif loop.time() >= asked:
                    asked = loop.time() + MORE_TIME_SECONDS / 3
                    self._notifier.more_time(MORE_TIME_SECONDS)
                    self._notifier.status(f"starting: {'; '.join(reasons)}")
            await asyncio.sleep(TELL_SECONDS)

    async def _keep_watchdog(self, within_seconds: float) -> None:
        """Keep the watchdog quiet as long as the loop turns and the store's writer answers."""
        pause = within_seconds / 3
        while True:
            if self._heart.ok and (self._store is None or await store_answers(self._store, pause)):
                self._notifier.alive()
            await asyncio.sleep(pause)

    # -- the admin port ----------------------------------------------------------------------------

    async def _open_admin(self, listen: str) -> AdminServer:
        view = AdminView(
            alive=lambda: self._heart.ok,
            not_ready=self._not_ready,
            findings=self._findings,
            status=self._status,
            metrics=self._metrics,
        )
        server = AdminServer(listen, view)
        await server.start()
        log.info("daemon.admin", address=server.address or "off")
        return server

    async def _move_admin(self, listen: str) -> None:
        old = self._admin
        if old is None or old.listen == listen:
            return
        self._admin = await self._open_admin(listen)
        await old.close()

    def _not_ready(self) -> list[str]:
        return reasons_not_ready(self.pipeline, self._phase)

    def _findings(self) -> list[Finding]:
        return findings(self.pipeline, self._heart, self._phase)

    async def _status(self) -> dict[str, Any]:
        if self._parts is None or self.pipeline is None:
            raise ListenerError(f"the daemon is {self._phase}", hint="ask again in a moment")
        parts = self._parts
        status = await status_of(
            self._store,
            parts.settings,
            parts.targets,
            now=self._clock.now(),
            owner_pid=os.getpid(),
            live={name: source.health for name, source in self.pipeline.intake.sources.items()},
        )
        return {**status, "ready": not self._not_ready(), "reasons": self._not_ready() + self.pipeline.troubles}

    async def _metrics(self) -> bytes:
        status = await self._status()
        longest = self._store.longest_group_seconds if self._store is not None else 0.0
        return exposition(
            status,
            ready=bool(status["ready"]),
            longest_commit_seconds=longest,
            loop_late_seconds=self._heart.late_seconds,
        )


async def _check_sources(parts: _Parts) -> None:
    for source in parts.sources().values():
        for check in await source.check():
            if check.state is CheckState.FAILED:
                raise ConfigurationError(f"{check.subject}: {check.message}", hint=check.hint)


async def _reopen(parts: _Parts) -> Store:
    """Open the state file, waiting a while for a command that owns it at this moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REOPEN_SECONDS):
            while True:
                try:
                    return parts.open_store()
                except StoreBusy:
                    await asyncio.sleep(0.1)
    return parts.open_store()
