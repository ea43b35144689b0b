"""The server of one address: a door, aiohttp behind it, and a receiver for each path."""

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
from listener.sources.webhook.activation import inherited_socket, queue_length
from listener.sources.webhook.answers import Refused, refusal
from listener.sources.webhook.bodies import Bodies
from listener.sources.webhook.door import MAX_HEAD_BYTES, Door, DoorLimits
from listener.sources.webhook.receiver import Receiver
from listener.sources.webhook.settings import WebhookSettings

__all__ = ["Server", "Shared", "shared", "tls_context"]

log = structlog.get_logger()

BACKLOG: Final = 1024
READ_BUFFER_BYTES: Final = 16 * 1024
KEEPALIVE_SECONDS: Final = 75.0
SWEEP_SECONDS: Final = 0.25
CLOSE_SECONDS: Final = 2.0
"""What a stop waits for answers to be written."""
PASSES: Final = 3
"""Turns of the event loop until a connection that was accepted stands in the door."""

_SILENT = logging.getLogger("listener.sources.webhook.http")
_SILENT.disabled = True
"""aiohttp writes a stack for each malformed request; what a client can cause is counted here, and not logged."""


class Shared(NamedTuple):
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
        self.shared = shared(settings)
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
                return await loop.create_server(door, sock=inherited, backlog=queue_length(inherited))
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
            _accept_no_more(self._listening)

    async def close(self) -> None:
        """Stop listening, end every connection with an answer, and let go of everything; safe to call twice."""
        listening, self._listening = self._listening, None
        if listening is not None:
            _accept_no_more(listening)
            for _ in range(PASSES):
                await asyncio.sleep(0)
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


def _accept_no_more(listening: asyncio.Server) -> None:
    """Leave the queue alone, and the server open: asyncio drops whom it has just accepted when that is closed."""
    for each in listening.sockets:
        asyncio.get_running_loop().remove_reader(each.fileno())


def tls_context(settings: WebhookSettings) -> ssl.SSLContext | None:
    """
    Return the context for the certificate, if there is one. Blocking.

    Raises:
        ConfigurationError: certificate and key cannot be used.
        SourceUnavailable: a file cannot be read; whoever issues it may still be at work.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        is_wrong = isinstance(error, ssl.SSLError)
        raise (ConfigurationError if is_wrong else SourceUnavailable)(
            f"tls_certificate, tls_key: {settings.tls_certificate} and {settings.tls_key} cannot be used:"
            f" {error.reason if isinstance(error, ssl.SSLError) else error.strerror}",
            hint="both must be PEM files that this user can read, and belong together",
        ) from error
    return context


def shared(settings: WebhookSettings) -> Shared:
    """Return what all sources of one address must agree on."""
    return Shared(settings.request_seconds, settings.max_connections, settings.tls_certificate, settings.tls_key)
