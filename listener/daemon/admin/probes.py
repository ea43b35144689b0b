"""What machines read."""

from __future__ import annotations

import os

from aiohttp import web

from listener.daemon.admin.authenticator import Authenticator
from listener.daemon.view import View

__all__ = ["Probes"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Probes:
    """``/livez``, ``/readyz``, ``/healthz``, ``/metrics`` and ``/api/status``."""

    def __init__(self, view: View, authenticator: Authenticator) -> None:
        """Take whom to ask, and who may see reasons."""
        self._view = view
        self._authenticator = authenticator

    async def livez(self, _: web.Request) -> web.Response:
        """Answer 200 while the loop turns and the store commits; else a restart would help."""
        alive = self._view.alive
        return web.json_response({"alive": alive, "pid": os.getpid()}, status=200 if alive else 503)

    async def readyz(self, request: web.Request) -> web.Response:
        """Answer 200 once every change is seen; the reasons why not only to those who may read."""
        reasons = self._view.not_ready()
        shown = reasons if self._authenticator.may_read(request) else ["sign in to see why"] * bool(reasons)
        return web.json_response({"ready": not reasons, "reasons": shown}, status=503 if reasons else 200)

    async def healthz(self, _: web.Request) -> web.Response:
        """Answer with every check and its reason."""
        found = self._view.findings()
        ok = all(finding.ok for finding in found)
        checks = [finding._asdict() for finding in found]
        return web.json_response({"ok": ok, "checks": checks}, status=200 if ok else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer for Prometheus."""
        return web.Response(body=await self._view.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def status(self, _: web.Request) -> web.Response:
        """Answer as ``cdn-listener status --json`` does."""
        return web.json_response(await self._view.status())
