"""The port: opened, laid out, closed; and what every answer has in common."""

from __future__ import annotations

import errno
import os
import socket

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from listener.daemon.admin.guard import Guard, Refused
from listener.daemon.admin.pages import Pages
from listener.daemon.admin.probes import Probes
from listener.daemon.admin.rendering import wants_html
from listener.daemon.view import View
from listener.errors import ListenerError
from listener.settings import Admin

__all__ = ["AddressNotAvailable", "AdminServer"]

log = structlog.get_logger()

SHUTDOWN_SECONDS = 1.0
SOCKET_MODE = 0o660
"""For the user and the group of the daemon; its directory says who else may come near."""
MOST_BODY_BYTES = 64 * 1024
OPEN_PATHS = frozenset({"/livez", "/readyz"})
"""For probes that have no token and call by any name; they tell nothing but yes or no."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""The policy of whatever is no page."""


class AddressNotAvailable(ListenerError):
    """The admin address is none of this machine's, or its name is not known, at present."""


class AdminServer:
    """One open port."""

    def __init__(self, settings: Admin, view: View) -> None:
        """Take where to listen and what to show; an empty address serves nothing."""
        self.settings = settings
        self._guard = Guard(settings)
        self._pages = Pages(view, self._guard)
        self._probes = Probes(view, self._guard)
        self._runner: web.AppRunner | None = None

    def follow(self, settings: Admin) -> None:
        """Go on at the same address with another token or other names; every session ends."""
        self.settings = settings
        self._guard.follow(settings)
        self._pages.live.let_go()

    async def start(self) -> None:
        """Listen. Raise :class:`~listener.errors.ListenerError` when that is not possible."""
        if not self.settings.listen and not self.settings.socket:
            return
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            handler_cancellation=True,  # a watcher who left makes room at once
        )
        await self._runner.setup()
        if self.settings.listen:
            await self._listen_on_port(self._runner)
        if self.settings.socket:
            await self._listen_on_socket(self._runner)

    async def _listen_on_port(self, runner: web.AppRunner) -> None:
        host, _, port = self.settings.listen.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            await self.close()
            may_come = error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror)
            is_plain = error.errno and not isinstance(error, socket.gaierror)
            reason = os.strerror(error.errno or 0) if is_plain else error.strerror or error
            raise (AddressNotAvailable if may_come else ListenerError)(
                f"admin.listen: cannot listen on {self.settings.listen}: {reason}",
                hint='stop what uses that address, name another one, or turn the port off: listen = ""',
            ) from error

    async def _listen_on_socket(self, runner: web.AppRunner) -> None:
        path = self.settings.socket
        try:
            await web.UnixSite(runner, path).start()
            os.chmod(path, SOCKET_MODE)  # noqa: PTH101 - one call
        except OSError as error:
            await self.close()
            reason = os.strerror(error.errno) if error.errno else error
            raise ListenerError(
                f"admin.socket: cannot listen on {path}: {reason}",
                hint="its directory must exist and be writable for the daemon; or name another path",
            ) from error

    def _application(self) -> web.Application:
        probes, pages = self._probes, self._pages
        application = web.Application(middlewares=[self._errors, self._let_in], client_max_size=MOST_BODY_BYTES)
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
            await self._pages.live.end()
            await runner.cleanup()

    @property
    def address(self) -> str:
        """Where it listens, such as ``127.0.0.1:9180``, or else its socket; empty while it does not."""
        if self._runner is None or not self._runner.addresses:
            return ""
        first = self._runner.addresses[0]
        return first if isinstance(first, str) else f"{first[0]}:{first[1]}"

    @web.middleware
    async def _let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through who may: the page and the sign-in ask by themselves."""
        if request.path in OPEN_PATHS:
            return await handler(request)
        self._guard.check_host(request)
        if request.method in ("GET", "HEAD") and request.path != "/" and not self._guard.may_read(request):
            raise Refused(401, "this needs the token", "send it as Authorization: Bearer TOKEN")
        return await handler(request)

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer an expected error as one: the state file may fail while the port still works."""
        try:
            return await handler(request)
        except Refused as refused:
            log.warning(
                "admin.refused", path=request.path, status=refused.status, reason=str(refused), peer=request.remote
            )
            return self._told(request, refused.status, str(refused), refused.hint)
        except ListenerError as error:
            status = 400 if error.exit_status == 2 else 503
            return self._told(request, status, str(error), error.hint)

    def _told(self, request: web.Request, status: int, message: str, hint: str) -> web.Response:
        if wants_html(request):
            return self._pages.problem(status, message, hint)
        headers = {"WWW-Authenticate": 'Bearer realm="cdn-listener"'} if status == 401 else {}
        return web.json_response({"error": message, "hint": hint}, status=status, headers=headers)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", NOTHING)
