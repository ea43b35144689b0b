"""The admin port and the admin socket, each behind a connection limiter of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import structlog
from aiohttp import web

from listener.errors import ListenerError
from listener.serving import Bodies, ConnectionLimits, HttpServer, open_sockets, open_unix_socket
from listener.settings import AdminSettings, is_loopback

__all__ = ["AddressNotAvailable", "Ports"]

log = structlog.get_logger()

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
