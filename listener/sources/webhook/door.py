"""
The door: who may come in, and for how long somebody may stand in it without saying what they want.

::

    connected ─▶ waiting ──whole head──▶ handed to aiohttp ─▶ gone
                   │ too slow: 408; too much: 431; turned out for a newcomer: 408; no room at all: 503
                   ▼
                leaving ──their end, or a second──▶ gone

A connection that has not sent a whole request head costs a small buffer, no task and no parser, so that
thousands of slow clients are cheap. When all places are taken, whoever has waited longest for nothing
makes room: a client that sends its request at once gets in, however many do not. Later requests on a
connection are aiohttp's business; only clients whose request was accepted come so far.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from listener.sources.webhook.answers import raw_answer

__all__ = ["Door", "DoorLimits", "Visitor"]

HEAD_END: Final = b"\r\n\r\n"
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_HEAD_LINES: Final = 100
LINGER_SECONDS: Final = 1.0
"""How long what a refused client still sends is read and dropped, so that it gets to read the answer."""
MAX_LEAVING: Final = 256
"""Refused clients that may linger at once."""
MOST_LEAVING: Final = 1.25
"""Connections, in parts of the bound, while clients that were slow with their bodies are on their way out."""
MAX_TLS_WAITING: Final = 128
"""Handshakes at once: each holds a buffer of 256 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """How many may come in, and how long they may take for the head of their first request."""

    connections: int
    head_seconds: float


class Visitor(asyncio.Protocol):
    """A connection that has not sent a whole request head yet."""

    __slots__ = ("_buffer", "_door", "_handshake", "_raw", "_refused", "_transport", "since")

    def __init__(self, door: Door) -> None:
        """Stand outside."""
        self._door = door
        self._buffer = bytearray()
        self._refused = False
        self._handshake: asyncio.Task[None] | None = None
        self._raw: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Come in, by a handshake where the door has a lock."""
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        if self._door.tls is None:
            self._transport = transport
            self._door.came(self)
        elif self._door.came(self):
            transport.pause_reading()
            self._handshake = asyncio.get_running_loop().create_task(self._start_tls(transport, self._door.tls))

    async def _start_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        seconds = self._door.limits.head_seconds
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=seconds
            )
        except (OSError, TimeoutError):
            transport.abort()
            self._door.left(self)
            return
        self._transport = secured
        self._look()

    def data_received(self, data: bytes) -> None:
        """Gather the head."""
        if not self._refused:
            self._buffer += data
            self._look()

    def _look(self) -> None:
        if self._transport is None:
            return  # the handshake is just over
        at = self._buffer.find(HEAD_END)
        if (at if at >= 0 else len(self._buffer)) > MAX_HEAD_BYTES or self._buffer.count(b"\n", 0, at) > MAX_HEAD_LINES:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif at >= 0 and not self._transport.is_closing():
            buffer, self._buffer = bytes(self._buffer), bytearray()
            self._door.hand_over(self, self._transport, buffer)

    def refuse(self, status: HTTPStatus) -> None:
        """Say why, and wait a moment for the other side's end: an early end of ours could undo the answer."""
        self._refused = True
        self._buffer = bytearray()
        self._door.turned_away(self, status)
        if self._transport is None:
            self.abort()
            return
        self._transport.write(raw_answer(status))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.cancel()
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Be gone."""
        self._door.left(self)


class Door:
    """Lets visitors in, a bounded number at once, and turns out who waits too long."""

    def __init__(
        self,
        limits: DoorLimits,
        *,
        make_handler: Callable[[], asyncio.Protocol],
        handled: Callable[[], int],
        let_go: Callable[[], bool],
        tell: Callable[[int], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Stand open.

        Args:
            limits: see there.
            make_handler: makes the protocol that a connection is handed to.
            handled: tells how many of these live.
            let_go: ends the one of them that has waited longest for the rest of a body; tells whether there was one.
            tell: is told the status that a connection got which came to no request.
            tls: the key to the door, if it has a lock.
        """
        self.limits = limits
        self.tls = tls
        self._make_handler = make_handler
        self._handled = handled
        self._let_go = let_go
        self._tell = tell
        self._waiting: dict[Visitor, None] = {}
        self._leaving: dict[Visitor, None] = {}
        self._most_waiting = min(limits.connections, MAX_TLS_WAITING) if tls else limits.connections

    def __call__(self) -> Visitor:
        """Return the protocol of a new connection."""
        return Visitor(self)

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self._waiting) + len(self._leaving) + self._handled()

    def came(self, visitor: Visitor) -> bool:
        """Let a visitor in; somebody else may have to go. Return whether there was room."""
        visitor.since = _now()
        if self._is_full and not self._make_room():
            visitor.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return False
        self._waiting[visitor] = None
        return True

    @property
    def _is_full(self) -> bool:
        return len(self) >= self.limits.connections or len(self._waiting) >= self._most_waiting

    def _make_room(self) -> bool:
        """
        Send somebody away; return whether there was anybody.

        First who is leaving anyway. Then of those who have not asked and those who have not sent their body,
        the oldest of whichever hold more than their share: so a newcomer has a while to say what it wants.
        """
        while self._leaving and self._is_full:
            self._drop(next(iter(self._leaving)))
        if not self._is_full:
            return True
        share = min(self._most_waiting, max(1, self.limits.connections // 4))
        may_let_go = len(self) < self.limits.connections * MOST_LEAVING
        if len(self._waiting) < share and may_let_go and self._let_go():
            return True
        if self._waiting:
            next(iter(self._waiting)).refuse(HTTPStatus.REQUEST_TIMEOUT)
            return True
        return False

    def hand_over(self, visitor: Visitor, transport: asyncio.Transport, received: bytes) -> None:
        """Give the connection, with what it has sent, to the protocol that understands it."""
        self._waiting.pop(visitor, None)
        handler = self._make_handler()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(received)

    def turned_away(self, visitor: Visitor, status: HTTPStatus) -> None:
        """Note that a visitor was refused."""
        self._tell(status.value)
        self._waiting.pop(visitor, None)
        visitor.since = _now()
        self._leaving[visitor] = None
        if len(self._leaving) > MAX_LEAVING:
            self._drop(next(iter(self._leaving)))

    def left(self, visitor: Visitor) -> None:
        """Note that a visitor is gone."""
        self._waiting.pop(visitor, None)
        self._leaving.pop(visitor, None)

    def sweep(self) -> None:
        """Turn out who has waited too long; both rows are in the order of their times."""
        now = _now()
        for visitor in _overdue(self._waiting, now - self.limits.head_seconds):
            visitor.refuse(HTTPStatus.REQUEST_TIMEOUT)
        for visitor in _overdue(self._leaving, now - LINGER_SECONDS):
            self._drop(visitor)

    def _drop(self, visitor: Visitor) -> None:
        visitor.abort()
        self.left(visitor)

    def close(self) -> None:
        """Turn everybody out."""
        for visitor in list(self._waiting):
            visitor.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        for visitor in list(self._leaving):
            visitor.abort()
        self._leaving.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _overdue(row: dict[Visitor, None], before: float) -> list[Visitor]:
    found = []
    for visitor in row:
        if visitor.since > before:
            break
        found.append(visitor)
    return found
