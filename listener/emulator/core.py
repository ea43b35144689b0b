"""What the emulators share: connects the parts, runs both servers, and applies tasks when they finish."""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import structlog
from aiohttp import web

from listener.clock import Clock, SystemClock
from listener.emulator.control import EmulatorClock, EmulatorControl
from listener.emulator.edge import EdgeCache, Lifetimes
from listener.emulator.faults import Fault, FaultBook, FaultTable
from listener.emulator.journal import Journal
from listener.emulator.origin import origin_of
from listener.emulator.points import Point, Points
from listener.emulator.server import MAX_BODY_BYTES, Accepted, Surroundings
from listener.emulator.tasks import FOREVER, TaskBook, TaskRecord
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind
from listener.settings import host_and_port

__all__ = ["CoreSettings", "EmulatorCore", "parse_address", "serve"]

SHUTDOWN_SECONDS: Final = 1.0
MIN_NAP_SECONDS: Final = 0.005
PREFETCHES_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """What can be set for each CDN."""

    origin: str
    """A directory, or an http(s) URL."""
    api_host: str = "127.0.0.1"
    api_port: int = 8700
    """0 takes a free port; ``Emulator.api_url`` has it."""
    edge_host: str = "127.0.0.1"
    edge_port: int = 8701
    points: int = 1
    """Points of presence, each with a cache of its own, at ports that follow ``edge_port``."""
    task_seconds: float = 1.0
    """From the acceptance of a refresh to its effect at the edge; 300 to 360 at Alibaba."""
    faults: tuple[Fault, ...] = ()
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


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``. Raise :class:`ConfigurationError` for anything else."""
    try:
        return host_and_port(text)
    except ValueError:
        raise ConfigurationError(
            f"The address {text!r} cannot be read.", hint="Its form is HOST:PORT, as 127.0.0.1:8700."
        ) from None


log = structlog.get_logger()


class EmulatorCore(ABC):
    """
    A local CDN, for as long as its ``async with`` lasts: origin, edge, tasks, faults, journal; a subclass adds the API.

    ``tasks``, ``cache``, ``faults`` and ``clock`` are public for tests.
    """

    table: ClassVar[FaultTable]
    """What can go wrong at this CDN."""

    def __init__(self, settings: CoreSettings, *, history_seconds: float) -> None:
        """Connect the parts without opening anything. Raise :class:`ConfigurationError` for a missing origin."""
        self.settings = settings
        self.clock = EmulatorClock(settings.clock)
        self.faults = FaultBook(settings.faults, now=self.clock.now())
        self.clock.faults = self.faults
        # Ids from the time, so that a client that outlives an emulator never sees one twice.
        self.tasks = TaskBook(history_seconds=history_seconds, first_id=int(self.clock.now() * 1000))
        lifetimes = Lifetimes(settings.ttl_seconds, settings.missing_ttl_seconds)
        self._origin = origin_of(settings.origin, index_documents=settings.index_documents)
        points = [
            Point(
                f"pop{number + 1}",
                EdgeCache(lifetimes=lifetimes, limit_bytes=settings.cache_bytes),
                self._origin,
                faults=self.faults,
                now=self.clock.now,
                settle=self.settle,
            )
            for number in range(settings.points)
        ]
        self.points = Points(points, apply=self.apply, now=self.clock.now)
        self.cache = self.points.first.cache
        self._prefetches: deque[TaskRecord] = deque()
        self._prefetching = asyncio.Lock()
        self._changed = asyncio.Event()
        self.clock.moved = self._changed.set
        self._runners: list[web.BaseRunner] = []
        self._ticking: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self.api_url = ""
        """Where the API is served, such as ``http://127.0.0.1:8700``; empty before the start."""
        self.edge_urls: tuple[str, ...] = ()
        """Where each point of presence serves."""

    @property
    def edge_url(self) -> str:
        """Where the first point of presence serves; empty before the start."""
        return self.edge_urls[0] if self.edge_urls else ""

    @abstractmethod
    def routes(self, around: Surroundings) -> Sequence[web.RouteDef]:
        """Return the routes of the API."""

    @abstractmethod
    def overview(self, now: float) -> Mapping[str, Any]:
        """Return what the CDN counts and limits, for ``GET /_emulator``."""

    def apply(self, record: TaskRecord, cache: EdgeCache) -> None:
        """Let a refresh whose task is complete take effect in the cache of one point of presence."""
        cache.refresh(record.kind, record.key, force=record.force)

    async def __aenter__(self) -> Self:
        """Open both ports. Raise :class:`ConfigurationError` when one is taken or the journal cannot be written."""
        settings = self.settings
        try:
            self._journal = Journal(settings.journal)
            api = web.AppRunner(
                self._application(), handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS, access_log=None
            )
            self.api_url = await self._listen(api, settings.api_host, settings.api_port, "--api")
            for number, point in enumerate(self.points.all):
                server = web.Server(point.handle, handler_cancellation=True, access_log=None)
                edge = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
                port = settings.edge_port and settings.edge_port + number
                self.edge_urls += (await self._listen(edge, settings.edge_host, port, "--edge"),)
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
        for record in self.tasks.take_ended(self.clock.now()):
            if record.failure:
                continue
            if record.kind is RefreshKind.PREFETCH:
                self._prefetches.append(record)
            else:
                self.points.refresh(record)
        self.points.settle()
        if self._prefetches:
            self._changed.set()

    async def settled(self) -> None:
        """Apply all finished tasks, prefetches included."""
        self.settle()
        async with self._prefetching:
            while self._prefetches:
                batch = [self._prefetches.popleft() for _ in range(min(PREFETCHES_AT_ONCE, len(self._prefetches)))]
                failures = await asyncio.gather(*(self.points.first.prefetch(record.key) for record in batch))
                for record, failure in zip(batch, failures, strict=True):
                    record.failure = failure

    def note(self, accepted: Accepted) -> None:
        """Write an accepted request to the journal, and take it up."""
        if self._journal is not None:
            self._journal.write(accepted.line)
        self._changed.set()

    def _application(self) -> web.Application:
        around = Surroundings(faults=self.faults, now=self.clock.now, settled=self.settled, accepted=self.note)
        control = EmulatorControl(
            tasks=self.tasks,
            overview=self.overview,
            table=self.table,
            cache=self.cache,
            faults=self.faults,
            clock=self.clock,
            settled=self.settled,
        )
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.add_routes([*control.routes(), *self.routes(around)])
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
            await self._nap(min(self.tasks.next_end(), self.points.next_at()) - self.clock.now())

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
        await self.points.close()
        await self._origin.close()
        if self._journal is not None:
            self._journal.close()


async def serve(emulator: EmulatorCore, ready: Callable[[EmulatorCore], None] | None = None) -> None:
    """
    Run until SIGINT or SIGTERM; ``ready`` is called once both ports are open.

    Raise :class:`ConfigurationError` when it cannot start.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with emulator:
            log.info("emulator.listening", api=emulator.api_url, edge=" ".join(emulator.edge_urls))
            if ready is not None:
                ready(emulator)
            await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
