"""A connection that was accepted and has not sent a whole request head yet."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from http import HTTPStatus
from typing import Final, Protocol

from listener.serving.answers import raw_answer

__all__ = ["MAX_HEAD_BYTES", "PendingConnection", "client_of"]

HEAD_END: Final = b"\r\n\r\n"
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEAD_LINES: Final = 100


class Limiter(Protocol):
    """Who counts connections; see :class:`listener.serving.limiter.ConnectionLimiter`."""

    @property
    def head_seconds(self) -> float:
        """How long a request head may take to arrive."""
        ...

    @property
    def tls(self) -> ssl.SSLContext | None:
        """None where the port does not use TLS."""
        ...

    def admit(self, pending: PendingConnection) -> bool:
        """Take a connection; return whether there was room."""
        ...

    def hand_over(self, pending: PendingConnection, transport: asyncio.Transport, received: bytes) -> None:
        """Let the server take the connection, whose head is complete."""
        ...

    def rejected(self, pending: PendingConnection, status: HTTPStatus) -> None:
        """Note that the connection was answered with an error."""
        ...

    def lost(self, pending: PendingConnection) -> None:
        """Note that the connection ended."""
        ...


class PendingConnection(asyncio.Protocol):
    """Collects the head of the first request, within bounds."""

    __slots__ = ("_buffer", "_handshake", "_is_rejected", "_limiter", "_raw", "_transport", "client", "since")

    def __init__(self, limiter: Limiter) -> None:
        """Wait for the connection."""
        self._limiter = limiter
        self._buffer = bytearray()
        self._is_rejected = False
        self._handshake: asyncio.Task[None] | None = None
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self.client = ""
        """See :func:`client_of`."""
        self.since = 0.0
        """When it was accepted, or rejected, by the event loop's clock."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, and start the TLS handshake where the port uses TLS."""
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        peer = transport.get_extra_info("peername")
        self.client = client_of(peer[0]) if isinstance(peer, tuple) and peer else ""
        if self._limiter.tls is None:
            self._transport = transport
            self._limiter.admit(self)
        elif self._limiter.admit(self):
            transport.pause_reading()
            self._handshake = asyncio.get_running_loop().create_task(self._start_tls(transport, self._limiter.tls))

    async def _start_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        seconds = self._limiter.head_seconds
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=seconds
            )
        except (OSError, TimeoutError):
            transport.abort()
            self._limiter.lost(self)
            return
        self._transport = secured
        self._look_for_head()

    def data_received(self, data: bytes) -> None:
        """Collect the head."""
        if not self._is_rejected:
            self._buffer += data
            self._look_for_head()

    def _look_for_head(self) -> None:
        if self._transport is None:
            return  # the handshake has only just ended
        at = self._buffer.find(HEAD_END)
        if (at if at >= 0 else len(self._buffer)) > MAX_HEAD_BYTES or self._buffer.count(b"\n", 0, at) > MAX_HEAD_LINES:
            self.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif at >= 0 and not self._transport.is_closing():
            buffer, self._buffer = bytes(self._buffer), bytearray()
            self._limiter.hand_over(self, self._transport, buffer)

    def reject(self, status: HTTPStatus) -> None:
        """Answer, and linger for the client's end: closing at once could make the answer unreadable."""
        self._is_rejected = True
        self._buffer = bytearray()
        self._limiter.rejected(self, status)
        if self._transport is None:
            self.abort()
            return
        try:
            self._transport.write(raw_answer(status))
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()
        except OSError:
            self.abort()  # the client has gone, and the event loop does not know yet

    def abort(self) -> None:
        """Close at once."""
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.cancel()
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Give the place back."""
        self._limiter.lost(self)


def client_of(address: str) -> str:
    """Return whom an address counts for: itself for IPv4, its /64 for IPv6, which is what one customer gets."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))
