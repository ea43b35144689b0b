"""
The webhook servers: one for each address, shared by all sources with that address while one of them runs.

::

    Servers ──address──▶ WebhookServer ──connection limiter──▶ aiohttp ──path──▶ Receiver
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Collection, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from listener.errors import ConfigurationError, SourceUnavailable
from listener.serving import ConnectionLimits, HTTPRejection, HttpServer, inherited_socket, open_sockets
from listener.serving.server import WEB_OPTIONS
from listener.sources.webhook.receiver import Receiver, rejection
from listener.sources.webhook.settings import WebhookSettings

__all__ = ["Servers", "WebhookServer", "tls_context"]

log = structlog.get_logger()

SWEEP_SECONDS: Final = 0.25
"""How often to check, while requests wait or arrive, which of them have waited too long."""
CLOSE_SECONDS: Final = 2.0
"""How long a stop waits for answers to be written."""


class _Shared(NamedTuple):
    """The settings that all sources of one address must have in common."""

    request_seconds: float
    max_connections: int
    tls_certificate: object
    tls_key: object


class WebhookServer:
    """Listens on one address, and hands each request to the receiver of its path."""

    def __init__(self, settings: WebhookSettings) -> None:
        """Keep the settings; open nothing."""
        self.listen = settings.listen
        self.shared = _shared(settings)
        self.receivers: dict[str, Receiver] = {}
        self.is_inherited = False
        self._settings = settings
        self._http: HttpServer | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._busy = asyncio.Event()

    async def start(self) -> None:
        """Listen. Raise :class:`SourceUnavailable` where the address cannot be had, and ``ConfigurationError``."""
        settings = self._settings
        self._http = HttpServer(
            web.Server(self._handle, **WEB_OPTIONS),
            ConnectionLimits(connections=settings.max_connections, head_seconds=settings.request_seconds),
            changed=self._busy.set,
            tls=await asyncio.to_thread(tls_context, settings),
        )
        self._http.start(await asyncio.to_thread(self._sockets))
        self._sweeper = asyncio.create_task(self._sweep(), name=f"webhook {self.listen}")
        log.info("webhook.listening", address=self.address, inherited=self.is_inherited)

    def _sockets(self) -> Sequence[socket.socket]:
        host, port = self._settings.address
        inherited = inherited_socket(host, port)
        self.is_inherited = inherited is not None
        if inherited is not None:
            # It listens already, with the queue length of its owner.
            return [inherited]
        try:
            return open_sockets(host, port)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise SourceUnavailable(
                f"cannot listen on {self.listen}: {why}", hint="stop what uses that address, or set another one"
            ) from error

    @property
    def address(self) -> str:
        """Where it listens, such as ``127.0.0.1:9181``; empty while it does not."""
        return self._http.address if self._http is not None else ""

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        http, receiver = self._http, self.receivers.get(request.raw_path.partition("?")[0])
        if receiver is None or http is None:
            return rejection(HTTPRejection(HTTPStatus.NOT_FOUND, "nothing is received here"))
        limiter, connection = http.limiter, request.protocol
        self._busy.set()
        limiter.busy(connection)
        try:
            return await receiver.answer(request, http.bodies, self._claim)
        except Exception as error:
            log.exception("webhook.broken", source=receiver.name, error_type=type(error).__name__)
            return rejection(HTTPRejection(HTTPStatus.INTERNAL_SERVER_ERROR, "an error in the receiver: see its log"))
        finally:
            self._busy.set()
            limiter.idle(connection)

    def has_joined(self) -> None:
        """Report the figures of the server to a receiver that was added."""
        self._busy.set()

    def _claim(self, request: web.BaseRequest, credential: str) -> bool:
        """Count the connection of a request for the credential that it proved; see ``ConnectionLimiter.claim``."""
        return self._http is None or self._http.limiter.claim(request.protocol, credential, self._sharers)

    def _sharers(self) -> Collection[str]:
        return {receiver.name for receiver in self.receivers.values() if not receiver.draining}

    async def _sweep(self) -> None:
        """Answer requests whose commit takes too long, and report figures, until cancelled; rest while none comes."""
        while True:
            self._busy.clear()
            for receiver in self.receivers.values():
                receiver.pending.sweep()
                if self._http is not None:
                    rejected = {f"turned_away_{status}": count for status, count in self._http.rejected.items()}
                    receiver.report(connections=len(self._http), **rejected)
            if not any(len(receiver.pending) for receiver in self.receivers.values()):
                await self._busy.wait()
            await asyncio.sleep(SWEEP_SECONDS)

    def stop_accepting(self) -> None:
        """
        Leave new connections to the next owner of the socket, where a service manager holds it for us.

        Otherwise go on accepting: an answer that says when to come again is better than none.
        """
        if self.is_inherited and self._http is not None:
            self._http.stop_accepting()

    async def close(self) -> None:
        """Stop listening, answer and close every connection; safe to call twice."""
        sweeper, self._sweeper = self._sweeper, None
        if self._http is not None:
            await self._http.close(seconds=CLOSE_SECONDS)
        if sweeper is not None:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper


class Servers:
    """The servers of one event loop, by address; a server is closed when its last source has left."""

    def __init__(self) -> None:
        """Hold none."""
        self._servers: dict[str, WebhookServer] = {}
        self._lock = asyncio.Lock()

    async def join(self, receiver: Receiver) -> WebhookServer:
        """
        Return the server of the receiver's address, started where need be, with the receiver at its path.

        Raises:
            ConfigurationError: the path is taken, what is shared differs, or TLS files are wrong.
            SourceUnavailable: the address or a TLS file is not available, or the sources that had it are still ending.
        """
        settings = receiver.settings
        async with self._lock:
            server = self._servers.get(settings.listen)
            if server is None:
                server = WebhookServer(settings)
                try:
                    await server.start()
                except BaseException:
                    await server.close()
                    raise
                self._servers[settings.listen] = server
            elif all(each.draining for each in server.receivers.values()):
                raise SourceUnavailable(f"what listened on {settings.listen} is still ending", hint="wait a moment")
            _check_joining(server, receiver)
            server.receivers[settings.path] = receiver
            server.has_joined()
            return server

    async def leave(self, receiver: Receiver) -> None:
        """
        Let the receiver go, and close its server once all have gone; safe to call twice.

        Until then its path answers 503: a successor may come, and a 404 would make a sender give up.
        """
        async with self._lock:
            server = self._servers.get(receiver.settings.listen)
            if server is None or receiver not in server.receivers.values():
                return
            receiver.is_gone = True
            if all(each.is_gone for each in server.receivers.values()):
                await server.close()
                del self._servers[receiver.settings.listen]

    def serves(self, listen: str) -> bool:
        """Return whether this address is served here."""
        return listen in self._servers


def _check_joining(server: WebhookServer, receiver: Receiver) -> None:
    key, settings = f"sources.{receiver.name}", receiver.settings
    other = server.receivers.get(settings.path)
    if other is not None and not other.draining:
        raise ConfigurationError(
            f"{key}.path: {settings.shown_path} on {settings.listen} is that of sources.{other.name}",
            hint="give each source a path of its own",
        )
    different = [name for name, mine in _shared(settings)._asdict().items() if mine != getattr(server.shared, name)]
    if different:
        raise ConfigurationError(
            f"{key}.{different[0]}: differs from that of another source on {settings.listen}",
            hint="sources that share an address share it, or give this one another address",
        )


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


def _shared(settings: WebhookSettings) -> _Shared:
    """Return the settings that all sources of one address must have in common."""
    return _Shared(settings.request_seconds, settings.max_connections, settings.tls_certificate, settings.tls_key)
