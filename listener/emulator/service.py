"""The whole emulator: its options; connects its parts, runs both servers, and applies tasks when they finish."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog
from aiohttp import web

from listener.alibaba.signature import Credentials
from listener.clock import Clock, SystemClock
from listener.emulator.account import CallRates, EmulatedAccount
from listener.emulator.actions import V2014, Api, Call
from listener.emulator.api import MAX_BODY_BYTES, ApiServer, Gate, Journal
from listener.emulator.control import EmulatorClock, EmulatorControl
from listener.emulator.edge import Edge, EdgeCache, Lifetimes
from listener.emulator.faults import ACTIONS, Fault, FaultBook
from listener.emulator.origin import origin_of
from listener.emulator.tasks import FOREVER, TaskBook, TaskRecord
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind
from listener.settings import host_and_port

__all__ = [
    "CALLS_PER_SECOND",
    "Emulator",
    "EmulatorSettings",
    "credentials_from_environment",
    "parse_address",
    "parse_quota",
    "serve",
]

KEY_ID_VARIABLE: Final = "ALIBABA_CLOUD_ACCESS_KEY_ID"
KEY_SECRET_VARIABLE: Final = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"  # noqa: S105 - the name of a variable, not its value

CALLS_PER_SECOND: Final[Mapping[str, int]] = dict(zip(ACTIONS, (50, 50, 10, 30, 20), strict=True))
"""The vendor's figures for each action and account; its newest pages say 5 for DescribeRefreshTasks."""
QUOTA: Final[Mapping[RefreshKind, int]] = {
    RefreshKind.FILE: 10_000,
    RefreshKind.DIRECTORY: 100,
    RefreshKind.PREFETCH: 1_000,
    RefreshKind.IGNORE_PARAMS: 100,
}
"""Units a day of an account as it is today; older ones have 2,000 files."""
QUOTA_ORDER: Final = (RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.PREFETCH, RefreshKind.IGNORE_PARAMS)

SHUTDOWN_SECONDS: Final = 1.0
MIN_NAP_SECONDS: Final = 0.005
PREFETCHES_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """Everything that can be set."""

    origin: str
    """A directory, or an http(s) URL."""
    credentials: Credentials
    """The one access key that may call; with a security token set, calls must carry it."""
    api_host: str = "127.0.0.1"
    api_port: int = 8700
    """0 takes a free port; ``Emulator.api_url`` has it."""
    edge_host: str = "127.0.0.1"
    edge_port: int = 8701
    task_seconds: float = 1.0
    """From the acceptance of a refresh to its effect at the edge; 300 to 360 at Alibaba."""
    quota: Mapping[RefreshKind, int] = field(default_factory=lambda: dict(QUOTA))
    """Units a day; kinds that are left out keep the vendor's figure."""
    faults: tuple[Fault, ...] = ()
    domains: tuple[str, ...] = ()
    """The domains of the account, with or without a port; empty for any."""
    calls_per_second: Mapping[str, int] = field(default_factory=lambda: dict(CALLS_PER_SECOND))
    """By action; actions that are left out keep the vendor's figure."""
    urls_per_domain_minute: int = 10_000
    """The vendor's newest figure; 1,000 in older pages."""
    directories_per_domain_minute: int = 100
    ttl_seconds: float | None = None
    """How long the edge considers a copy fresh; ``None``: until it is refreshed."""
    missing_ttl_seconds: float | None = None
    """The same for the answer that there is no such object."""
    cache_bytes: int = 1024 * 1024 * 1024
    """Size of the edge's cache; beyond it, the least recently used bodies are dropped."""
    index_documents: tuple[str, ...] = ("index.html",)
    """What a directory of the origin serves for a path that ends with ``/``."""
    journal: Path | None = None
    """A file that gets a JSON line for each accepted request."""
    clock: Clock = field(default_factory=SystemClock)
    """The clock for tasks, windows and time stamps; in virtual time, pass one that follows the loop's."""


def credentials_from_environment(environment: Mapping[str, str] = os.environ) -> Credentials:
    """Return the access key that the client is given too. Raise :class:`ConfigurationError` naming what is missing."""
    missing = [name for name in (KEY_ID_VARIABLE, KEY_SECRET_VARIABLE) if not environment.get(name)]
    if missing:
        raise ConfigurationError(
            f"The emulator has no access key to check signatures with: {' and '.join(missing)} not set.",
            hint="Set both to any value, and give the client the same; the emulator needs no real account.",
        )
    return Credentials(environment[KEY_ID_VARIABLE], environment[KEY_SECRET_VARIABLE])


def parse_quota(text: str) -> dict[RefreshKind, int]:
    """Read ``FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]``. Raise :class:`ConfigurationError` for anything else."""
    numbers = [part.strip() for part in text.split(",")]
    if not 2 <= len(numbers) <= len(QUOTA_ORDER) or not all(part.isascii() and part.isdecimal() for part in numbers):
        raise ConfigurationError(
            f"The quota {text!r} cannot be read.", hint="Its form is FILES,DIRECTORIES[,PREFETCHES[,IGNORE_PARAMS]]."
        )
    return {**QUOTA, **dict(zip(QUOTA_ORDER, map(int, numbers), strict=False))}


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``. Raise :class:`ConfigurationError` for anything else."""
    try:
        return host_and_port(text)
    except ValueError:
        raise ConfigurationError(
            f"The address {text!r} cannot be read.", hint="Its form is HOST:PORT, as 127.0.0.1:8700."
        ) from None


log = structlog.get_logger()


class Emulator:
    """
    A local Alibaba CDN, for as long as its ``async with`` lasts.

    ``account``, ``cache``, ``faults`` and ``clock`` are public for tests.
    """

    def __init__(self, settings: EmulatorSettings) -> None:
        """Connect the parts without opening anything. Raise :class:`ConfigurationError` for a missing origin."""
        self._settings = settings
        self.clock = EmulatorClock(settings.clock)
        self.faults = FaultBook(settings.faults, now=self.clock.now())
        self.clock.faults = self.faults
        self.account = EmulatedAccount(
            quota={**QUOTA, **settings.quota},
            faults=self.faults,
            per_minute={
                RefreshKind.FILE: settings.urls_per_domain_minute,
                RefreshKind.IGNORE_PARAMS: settings.urls_per_domain_minute,
                RefreshKind.DIRECTORY: settings.directories_per_domain_minute,
            },
            # Ids from the time, so that a client that outlives an emulator never sees one twice.
            tasks=TaskBook(history_seconds=V2014.history_seconds, first_id=int(self.clock.now() * 1000)),
            task_seconds=settings.task_seconds,
            domains=settings.domains,
        )
        lifetimes = Lifetimes(settings.ttl_seconds, settings.missing_ttl_seconds)
        self.cache = EdgeCache(lifetimes=lifetimes, limit_bytes=settings.cache_bytes)
        self._origin = origin_of(settings.origin, index_documents=settings.index_documents)
        self._edge = Edge(self.cache, self._origin, faults=self.faults, now=self.clock.now, settle=self.settle)
        self._prefetches: deque[TaskRecord] = deque()
        self._prefetching = asyncio.Lock()
        self._changed = asyncio.Event()
        self.clock.moved = self._changed.set
        self._runners: list[web.BaseRunner] = []
        self._ticking: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self.api_url = ""
        """Where the API is served, such as ``http://127.0.0.1:8700``; empty before the start."""
        self.edge_url = ""

    async def __aenter__(self) -> Self:
        """Open both ports. Raise :class:`ConfigurationError` when one is taken or the journal cannot be written."""
        settings = self._settings
        try:
            self._journal = Journal(settings.journal)
            api = web.AppRunner(
                self._application(), handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS, access_log=None
            )
            server = web.Server(self._edge.handle, handler_cancellation=True, access_log=None)
            edge = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
            self.api_url = await self._listen(api, settings.api_host, settings.api_port, "--api")
            self.edge_url = await self._listen(edge, settings.edge_host, settings.edge_port, "--edge")
        except BaseException:
            await self._close()
            raise
        self._ticking = asyncio.create_task(self._tick(), name="emulator-tick")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both ports and abort what still hangs."""
        await self._close()

    def settle(self) -> None:
        """Apply refreshes whose tasks have finished at the edge; prefetches start soon after."""
        for record in self.account.tasks.take_ended(self.clock.now()):
            if record.failure:
                continue
            if record.kind is RefreshKind.PREFETCH:
                self._prefetches.append(record)
            else:
                self.cache.refresh(record.kind, record.key, force=record.force)
        if self._prefetches:
            self._changed.set()

    async def settled(self) -> None:
        """Apply all finished tasks, prefetches included."""
        self.settle()
        async with self._prefetching:
            while self._prefetches:
                batch = [self._prefetches.popleft() for _ in range(min(PREFETCHES_AT_ONCE, len(self._prefetches)))]
                failures = await asyncio.gather(*(self._edge.prefetch(record.key) for record in batch))
                for record, failure in zip(batch, failures, strict=True):
                    record.failure = failure

    def _accepted(self, call: Call, records: Sequence[TaskRecord], request_id: str) -> None:
        if self._journal is not None:
            self._journal.accepted(call, records, request_id)
        self._changed.set()

    def _application(self) -> web.Application:
        rates = CallRates({**CALLS_PER_SECOND, **self._settings.calls_per_second})
        server = ApiServer(
            api=Api(self.account, self.faults),
            gate=Gate(self._settings.credentials, rates),
            faults=self.faults,
            now=self.clock.now,
            settled=self.settled,
            accepted=self._accepted,
        )
        control = EmulatorControl(
            account=self.account, cache=self.cache, faults=self.faults, clock=self.clock, settled=self.settled
        )
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.add_routes([*control.routes(), web.route("*", "/", server.handle)])
        return application

    async def _listen(self, runner: web.BaseRunner, host: str, port: int, option: str) -> str:
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"The emulator cannot listen on {host}:{port}: {error.strerror}.",
                hint=f"Give {option} another address.",
            ) from error
        return f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"

    async def _tick(self) -> None:
        while True:
            await self.settled()
            self._changed.clear()
            await self._nap(self.account.tasks.next_end() - self.clock.now())

    async def _nap(self, seconds: float) -> None:
        # The clock may stand still in a test, or be advanced: every change of a task's end wakes this up, and a nap
        # during which no time passed is not repeated.
        before = self.clock.now()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), None if seconds == FOREVER else max(seconds, MIN_NAP_SECONDS))
            return
        if self.clock.now() - before < seconds / 2:
            await self._changed.wait()

    async def _close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
        for runner in reversed(self._runners):
            await runner.cleanup()
        self._runners.clear()
        await self._origin.close()
        if self._journal is not None:
            self._journal.close()


async def serve(settings: EmulatorSettings, ready: Callable[[Emulator], None] | None = None) -> None:
    """
    Run until SIGINT or SIGTERM; ``ready`` is called once both ports are open.

    Raise :class:`ConfigurationError` when it cannot start.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Emulator(settings) as emulator:
            log.info("emulator.listening", api=emulator.api_url, edge=emulator.edge_url)
            if ready is not None:
                ready(emulator)
            await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
