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
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from listener.configuration import is_postgres, state_directory
from listener.daemon.admin import AddressNotAvailable, AdminServer
from listener.daemon.command_socket import CommandSocket
from listener.daemon.state import DaemonState, Parts, check_sources, make_parts, reopen, require_credentials
from listener.daemon.status_page import StatusPage
from listener.daemon.systemd import NotifySocket, SystemdNotifier, watchdog_seconds
from listener.errors import ListenerError, StoreError, StoreUnusable
from listener.kernel import share_heaps
from listener.pipeline import Pipeline
from listener.settings import Settings
from listener.sources.filesystem.mounts import mount_of
from listener.store.store import Store
from listener.telemetry import INTERVAL_SECONDS, report_repeats

__all__ = ["PINNED_HINT", "Daemon", "InputFiles"]

log = structlog.get_logger()

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

    async def run(self) -> None:
        """
        Run until SIGTERM or SIGINT, then shut down in order.

        Raises:
            ConfigurationError: the configuration cannot be used, or credentials are missing.
            StoreBusy: another process owns the state file.
            StoreUnusable: the state file is corrupt, foreign or of a newer version.
            ListenerError: the admin port is taken.
        """
        share_heaps()
        state = self._state
        with self._signals():
            self._take_early_request()  # the configuration is read after this
            parts = await self._read_parts()
            self._inputs = await asyncio.to_thread(InputFiles.read, parts.settings, self._environ)
            state.store = parts.open_store()
            try:
                await self._commands.listen(parts.settings.store.url)
                self._admin = AdminServer(parts.settings.admin, self._status_page)
                is_listening = await self._start_admin(self._admin)
                async with asyncio.TaskGroup() as tasks:
                    helpers = [tasks.create_task(one, name=name) for name, one in self._helpers()]
                    if not is_listening:
                        helpers.append(tasks.create_task(self._retry_admin(self._admin), name="admin"))
                    await self._generations(parts)
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
        if self._watchdog_seconds:
            yield "watchdog", self._systemd.keep_watchdog(self._watchdog_seconds)

    async def _reopened(self, old: Parts) -> Store:
        """Open the store with the old configuration again; one whose server is away is waited for."""
        while True:
            try:
                return await reopen(old)
            except StoreError as error:
                is_stopping = self._state.phase == "stopping"
                if is_stopping or isinstance(error, StoreUnusable) or not is_postgres(old.settings.store.url):
                    raise
                log.error("store.failed", doing="open", error=str(error), hint=error.hint)
                await asyncio.sleep(REOPEN_RETRY_SECONDS)

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
            clock=state.clock,
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
        await self._commands.listen(new.settings.store.url)
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
        await require_credentials(parts)
        return parts

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
"""Between two attempts to open the database again after a reload that found it away."""

PINNED_HINT: Final = (
    "the file was replaced on the host, and this mount still shows the removed one: mount its directory"
    " instead of the file, or restart with a fresh mount"
)
_BUNDLES: Final = frozenset({"AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"})
_LARGEST_BYTES: Final = 4 * 1024 * 1024
"""A bundle of all public CAs has some 250 kB; of larger files only the beginning is compared."""


@dataclass(frozen=True, slots=True)
class InputFiles:
    """The digests of configuration, keys, certificates and CA bundles at one moment."""

    digests: Mapping[Path, str] = field(default_factory=dict)
    """Path to a digest of its bytes, empty for a file that cannot be read."""
    pinned: tuple[Path, ...] = ()
    """Files below a mount whose origin was removed: their replacement is not visible here."""

    @classmethod
    def read(cls, settings: Settings, environ: Mapping[str, str]) -> InputFiles:
        """Read every file that these settings and this environment name. Blocking."""
        paths = list(dict.fromkeys(_named(settings, environ)))
        mounts = {path: mount_of(path) for path in paths}
        pinned = tuple(path for path, mount in mounts.items() if mount is not None and mount.is_deleted)
        return cls({path: _digest(path) for path in paths}, pinned)

    def changed_since(self, before: InputFiles) -> list[Path]:
        """Return the files that are new, gone or differ."""
        paths = dict.fromkeys((*before.digests, *self.digests))
        return [path for path in paths if before.digests.get(path) != self.digests.get(path)]


def _named(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    if settings.origin.path is not None:
        yield settings.origin.path
    for name, value in sorted(environ.items()):
        if value and (name.endswith("_FILE") or name in _BUNDLES) and Path(value).is_file():
            yield Path(value)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and os.access(directory, os.R_OK | os.X_OK):
        yield from sorted(path for path in Path(directory).iterdir() if path.is_file())
    yield from _in_tables({**settings.sources, **{f"targets.{name}": one for name, one in settings.targets.items()}})


def _in_tables(value: Any) -> Iterator[Path]:
    """Yield the absolute paths of files among the values of plugins' tables, such as ``tls_certificate``."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _in_tables(item)
    elif isinstance(value, str) and value.startswith("/") and os.path.isfile(value):  # noqa: PTH113 - never raises
        yield Path(value)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_LARGEST_BYTES)).hexdigest()
    except OSError:
        return ""
