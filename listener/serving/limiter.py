"""
The connection limiter: how many connections a port holds, and which of them are closed when it is full.

::

    accepted ─▶ pending ──whole request head──▶ handled by aiohttp: busy ◀─▶ idle ─▶ closed
                  │ too slow: 408; too large: 431; evicted: 408; no place: 503
                  ▼
               leaving ──closed by the client, or after a second──▶ closed

A connection that has not sent a whole request head costs a small buffer, no task and no parser, so that
thousands of slow clients are cheap. When all places are taken, a connection that sends nothing makes room: a
client that sends its request at once is served, however many do not. A client address that holds most places
without a credential makes room for itself only, and one credential cannot take all places where several share the port.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import takewhile
from typing import Final

from aiohttp import web

from listener.serving.descriptors import SLACK, DescriptorBudget, process_budget
from listener.serving.requests import client_of, raw_answer

__all__ = ["MAX_HEAD_BYTES", "ConnectionLimiter", "ConnectionLimits", "PendingConnection"]

LINGER_SECONDS: Final = 1.0
"""How long what a rejected client still sends is read and dropped, so that it gets to read the answer."""
MAX_LEAVING: Final = 256
"""Rejected clients that may linger at once."""
MAX_TLS_PENDING: Final = 128
"""Handshakes at once: each holds a buffer of 256 KiB."""
SWEEP_SECONDS: Final = 0.25
ONE_CLIENT: Final = 0.75
"""Part of the places beyond which a client address without a credential makes room for itself only."""

HEAD_END: Final = b"\r\n\r\n"
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEAD_LINES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many connections a port holds, and how long each may take for the head of its first request."""

    connections: int
    head_seconds: float


@dataclass(slots=True, eq=False)
class _Handled:
    """A connection that has sent a request."""

    client: str
    credential: str = ""


class ConnectionLimiter:
    """Accepts connections, a bounded number at once, and closes those that wait too long."""

    def __init__(
        self,
        limits: ConnectionLimits,
        *,
        make_handler: Callable[[], web.RequestHandler],
        release_slow_body: Callable[[str | None], bool] = lambda _: False,
        count_rejected: Callable[[int], None] = lambda _: None,
        changed: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
        budget: DescriptorBudget = process_budget,
    ) -> None:
        """
        Hold no connections.

        Args:
            limits: see there.
            make_handler: makes the handler of a connection that has sent a request head.
            release_slow_body: rejects the request, of one client address if given, that has waited longest for its
                body; returns whether there was one.
            count_rejected: called with the status of a connection that is closed before its first request.
            changed: called whenever there are more or fewer connections.
            tls: the context for TLS handshakes, if the port uses TLS.
            budget: open files that the connections are part of.
        """
        self.limits = limits
        self.tls = tls
        self._make_handler = make_handler
        self._release_slow_body = release_slow_body
        self._count_rejected = count_rejected
        self._changed = changed
        self._budget = budget
        self._share = budget.join(limits.connections)
        self._pending: dict[PendingConnection, float] = {}
        """With the time when each was accepted, by the event loop's clock."""
        self._leaving: dict[PendingConnection, float] = {}
        """With the time when each was rejected."""
        self._handled: dict[web.RequestHandler, _Handled] = {}
        self._idle: dict[web.RequestHandler, None] = {}
        self._clients: dict[str, int] = {}
        self._credentials: dict[str, int] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def __call__(self) -> PendingConnection:
        """Return the protocol of a new connection."""
        return PendingConnection(self)

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._pending) + len(self._leaving) + len(self._handled)

    @property
    def connections(self) -> int:
        """How many connections may be open, by the settings and by the open files of the process."""
        return self._share.connections

    @property
    def _most_pending(self) -> int:
        return min(self.connections, MAX_TLS_PENDING) if self.tls else self.connections

    @property
    def _is_full(self) -> bool:
        return len(self) >= self.connections or len(self._pending) >= self._most_pending

    # -- before the first request ----------------------------------------------------------------

    def admit(self, pending: PendingConnection) -> bool:
        """Give a new connection a place, taken from another one where need be; return whether there was one."""
        self._clients[pending.client] = self._clients.get(pending.client, 0) + 1
        self._start_sweeping()
        is_greedy = self._clients[pending.client] > self.connections * ONE_CLIENT
        if self._is_full and not self._make_room(pending.client if is_greedy else None):
            pending.reject(HTTPStatus.SERVICE_UNAVAILABLE)
            return False
        self._pending[pending] = _now()
        self._changed()
        return True

    def make_room(self) -> bool:
        """Close a connection that sends nothing, as when no more files can be opened; return whether there was one."""
        while self._leaving:
            self._drop(next(iter(self._leaving)))
        return self._evict(None)

    def _make_room(self, client: str | None) -> bool:
        """
        Close a connection, of one client address if that is given; return whether there was one to close.

        First those that leave anyway. Then of those that have not sent a head, those that have not sent a body and
        those that are idle, the oldest of whichever hold more than their part: a new connection has a while to send.
        """
        while self._leaving and self._is_full:
            self._drop(next(iter(self._leaving)))
        return not self._is_full or self._evict(client)

    def _evict(self, client: str | None) -> bool:
        part = min(self._most_pending, max(1, self.connections // 4))
        may_close_later = len(self) < self.connections * SLACK
        if len(self._pending) < part and may_close_later:
            if self._release_slow_body(client):
                return True
            if self._close_idle(lambda handled: client in (None, handled.client)):
                return True
        for pending in self._pending:
            if client in (None, pending.client):
                pending.reject(HTTPStatus.REQUEST_TIMEOUT)
                return True
        return may_close_later and self._close_idle(lambda handled: client in (None, handled.client))

    def hand_over(self, pending: PendingConnection, transport: asyncio.Transport, received: bytes) -> None:
        """Give the connection, with what it has sent, to the protocol that serves requests."""
        self._pending.pop(pending, None)
        handler = self._make_handler()
        self._handled[handler] = _Handled(pending.client)
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(received)

    def rejected(self, pending: PendingConnection, status: HTTPStatus) -> None:
        """Record that a connection was rejected, and let it linger."""
        self._count_rejected(status.value)
        self._pending.pop(pending, None)
        self._leaving[pending] = _now()
        self._changed()
        if len(self._leaving) > MAX_LEAVING:
            self._drop(next(iter(self._leaving)))

    def lost(self, pending: PendingConnection) -> None:
        """Record that a connection without a request is closed."""
        if (pending in self._pending) or (pending in self._leaving):
            _decrement(self._clients, pending.client)
        self._pending.pop(pending, None)
        self._leaving.pop(pending, None)
        self._changed()

    def _drop(self, pending: PendingConnection) -> None:
        pending.abort()
        self.lost(pending)

    # -- from the first request on ---------------------------------------------------------------

    def busy(self, handler: web.RequestHandler) -> None:
        """Record that a connection serves a request."""
        self._idle.pop(handler, None)

    def idle(self, handler: web.RequestHandler) -> None:
        """Record that a connection waits for the next request: it may be closed for others."""
        if handler in self._handled:
            self._idle[handler] = None

    def closed(self, handler: web.RequestHandler) -> None:
        """Record that a handled connection is closed."""
        self._idle.pop(handler, None)
        handled = self._handled.pop(handler, None)
        if handled is not None:
            self._uncount(handled)
            self._changed()

    def claim(self, handler: web.RequestHandler, credential: str, sharers: Callable[[], Collection[str]]) -> bool:
        """
        Count a connection for the credential that its request proved; return False where that holds too many.

        Each of ``sharers``, the credentials that share this port, has half of an equal part reserved, so that the
        holder of one credential cannot keep the senders of another out.
        """
        handled = self._handled.get(handler)
        if handled is None or handled.credential == credential:
            return True
        held, names = self._credentials, sharers()
        reserved = self.connections // (2 * max(1, len(names)))
        others = sum(max(held.get(name, 0), reserved) for name in names if name != credential)
        if held.get(credential, 0) >= self.connections - others and not self._close_idle(
            lambda other: other.credential == credential
        ):
            return False
        self._uncount(handled)
        handled.credential = credential
        held[credential] = held.get(credential, 0) + 1
        return True

    def _close_idle(self, is_meant: Callable[[_Handled], bool]) -> bool:
        """Close the connection that has been idle longest, of those that are meant; return whether there was one."""
        for handler in self._idle:
            if is_meant(self._handled[handler]):
                del self._idle[handler]
                handler.force_close()
                return True
        return False

    def _uncount(self, handled: _Handled) -> None:
        """Count a connection no longer: one that has proved a credential counts for that, else for its address."""
        if handled.credential:
            _decrement(self._credentials, handled.credential)
        else:
            _decrement(self._clients, handled.client)

    # -- time --------------------------------------------------------------------------------------

    def _start_sweeping(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close connections that have waited too long; both rows are in the order of their times."""
        self._sweeping = None
        now = _now()
        for pending in _overdue(self._pending, now - self.limits.head_seconds):
            pending.reject(HTTPStatus.REQUEST_TIMEOUT)
        for pending in _overdue(self._leaving, now - LINGER_SECONDS):
            self._drop(pending)
        if self._pending or self._leaving:
            self._start_sweeping()

    def close(self) -> None:
        """Reject every connection that has not sent a request, and give the open files back."""
        for pending in list(self._pending):
            pending.reject(HTTPStatus.SERVICE_UNAVAILABLE)
        for pending in list(self._leaving):
            self._drop(pending)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._budget.leave(self._share)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _decrement(counts: dict[str, int], name: str) -> None:
    left = counts.get(name, 0) - 1
    if left > 0:
        counts[name] = left
    else:
        counts.pop(name, None)


def _overdue(row: Mapping[PendingConnection, float], before: float) -> list[PendingConnection]:
    return [pending for pending, _ in takewhile(lambda entry: entry[1] <= before, row.items())]


class PendingConnection(asyncio.Protocol):
    """Collects the head of the first request, within bounds."""

    __slots__ = ("_buffer", "_handshake", "_is_rejected", "_limiter", "_raw", "_transport", "client")

    def __init__(self, limiter: ConnectionLimiter) -> None:
        """Wait for the connection."""
        self._limiter = limiter
        self._buffer = bytearray()
        self._is_rejected = False
        self._handshake: asyncio.Task[None] | None = None
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self.client = ""
        """See :func:`client_of`."""

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
        seconds = self._limiter.limits.head_seconds
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
