"""
The daemon's process: start, reload, shutdown.

::

    start ─▶ running ──SIGTERM, SIGINT──▶ stopping ─▶ end        a second signal exits immediately
               ▲  │ SIGHUP: the new configuration is checked
               └──┘ and then replaces the old one

A SIGHUP during the start or during a reload is served afterwards. SIGUSR1 and SIGUSR2 do nothing. Changes are durable
before they are acknowledged, so that exiting immediately, or being killed, loses nothing; an orderly shutdown only
saves the next start some requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from listener.configuration import is_postgres, state_directory
from listener.daemon.admin import AddressNotAvailable, AdminServer
from listener.daemon.checks import FOREIGN_HINT
from listener.daemon.command_socket import CommandSocket
from listener.daemon.input_files import PINNED_HINT, InputFiles
from listener.daemon.state import DaemonState, Parts, check_sources, make_parts, reopen, unusable_credentials
from listener.daemon.status_page import StatusPage
from listener.daemon.systemd import NotifySocket, SystemdNotifier, watchdog_seconds
from listener.errors import ConfigurationError, ListenerError, StoreBusy, StoreError, StoreUnusable
from listener.kernel import share_heaps
from listener.pipeline import Pipeline
from listener.plugins import foreign_distribution
from listener.settings import Settings
from listener.store.store import Store
from listener.telemetry import INTERVAL_SECONDS, report_repeats
from listener.telemetry.outages import Outage

__all__ = ["Daemon"]

log = structlog.get_logger()

CREDENTIALS_SECONDS = 2.0
"""How often to see whether missing credentials are there."""
ADMIN_RETRY_SECONDS = 5.0
"""How often to retry an admin address that this machine does not have yet."""


class Daemon:
    """One process that owns the state file and runs the pipeline until a signal ends it."""

    def __init__(
        self,
        load: Callable[[], Settings],
        *,
        environ: Mapping[str, str] = os.environ,
        take_reload_request: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Keep the dependencies; open nothing.

        Args:
            load: reads the configuration; called at the start and at each SIGHUP.
            environ: the process's environment.
            take_reload_request: whether SIGHUP arrived before :meth:`run` installed its own handlers.
        """
        self._load = load
        self._environ = environ
        self._take_early_request = take_reload_request
        self._reload_requested = False
        self._inputs = InputFiles()
        self._notify = NotifySocket(environ)
        self._watchdog_seconds = watchdog_seconds(environ)
        self._state = DaemonState()
        self._status_page = StatusPage(self._state)
        self._systemd = SystemdNotifier(self._state, self._notify)
        self._next: Parts | None = None
        self._admin: AdminServer | None = None
        self._commands = CommandSocket(self._state)
        self._reloading: asyncio.Task[None] | None = None
        self._outage = Outage()
        self._interrupted = asyncio.Event()
        """Set by a signal that ends a wait for the database."""

    async def run(self) -> None:
        """
        Run until SIGTERM or SIGINT, then shut down in order.

        A PostgreSQL server that is away is waited for: the daemon is not ready, and says why.

        Raises:
            ConfigurationError: the configuration cannot be used.
            StoreBusy: another process owns the state file.
            StoreUnusable: the state file is corrupt, foreign or of a newer version.
            ListenerError: the admin port is taken.
        """
        share_heaps()
        with self._signals():
            self._take_early_request()  # the configuration is read after this
            parts = await self._read_parts()
            self._inputs = await asyncio.to_thread(InputFiles.read, parts.settings, self._environ)
            if foreign := foreign_distribution():
                log.error("daemon.foreign_distribution", distribution=foreign, hint=FOREIGN_HINT)
            self._try_to_open(parts)
            try:
                await self._commands.listen(parts.settings.store.url, parts.settings.admin.socket)
                self._admin = AdminServer(parts.settings.admin, self._status_page)
                is_listening = await self._start_admin(self._admin)
                async with asyncio.TaskGroup() as tasks:
                    helpers = [tasks.create_task(one, name=name) for name, one in self._helpers()]
                    if not is_listening:
                        helpers.append(tasks.create_task(self._retry_admin(self._admin), name="admin"))
                    if (opened := await self._opened(parts)) is not None:
                        await self._generations(opened)
                    for helper in helpers:
                        helper.cancel()
            finally:
                await self._close()
        report_repeats(at_once=True)
        log.info("daemon.ended")

    def _helpers(self) -> Iterator[tuple[str, Coroutine[object, object, None]]]:
        yield "loop monitor", self._state.loop_monitor.run()
        yield "writer monitor", self._state.writer_monitor.run(lambda: self._state.store)
        yield "notify", self._systemd.run()
        yield "repeats", _report_repeats()
        yield "credentials", self._follow_credentials()
        if self._watchdog_seconds:
            yield "watchdog", self._systemd.keep_watchdog(self._watchdog_seconds)

    # -- the store ---------------------------------------------------------------------------------

    def _try_to_open(self, parts: Parts) -> bool:
        """Open the store; return whether it is open. Raise what no waiting repairs."""
        state = self._state
        try:
            state.store = parts.open_store()
        except StoreError as error:
            if not _may_pass(error, parts):
                raise
            self._note_away(error)
            return False
        self._note_open()
        return True

    def _note_away(self, error: StoreError) -> None:
        self._state.store_error = error
        if self._outage.is_to_be_logged(str(error)):
            log.error("store.failed", doing="open", error=str(error), hint=error.hint)

    def _note_open(self) -> None:
        self._state.store_error = None
        if (seconds := self._outage.end()) is not None:
            log.info("store.opened", after_seconds=round(seconds, 1))

    async def _opened(self, parts: Parts) -> Parts | None:
        """Wait for the store; return with which configuration it was opened, None where a stop came before."""
        while self._state.store is None and self._state.phase != "stopping":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REOPEN_RETRY_SECONDS):
                    await self._interrupted.wait()
            self._interrupted.clear()
            if self._reload_requested:
                parts = await self._reread(parts)
            if self._state.phase != "stopping" and await asyncio.to_thread(self._try_to_open, parts):
                await self._commands.listen(parts.settings.store.url, parts.settings.admin.socket)
        return None if self._state.phase == "stopping" else parts

    async def _reread(self, parts: Parts) -> Parts:
        """Return the configuration as it is now, which may name another server; an invalid one is refused."""
        self._reload_requested = False
        try:
            new = await self._read_parts()
            await self._move_admin(new)
        except ListenerError as error:
            log.error("daemon.reload_refused", error=str(error), hint=error.hint)
            return parts
        await self._report_reload(new)
        return new

    async def _reopened(self, old: Parts) -> Store:
        """Open the store with the old configuration again; one whose server is away is waited for."""
        while True:
            try:
                store = await reopen(old)
            except StoreError as error:
                if self._state.phase == "stopping" or not _may_pass(error, old):
                    raise
                self._note_away(error)
                await asyncio.sleep(REOPEN_RETRY_SECONDS)
            else:
                self._note_open()
                return store

    # -- running -----------------------------------------------------------------------------------

    async def _generations(self, parts: Parts) -> None:
        """Run one pipeline after another, each with the configuration that was checked last."""
        while True:
            await self._generation(parts)
            if self._state.phase == "stopping" or self._next is None:
                return
            parts, self._next = await self._swap(parts, self._next), None

    async def _generation(self, parts: Parts) -> None:
        state = self._state
        if state.store is None:
            raise AssertionError("a generation needs an open store")
        state.parts = parts
        state.pipeline = Pipeline(
            parts.settings,
            state.store,
            make_sources=parts.sources,
            targets=parts.targets,
            leadership=parts.leadership(state.store),
            state_directory=state_directory(self._environ, parts.settings.origin.path),
        )
        log.info("daemon.running", sources=len(parts.settings.sources), targets=len(parts.targets), pid=os.getpid())
        if state.phase == "stopping":
            return
        state.phase = "running"
        if self._reload_requested:
            self._start_reload()
        try:
            await state.pipeline.run()
        finally:
            await self._commands.finish()
            for target in parts.targets.values():
                await target.close()

    async def _swap(self, old: Parts, new: Parts) -> Parts:
        """Open the state file with the new configuration, or where that fails with the old one."""
        state = self._state
        state.pipeline = None
        if (store := state.store) is not None:
            state.store = None
            await store.close()
        try:
            state.store = await reopen(new)
        except ListenerError as error:
            self._refuse(error)
            state.store = await self._reopened(old)
            return old
        await self._commands.listen(new.settings.store.url, new.settings.admin.socket)
        await self._report_reload(new)
        return new

    async def _report_reload(self, new: Parts) -> None:
        """Log which files changed, and those whose replacement is hidden by a mount."""
        before = self._inputs
        self._inputs = await asyncio.to_thread(InputFiles.read, new.settings, self._environ)
        for path in self._inputs.pinned:
            log.warning("daemon.file_pinned", path=str(path), hint=PINNED_HINT)
        changed = self._inputs.changed_since(before)
        log.info("daemon.reloaded", changed=list(map(str, changed)) or "nothing: every file is unchanged")

    async def _close(self) -> None:
        await self._commands.close()
        if self._admin is not None:
            await self._admin.close()
        if self._state.store is not None:
            await self._state.store.close()

    async def _read_parts(self) -> Parts:
        """Read the configuration; raise :class:`~listener.errors.ConfigurationError` where it cannot be used."""
        parts = await asyncio.to_thread(make_parts, self._load)
        unusable = await unusable_credentials(parts)
        if unusable and self._state.parts is not None and not self._state.unusable:
            raise next(iter(unusable.values()))  # what runs has credentials, and goes on
        self._note_unusable(unusable)
        return parts

    def _note_unusable(self, unusable: Mapping[str, ConfigurationError]) -> None:
        """Keep and log what has no usable credentials: the daemon stays up, and is not ready."""
        before, self._state.unusable = self._state.unusable, unusable
        for name, error in unusable.items():
            if str(error) != str(before.get(name, "")):
                log.error("daemon.no_credentials", part=name, error=str(error), hint=error.hint)

    async def _follow_credentials(self) -> None:
        """See whether missing credentials are there now, and use them; until then their accounts report it."""
        state = self._state
        while True:
            await asyncio.sleep(CREDENTIALS_SECONDS)
            if not state.unusable or state.parts is None or state.pipeline is None or state.phase != "running":
                continue
            self._note_unusable(await unusable_credentials(state.parts))
            for engine in state.pipeline.engines:
                missing = [error for name in engine.account.targets if (error := state.unusable.get(f"target {name}"))]
                if missing:
                    engine.account.refused_for_good(f"{missing[0]}; {missing[0].hint}")
                elif not state.unusable:
                    engine.try_again()
            if not state.unusable:
                log.info("daemon.credentials_found")

    async def _start_admin(self, server: AdminServer) -> bool:
        """Listen; return False for an address that this machine may get later."""
        try:
            await server.start()
        except AddressNotAvailable as error:
            log.warning("daemon.admin_address_missing", error=str(error), retry_seconds=ADMIN_RETRY_SECONDS)
            return False
        log.info("daemon.admin", address=server.address or "off")
        return True

    async def _retry_admin(self, server: AdminServer) -> None:
        """Listen as soon as the address exists, unless a reload has replaced the server."""
        while self._admin is server:
            await asyncio.sleep(ADMIN_RETRY_SECONDS)
            with contextlib.suppress(AddressNotAvailable):
                await server.start()
                log.info("daemon.admin", address=server.address)
                return

    async def _move_admin(self, parts: Parts) -> None:
        """Apply the new admin settings; a new address is opened before the old one is closed."""
        old = self._admin
        if old is None or old.settings == parts.settings.admin:
            return
        admin = parts.settings.admin
        if (old.settings.listen, old.settings.socket) == (admin.listen, admin.socket):
            old.follow(parts.settings.admin)
            return
        new = AdminServer(parts.settings.admin, self._status_page)
        await new.start()
        log.info("daemon.admin", address=new.address or "off")
        self._admin = new
        await old.close()

    # -- signals -----------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._on_stop(signal.SIGTERM),
            signal.SIGINT: lambda: self._on_stop(signal.SIGINT),
            signal.SIGHUP: self._on_reload,
            signal.SIGUSR1: lambda: None,
            signal.SIGUSR2: lambda: None,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _on_stop(self, number: signal.Signals) -> None:
        if self._state.phase == "stopping":
            log.warning("daemon.exits_immediately", signal=number.name)
            sys.stderr.flush()
            os._exit(128 + number)
        log.info("daemon.stopping", signal=number.name)
        self._state.phase = "stopping"
        self._interrupted.set()
        self._notify.stopping()
        self._notify.status("stopping: finishing requests in flight")
        if self._state.pipeline is not None:
            self._state.pipeline.stop()

    def _on_reload(self) -> None:
        is_reloading = self._reloading is not None and not self._reloading.done()
        if self._state.phase == "running" and not is_reloading:
            self._start_reload()
        elif self._state.phase != "stopping":
            self._reload_requested = True
            self._interrupted.set()
            log.info("daemon.reload_postponed", phase=self._state.phase)

    def _start_reload(self) -> None:
        self._reload_requested = False
        self._reloading = asyncio.get_running_loop().create_task(self._reload(), name="reload")

    async def _reload(self) -> None:
        """Check the new configuration; stop the current pipeline only if it is valid."""
        self._notify.reloading()
        self._notify.status("reloading: checking the new configuration")
        try:
            parts = await self._read_parts()
            await check_sources(parts, self._state.parts)
            await self._move_admin(parts)
        except ListenerError as error:
            self._refuse(error)
            if self._reload_requested and self._state.phase == "running":
                self._start_reload()
            return
        if self._state.phase == "running" and self._state.pipeline is not None:
            self._next, self._state.phase = parts, "reloading"
            self._state.pipeline.stop()

    def _refuse(self, error: ListenerError) -> None:
        log.error("daemon.reload_refused", error=str(error), hint=error.hint)
        self._notify.ready()
        self._notify.status(f"running with the old configuration: {error}")


async def _report_repeats() -> None:
    """Log what was suppressed in each interval, even when nothing else is logged."""
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        report_repeats()


REOPEN_RETRY_SECONDS: Final = 2.0
"""Between two attempts to open a database that is away."""


def _may_pass(error: StoreError, parts: Parts) -> bool:
    """Return whether a store that could not be opened is worth waiting for: one whose server is away."""
    return is_postgres(parts.settings.store.url) and not isinstance(error, StoreUnusable | StoreBusy)
