"""The HTTP port for people and probes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from listener.daemon.health import Finding
from listener.errors import ListenerError

__all__ = ["AdminServer", "AdminView"]

SHUTDOWN_SECONDS = 1.0


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer an expected error as one: the state file may fail while the port still works."""
    try:
        return await handler(request)
    except ListenerError as error:
        return web.json_response({"error": str(error), "hint": error.hint}, status=503)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminView:
    """What the port shows; each is asked at every request."""

    alive: Callable[[], bool]
    not_ready: Callable[[], list[str]]
    """Why not every change is seen at present; empty when every one is."""
    findings: Callable[[], list[Finding]]
    status: Callable[[], Awaitable[Mapping[str, Any]]]
    metrics: Callable[[], Awaitable[bytes]]


class AdminServer:
    """``/livez``, ``/readyz``, ``/healthz``, ``/metrics`` and ``/api/status``, read-only."""

    def __init__(self, listen: str, view: AdminView) -> None:
        """Take ``host:port``; an empty one serves nothing."""
        self.listen = listen
        self._view = view
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raise :class:`~listener.errors.ListenerError` when that is not possible."""
        if not self.listen:
            return
        application = web.Application(middlewares=[_errors])
        application.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/healthz", self._healthz),
                web.get("/metrics", self._metrics),
                web.get("/api/status", self._status),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        host, _, port = self.listen.rpartition(":")
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            await self.close()
            raise ListenerError(
                f"admin.listen: cannot listen on {self.listen}: {os.strerror(error.errno) if error.errno else error}",
                hint='stop what uses that address, name another one, or turn the port off: listen = ""',
            ) from error

    async def close(self) -> None:
        """Stop listening; safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def address(self) -> str:
        """Where it listens, such as ``127.0.0.1:9180``; empty while it does not."""
        if self._runner is None or not self._runner.addresses:
            return ""
        host, port = self._runner.addresses[0][:2]
        return f"{host}:{port}"

    async def _livez(self, _: web.Request) -> web.Response:
        alive = self._view.alive()
        return web.json_response({"alive": alive, "pid": os.getpid()}, status=200 if alive else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = self._view.not_ready()
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _healthz(self, _: web.Request) -> web.Response:
        found = self._view.findings()
        ok = all(finding.ok for finding in found)
        checks = [finding._asdict() for finding in found]
        return web.json_response({"ok": ok, "checks": checks}, status=200 if ok else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await self._view.metrics()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._view.status())
