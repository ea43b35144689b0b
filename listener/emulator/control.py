"""
The emulator's own endpoints on the API's port, for tests and rehearsals; the vendor has none of these.

================================ =======================================================================
``GET /_emulator``               the clock, counts, and what the CDN limits: for Alibaba units by quota day and kind
``GET /_emulator/accepted``      every accepted path with times and task (``?kind=``, ``?offset=``, ``?limit=``)
``GET /_emulator/tasks``         the same with what the account's owner would be shown
``GET /_emulator/edge``          what the edge has cached, and whether it is fresh or stale
``GET /_emulator/faults``        the active faults, and the table of faults
``POST /_emulator/faults``       ``{"order": ["throttle:3", …]}``
``DELETE /_emulator/faults``     removes all (``?name=throttle``: those of one name)
``POST /_emulator/clock``        ``{"advance_seconds": 3600}`` advances the emulator's clock
================================ =======================================================================

They answer only callers on the same machine, and accept changes only as ``application/json``, which no web page can
send to another host without permission.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final

from aiohttp import web

from listener.clock import Clock
from listener.emulator.edge import EdgeCache
from listener.emulator.faults import FaultBook, FaultTable
from listener.emulator.tasks import FOREVER, TaskBook, TaskRecord
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind

__all__ = ["EmulatorClock", "EmulatorControl"]

DEFAULT_LIMIT: Final = 100_000
MAX_ADVANCE_SECONDS: Final = 366 * 24 * 60 * 60.0


class EmulatorClock:
    """The given clock, advanced on request and skewed by the fault ``clock-skew``."""

    def __init__(self, base: Clock) -> None:
        """Show the base's time."""
        self._base = base
        self._advanced_seconds = 0.0
        self.moved: Callable[[], None] = lambda: None
        self.faults: FaultBook | None = None

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._skewed(self._base.now() + self._advanced_seconds)

    def unmoved(self) -> float:
        """Return the same as if it was never advanced: what a client signs with."""
        return self._skewed(self._base.now())

    def _skewed(self, now: float) -> float:
        return now + (self.faults.seconds("clock-skew", now) if self.faults else 0.0)

    def advance(self, seconds: float) -> None:
        """Advance it."""
        self._advanced_seconds += seconds
        self.moved()


class EmulatorControl:
    """The endpoints over the parts of one emulator."""

    def __init__(
        self,
        *,
        tasks: TaskBook,
        overview: Callable[[float], Mapping[str, Any]],
        table: FaultTable,
        cache: EdgeCache,
        faults: FaultBook,
        clock: EmulatorClock,
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Answer for these parts.

        ``overview`` returns what the CDN counts; ``settled`` applies finished tasks before each response and after the
        clock was advanced.
        """
        self._task_book = tasks
        self._counts = overview
        self._table = table
        self._cache = cache
        self._faults = faults
        self._clock = clock
        self._settled = settled

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to put on the API's application."""
        return [
            web.get("/_emulator", self._wrap(self._overview)),
            web.get("/_emulator/accepted", self._wrap(self._accepted)),
            web.get("/_emulator/tasks", self._wrap(self._tasks)),
            web.get("/_emulator/edge", self._wrap(self._edge)),
            web.get("/_emulator/faults", self._wrap(self._standing)),
            web.post("/_emulator/faults", self._wrap(self._order)),
            web.delete("/_emulator/faults", self._wrap(self._withdraw)),
            web.post("/_emulator/clock", self._wrap(self._advance)),
        ]

    def _wrap(
        self, answer: Callable[[web.Request], Awaitable[dict[str, Any]]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            if not _from_this_machine(request.remote):
                return web.json_response({"error": "Only callers on this machine are allowed."}, status=403)
            if request.method == "POST" and request.content_type != "application/json":
                return web.json_response({"error": "Send application/json."}, status=415)
            await self._settled()
            try:
                return web.json_response(await answer(request))
            except ConfigurationError as error:
                return web.json_response({"error": str(error), "hint": error.hint}, status=400)
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)

        return handle

    async def _overview(self, _: web.Request) -> dict[str, Any]:
        now = self._clock.now()
        return {
            "now": now,
            **self._counts(now),
            "paths": len(self._task_book.all()),
            "objects": sum(1 for _ in self._cache.contents(now)),
        }

    async def _accepted(self, request: web.Request) -> dict[str, Any]:
        return {"accepted": [_path(record) for record in _slice(request, self._task_book.all())]}

    async def _tasks(self, request: web.Request) -> dict[str, Any]:
        return {"tasks": [_task(record) for record in _slice(request, self._task_book.all())]}

    async def _edge(self, _: web.Request) -> dict[str, Any]:
        now = self._clock.now()
        return {
            "objects": [
                {
                    "url": key.url,
                    "state": freshness.name.lower(),
                    "status": copy.status,
                    "size_bytes": len(copy.body),
                    "etag": copy.header("etag"),
                    "fetched_at": copy.fetched_at,
                }
                for key, freshness, copy in self._cache.contents(now)
            ]
        }

    async def _standing(self, _: web.Request) -> dict[str, Any]:
        return {"faults": self._faults.standing(), "help": self._table.help().splitlines()}

    async def _order(self, request: web.Request) -> dict[str, Any]:
        specs = _field(await request.json(), "order")
        if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
            raise ValueError('"order" must be a list of texts')
        for fault in [self._table.parse(spec) for spec in specs]:
            self._faults.order(fault, self._clock.now())
        return {"faults": self._faults.standing()}

    async def _withdraw(self, request: web.Request) -> dict[str, Any]:
        self._faults.clear(request.query.get("name"))
        return {"faults": self._faults.standing()}

    async def _advance(self, request: web.Request) -> dict[str, Any]:
        seconds = _field(await request.json(), "advance_seconds")
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not math.isfinite(seconds) or not 0 <= seconds <= MAX_ADVANCE_SECONDS:
            raise ValueError(f'"advance_seconds" must be a number from 0 to {MAX_ADVANCE_SECONDS:.0f}')
        self._clock.advance(seconds)
        await self._settled()
        return {"now": self._clock.now()}


def _from_this_machine(remote: str | None) -> bool:
    try:
        return remote is not None and ipaddress.ip_address(remote).is_loopback
    except ValueError:
        return False


def _field(body: object, name: str) -> Any:
    if not isinstance(body, dict) or name not in body:
        raise ValueError(f'a JSON object with "{name}" is needed')
    return body[name]


def _slice(request: web.Request, records: Iterable[TaskRecord]) -> Iterable[TaskRecord]:
    kind = RefreshKind(request.query["kind"]) if "kind" in request.query else None
    offset, limit = int(request.query.get("offset", 0)), int(request.query.get("limit", DEFAULT_LIMIT))
    chosen = (record for record in records if kind in (None, record.kind))
    return islice(chosen, offset, offset + limit)


def _path(record: TaskRecord) -> dict[str, Any]:
    return {
        "at": record.created_at,
        "kind": record.kind.value,
        "path": record.path,
        "force": record.force,
        "task_id": record.task_id,
        "ends_at": None if record.ends_at == FOREVER else record.ends_at,
    }


def _task(record: TaskRecord) -> dict[str, Any]:
    shown = {"status": record.status(), "process": record.process(), "description": record.description()}
    return {**_path(record), **shown}
