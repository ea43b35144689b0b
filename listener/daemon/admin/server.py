"""
The admin server: its port and socket, its paths, its answers to probes, and what all answers have in common.

Port and socket have a connection limiter each.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qsl

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from listener.daemon.admin.authenticator import Authenticator
from listener.daemon.admin.pages import Pages
from listener.daemon.admin.rendering import wants_html
from listener.daemon.status_page import StatusPage
from listener.errors import ListenerError
from listener.serving import (
    Bodies,
    BodySpace,
    ConnectionLimits,
    HTTPRejection,
    HttpServer,
    open_sockets,
    open_unix_socket,
)
from listener.serving.server import WEB_OPTIONS
from listener.settings import AdminSettings, is_loopback

__all__ = ["AddressNotAvailable", "AdminServer", "Ports", "Probes"]

log = structlog.get_logger()

SHUTDOWN_SECONDS = 1.0
MOST_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
MOST_FIELDS = 16
OPEN_PATHS = frozenset({"/livez", "/readyz"})
"""For probes, which have no token and use any host name; they reveal only yes or no."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""The policy of everything that is not a page."""


class AdminServer:
    """One admin server on a port, a socket, or both."""

    def __init__(self, settings: AdminSettings, status_page: StatusPage) -> None:
        """Prepare to serve this page; an empty address and socket serve nothing."""
        self.settings = settings
        self._authenticator = Authenticator(settings)
        self._pages = Pages(status_page, self._authenticator, self._read_form)
        self._probes = Probes(status_page, self._authenticator)
        self._runner: web.AppRunner | None = None
        self._ports: Ports | None = None
        self._bodies = Bodies()

    def follow(self, settings: AdminSettings) -> None:
        """Use another token or other host names at the same address; every session ends."""
        self.settings = settings
        self._authenticator.follow(settings)
        self._pages.live.disconnect_all()

    async def start(self) -> None:
        """Listen. Raise :class:`~listener.errors.ListenerError` when that is not possible."""
        if not self.settings.listen and not self.settings.socket:
            return
        self._runner = web.AppRunner(
            self._application(),
            handler_cancellation=True,  # a watcher that left frees its connection at once
            **WEB_OPTIONS,
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        self._ports = Ports(server, self._bodies)
        try:
            await self._ports.open(self.settings)
        except ListenerError:
            await self.close()
            raise

    def _application(self) -> web.Application:
        probes, pages = self._probes, self._pages
        application = web.Application(middlewares=[self._tracked, self._errors, self._require_token])
        application.on_response_prepare.append(_add_headers)
        application.add_routes(
            [
                web.get("/livez", probes.livez),
                web.get("/readyz", probes.readyz),
                web.get("/healthz", probes.healthz),
                web.get("/metrics", probes.metrics),
                web.get("/api/status", probes.status),
                web.get("/", pages.page),
                web.get("/events", pages.events, allow_head=False),
                web.post("/sign-in", pages.sign_in),
                web.post("/sign-out", pages.sign_out),
                web.post("/{decision:retry|discard|refresh}", pages.decide),
            ]
        )
        return application

    async def close(self) -> None:
        """Stop listening; safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await self._pages.live.close()
        if self._ports is not None:
            await self._ports.close(seconds=SHUTDOWN_SECONDS)
        if runner is not None:
            await runner.cleanup()

    @property
    def address(self) -> str:
        """The address, such as ``127.0.0.1:9180``, or else the socket; empty while nothing is open."""
        return self._ports.address if self._ports is not None else ""

    async def _read_form(self, request: web.Request) -> Mapping[str, str]:
        """Return the fields of a form, the last of each name. Raise :class:`HTTPRejection` beyond size or time."""
        with BodySpace(self._bodies) as space:
            body = await space.read(request, limit_bytes=MOST_BODY_BYTES, seconds=BODY_SECONDS)
        try:
            return dict(parse_qsl(body.decode("utf-8", "surrogateescape"), max_num_fields=MOST_FIELDS))
        except ValueError:
            raise HTTPRejection(400, "the body is not a form") from None

    @web.middleware
    async def _tracked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Report to the connection limiters when a connection is busy and when it is idle."""
        if self._ports is None:
            return await handler(request)
        with self._ports.serving(request):
            return await handler(request)

    @web.middleware
    async def _require_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Require the token, except for probes; the page and the sign-in check it themselves."""
        if request.path in OPEN_PATHS:
            return await handler(request)
        self._authenticator.check_host(request)
        if request.method in ("GET", "HEAD") and request.path != "/" and not self._authenticator.may_read(request):
            raise HTTPRejection(401, "the token is required", "send it as Authorization: Bearer TOKEN")
        return await handler(request)

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer expected errors with their status: the state file may fail while the port still works."""
        try:
            return await handler(request)
        except HTTPRejection as rejected:
            log.warning(
                "admin.refused", path=request.path, status=rejected.status, reason=str(rejected), peer=request.remote
            )
            response = self._error_answer(request, rejected.status, str(rejected), rejected.hint)
            response.force_close()  # what was rejected may have left its body unread
            if rejected.retry_after_seconds:
                response.headers["Retry-After"] = str(rejected.retry_after_seconds)
            return response
        except web.HTTPException:
            raise
        except ListenerError as error:
            status = 400 if error.exit_status == 2 else 503
            return self._error_answer(request, status, str(error), error.hint)
        except Exception as error:
            log.exception("admin.broken", path=request.path, error_type=type(error).__name__)
            return self._error_answer(request, 500, "an error in the status page", "see the log")

    def _error_answer(self, request: web.Request, status: int, message: str, hint: str) -> web.Response:
        if wants_html(request):
            return self._pages.problem(status, message, hint)
        headers = {"WWW-Authenticate": 'Bearer realm="cdn-listener"'} if status == 401 else {}
        return web.json_response({"error": message, "hint": hint}, status=status, headers=headers)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", NOTHING)


PORT_LIMITS: Final = ConnectionLimits(connections=128, head_seconds=10.0)
"""32 watchers, probes, scrapers and people, each with a few connections."""
SOCKET_LIMITS: Final = ConnectionLimits(connections=32, head_seconds=10.0)
"""For commands on this machine: a flood of the port does not affect them."""
SOCKET_MODE: Final = 0o660
"""For the user and the group of the daemon; its directory restricts access further."""


class AddressNotAvailable(ListenerError):
    """This machine does not have the admin address, or cannot resolve its name, at present."""


class Ports:
    """What one admin server listens on."""

    def __init__(self, server: web.Server, bodies: Bodies) -> None:
        """Serve requests with ``server``; open nothing yet."""
        self._server = server
        self._bodies = bodies
        self._opened: list[HttpServer] = []

    async def open(self, settings: AdminSettings) -> None:
        """Listen as the settings say. Raise :class:`ListenerError` where that is not possible."""
        if settings.listen:
            _warn_if_open(settings)
            host, _, port = settings.listen.rpartition(":")
            try:
                await self._listen(PORT_LIMITS, lambda: open_sockets(host.strip("[]"), int(port)))
            except OSError as error:
                may_come = error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror)
                is_plain = error.errno and not isinstance(error, socket.gaierror)
                reason = os.strerror(error.errno or 0) if is_plain else error.strerror or error
                raise (AddressNotAvailable if may_come else ListenerError)(
                    f"admin.listen: cannot listen on {settings.listen}: {reason}",
                    hint='stop what uses that address, name another one, or turn the port off: listen = ""',
                ) from error
        if settings.socket:
            try:
                await self._listen(SOCKET_LIMITS, lambda: [open_unix_socket(settings.socket, SOCKET_MODE)])
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else error
                raise ListenerError(
                    f"admin.socket: cannot listen on {settings.socket}: {reason}",
                    hint="its directory must exist and be writable for the daemon; or name another path",
                ) from error

    async def _listen(self, limits: ConnectionLimits, make: Callable[[], Sequence[socket.socket]]) -> None:
        sockets = await asyncio.to_thread(make)
        self._opened.append(HttpServer(self._server, limits, bodies=self._bodies))
        self._opened[-1].start(sockets)

    @property
    def address(self) -> str:
        """The first address; empty when nothing is open."""
        return self._opened[0].address if self._opened else ""

    @contextmanager
    def serving(self, request: web.BaseRequest) -> Iterator[None]:
        """Count the connection as busy while its request is served."""
        for each in self._opened:
            each.limiter.busy(request.protocol)
        try:
            yield
        finally:
            for each in self._opened:
                each.limiter.idle(request.protocol)

    async def close(self, *, seconds: float) -> None:
        """Close everything; safe to call twice."""
        while self._opened:
            await self._opened.pop().close(seconds=seconds)


def _warn_if_open(settings: AdminSettings) -> None:
    if settings.token is None and not is_loopback(settings.listen):
        log.warning(
            "admin.unauthenticated",
            address=settings.listen,
            hint="any client that can reach this port reads everything: set LISTENER_ADMIN__TOKEN_FILE",
        )


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
