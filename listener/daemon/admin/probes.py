"""The endpoints for machines."""

from __future__ import annotations

import os

from aiohttp import web

from listener.daemon.admin.authenticator import Authenticator
from listener.daemon.status_page import StatusPage

__all__ = ["Probes"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Probes:
    """``/livez``, ``/readyz``, ``/healthz``, ``/metrics`` and ``/api/status``."""

    def __init__(self, status_page: StatusPage, authenticator: Authenticator) -> None:
        """Report on this state; show reasons only to those that the authenticator admits."""
        self._status_page = status_page
        self._authenticator = authenticator

    async def livez(self, _: web.Request) -> web.Response:
        """Answer 200 while the loop runs and the store commits; otherwise a restart would help."""
        alive = self._status_page.alive
        return web.json_response({"alive": alive, "pid": os.getpid()}, status=200 if alive else 503)

    async def readyz(self, request: web.Request) -> web.Response:
        """
        Answer 200 once every source listens; show reasons, and what is degraded, only to those who may read.

        A source that listens and is degraded leaves it 200: a load balancer in front of webhooks must not cut off all
        senders because one tree cannot be read.
        """
        may_read = self._authenticator.may_read(request)
        reasons, degraded = (
            found if may_read else ["sign in to see why"] * bool(found)
            for found in (self._status_page.not_ready(), self._status_page.degraded())
        )
        answer = {"ready": not reasons, "reasons": reasons, "degraded": degraded}
        return web.json_response(answer, status=503 if reasons else 200)

    async def healthz(self, _: web.Request) -> web.Response:
        """Answer with every check and its reason."""
        found = self._status_page.health_checks()
        ok = all(check.ok for check in found)
        checks = [check._asdict() for check in found]
        return web.json_response({"ok": ok, "checks": checks}, status=200 if ok else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer for Prometheus."""
        return web.Response(body=await self._status_page.metrics(), headers={"Content-Type": METRICS_TYPE})

    async def status(self, _: web.Request) -> web.Response:
        """Answer as ``cdn-listener status --json`` does."""
        return web.json_response(await self._status_page.status())
