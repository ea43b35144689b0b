"""
The server: one for each address, shared by all sources that name it, for as long as one of them needs it.

::

    Servers ──address──▶ Server ──door──▶ aiohttp ──path──▶ Receiver
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from listener.errors import ConfigurationError, SourceUnavailable
from listener.sources.webhook.activation import inherited_socket
from listener.sources.webhook.answers import Refused, refusal
from listener.sources.webhook.bodies import Bodies
from listener.sources.webhook.door import MAX_HEAD_BYTES, Door, DoorLimits
from listener.sources.webhook.receiver import Receiver
from listener.sources.webhook.settings import WebhookSettings

__all__ = ["Server", "Servers", "tls_context"]

log = structlog.get_logger()

BACKLOG: Final = 1024
READ_BUFFER_BYTES: Final = 16 * 1024
KEEPALIVE_SECONDS: Final = 75.0
SWEEP_SECONDS: Final = 0.25
CLOSE_SECONDS: Final = 2.0
"""What a stop waits for answers to be written."""

_SILENT = logging.getLogger("listener.sources.webhook.http")
_SILENT.disabled = True
"""aiohttp writes a stack for each malformed request; what a client can cause is counted here, and not logged."""


class _Shared(NamedTuple):
    """What all sources of one address must agree on."""

    request_seconds: float
    max_connections: int
    tls_certificate: object
    tls_key: object


class _Web(web.Server):
    """aiohttp's server, which counts its connections."""

    open = 0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.open += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self.open -= 1
        super().connection_lost(handler, exc)


class Server:
    """Listens on one address, and hands each request to the receiver of its path."""

    def __init__(self, settings: WebhookSettings) -> None:
        """Keep what is shared; open nothing."""
        self.listen = settings.listen
        self.shared = _shared(settings)
        self.receivers: dict[str, Receiver] = {}
        self.bodies = Bodies()
        self.is_inherited = False
        self._settings = settings
        self._told: dict[str, int] = {}
        self._web: _Web | None = None
        self._door: Door | None = None
        self._listening: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raise :class:`SourceUnavailable` where the address cannot be had, and ``ConfigurationError``."""
        settings = self._settings
        self._web = _Web(
            self._handle,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            read_bufsize=READ_BUFFER_BYTES,
            lingering_time=1.0,
            auto_decompress=False,
        )
        web_server = self._web
        self._door = Door(
            DoorLimits(connections=settings.max_connections, head_seconds=settings.request_seconds),
            make_handler=web_server,
            handled=lambda: web_server.open,
            let_go=self.bodies.let_go,
            tell=self._tell,
            tls=await asyncio.to_thread(tls_context, settings),
        )
        self._listening = await self._listen(self._door)
        self._sweeper = asyncio.create_task(self._sweep(), name=f"webhook {self.listen}")
        log.info("webhook.listening", address=self.address, inherited=self.is_inherited)

    async def _listen(self, door: Callable[[], asyncio.Protocol]) -> asyncio.Server:
        host, port = self._settings.address
        loop = asyncio.get_running_loop()
        inherited = await asyncio.to_thread(inherited_socket, host, port)
        self.is_inherited = inherited is not None
        try:
            if inherited is not None:
                return await loop.create_server(door, sock=inherited, backlog=BACKLOG)
            return await loop.create_server(door, host, port, backlog=BACKLOG)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise SourceUnavailable(
                f"cannot listen on {self.listen}: {why}", hint="stop what uses that address, or name another one"
            ) from error

    @property
    def address(self) -> str:
        """Where it listens, such as ``127.0.0.1:9181``; empty while it does not."""
        if self._listening is None or not self._listening.sockets:
            return ""
        host, port = self._listening.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        receiver = self.receivers.get(request.raw_path.partition("?")[0])
        if receiver is None:
            return refusal(Refused(HTTPStatus.NOT_FOUND, "nothing is received here"))
        try:
            return await receiver.answer(request, self.bodies)
        except Exception as error:
            log.exception("webhook.broken", source=receiver.name, error_type=type(error).__name__)
            return refusal(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake in the receiver: see its log"))

    def _tell(self, status: int) -> None:
        self._told[f"turned_away_{status}"] = self._told.get(f"turned_away_{status}", 0) + 1

    async def _sweep(self) -> None:
        """Turn out who is late, and tell how it goes, for ever."""
        while True:
            if self._door is not None:
                self._door.sweep()
            for receiver in self.receivers.values():
                receiver.room.sweep()
                receiver.tell_figures(connections=len(self._door or ()), **self._told)
            await asyncio.sleep(SWEEP_SECONDS)

    def stop_accepting(self) -> None:
        """
        Leave who connects from now on to the next owner of the socket, where somebody holds it for us.

        Otherwise go on listening: an answer that says when to come again is better than none.
        """
        if self.is_inherited and self._listening is not None:
            self._listening.close()

    async def close(self) -> None:
        """Stop listening, end every connection, and let go of everything; safe to call twice."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
        sweeper, self._sweeper = self._sweeper, None
        if self._door is not None:
            self._door.close()
        if self._web is not None:
            self._web.pre_shutdown()
            await self._web.shutdown(CLOSE_SECONDS)
        if sweeper is not None:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper


class Servers:
    """The servers of one event loop, by address; sources come and go, and the last one turns off the light."""

    def __init__(self) -> None:
        """Hold none."""
        self._servers: dict[str, Server] = {}
        self._lock = asyncio.Lock()

    async def join(self, receiver: Receiver) -> Server:
        """
        Return the server of the receiver's address, started where need be, with the receiver at its path.

        Raises:
            ConfigurationError: the path is taken, what is shared differs, or TLS files are wrong.
            SourceUnavailable: the address cannot be had.
        """
        settings = receiver.settings
        async with self._lock:
            server = self._servers.get(settings.listen)
            if server is None:
                server = Server(settings)
                try:
                    await server.start()
                except BaseException:
                    await server.close()
                    raise
                self._servers[settings.listen] = server
            _check_room(server, receiver)
            server.receivers[settings.path] = receiver
            return server

    async def leave(self, receiver: Receiver) -> None:
        """Take the receiver from its server, and close that where it was the last; safe to call twice."""
        settings = receiver.settings
        async with self._lock:
            server = self._servers.get(settings.listen)
            if server is None or server.receivers.get(settings.path) is not receiver:
                return
            del server.receivers[settings.path]
            if not server.receivers:
                del self._servers[settings.listen]
                await server.close()

    def serves(self, listen: str) -> bool:
        """Tell whether this address is served here."""
        return listen in self._servers


def tls_context(settings: WebhookSettings) -> ssl.SSLContext | None:
    """Return the context for the certificate, if there is one. Raise ``ConfigurationError`` where it cannot be used."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        what = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(
            f"tls_certificate, tls_key: {settings.tls_certificate} and {settings.tls_key} cannot be used: {what}",
            hint="both must be PEM files that this user can read, and belong together",
        ) from error
    return context


def _shared(settings: WebhookSettings) -> _Shared:
    return _Shared(settings.request_seconds, settings.max_connections, settings.tls_certificate, settings.tls_key)


def _check_room(server: Server, receiver: Receiver) -> None:
    key, settings = f"sources.{receiver.name}", receiver.settings
    other = server.receivers.get(settings.path)
    if other is not None:
        raise ConfigurationError(
            f"{key}.path: {settings.path} on {settings.listen} is that of sources.{other.name}",
            hint="give each source a path of its own",
        )
    different = [name for name, mine in _shared(settings)._asdict().items() if mine != getattr(server.shared, name)]
    if different:
        raise ConfigurationError(
            f"{key}.{different[0]}: differs from that of another source on {settings.listen}",
            hint="sources that share an address share it, or give this one another address",
        )
