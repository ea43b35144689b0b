"""
Requests: rejections with their headers, whom a client address counts for, and bodies within bounds.

Each body is bounded in size and time, all of them together in memory.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, Self

from aiohttp import web

__all__ = ["RETRY_AFTER_SECONDS", "SERVER", "Bodies", "BodySpace", "HTTPRejection", "raw_answer", "rejection_headers"]

SERVER: Final = "cdn-listener"
"""By this name ``check`` recognizes this product on an address that is in use."""
RETRY_AFTER_SECONDS: Final = 5
_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": 'Bearer realm="cdn-listener"'},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": str(RETRY_AFTER_SECONDS)},
}

MOST_BYTES: Final = 64 * 1024 * 1024
"""What all bodies of one server hold at once, in addition to a small buffer for each connection."""


class HTTPRejection(Exception):
    """A request that is not accepted, with the status and the reason that the client gets."""

    def __init__(self, status: int, reason: str, hint: str = "", *, retry_after_seconds: int = 0) -> None:
        """Keep them; the reason is sent to the client and never holds what the client sent."""
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.hint = hint
        self.retry_after_seconds = retry_after_seconds


def rejection_headers(status: int) -> Mapping[str, str]:
    """Return the headers that belong to a status."""
    return _HEADERS.get(status, {})


def raw_answer(status: HTTPStatus) -> bytes:
    """Return a whole answer as bytes, for a connection that sent no whole request head."""
    more = "".join(f"{name}: {value}\r\n" for name, value in rejection_headers(status).items())
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: {SERVER}\r\n{more}Content-Length: 0\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def client_of(address: str) -> str:
    """Return whom an address counts for: itself for IPv4, its /64 for IPv6, which is what one customer gets."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))


class Bodies:
    """Reads bodies for one server."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        """Hold none."""
        self._left_bytes = most_bytes
        self._slow: dict[asyncio.Timeout, str] = {}

    def take(self, size_bytes: int) -> None:
        """Hold so many bytes more; refuse with 503 when all is held."""
        if size_bytes > self._left_bytes:
            raise HTTPRejection(HTTPStatus.SERVICE_UNAVAILABLE, "too much at once")
        self._left_bytes -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Hold so many bytes less."""
        self._left_bytes += size_bytes

    def release_slowest(self, client: str | None) -> bool:
        """Reject the request, of one client address if given, that has waited longest for its body; False for none."""
        for timeout, sender in self._slow.items():
            if client in (None, sender):
                del self._slow[timeout]
                timeout.reschedule(asyncio.get_running_loop().time())
                return True
        return False

    async def rest(self, request: web.BaseRequest, space: BodySpace, *, limit_bytes: int, seconds: float) -> bytes:
        """Return the body as it comes in, or refuse: too large with 413, too slow with 408, broken with 400."""
        parts: list[bytes] = []
        timeout = asyncio.timeout(seconds)
        self._slow[timeout] = client_of(request.remote or "")
        try:
            async with timeout:
                while part := await request.content.readany():
                    space.grow(len(part), limit_bytes)
                    parts.append(part)
        except TimeoutError:
            _expect_no_more(request)
            raise HTTPRejection(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from None
        except (web.RequestPayloadError, ConnectionError, ValueError):
            raise HTTPRejection(HTTPStatus.BAD_REQUEST, "the body is broken") from None
        finally:
            self._slow.pop(timeout, None)
        return b"".join(parts)


class BodySpace:
    """What one body holds, until the end of a ``with`` block."""

    __slots__ = ("_bodies", "held_bytes")

    def __init__(self, bodies: Bodies) -> None:
        """Hold nothing."""
        self._bodies = bodies
        self.held_bytes = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back what is held."""
        self._bodies.give_back(self.held_bytes)

    def grow(self, size_bytes: int, limit_bytes: int) -> None:
        """Hold so many bytes more, within the limit of one body."""
        if self.held_bytes + size_bytes > limit_bytes:
            raise HTTPRejection(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {limit_bytes} bytes")
        self._bodies.take(size_bytes)
        self.held_bytes += size_bytes

    async def read(self, request: web.BaseRequest, *, limit_bytes: int, seconds: float) -> bytes:
        """Return the request's body; raise as :meth:`Bodies.rest` does."""
        stated = request.content_length
        if stated is not None and stated > limit_bytes:
            raise HTTPRejection(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {limit_bytes} bytes")
        content = request.content
        if content.is_eof():
            body = content.read_nowait()
            self.grow(len(body), limit_bytes)
            return body
        if "Expect" in request.headers and isinstance(request.transport, asyncio.WriteTransport):
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self._bodies.rest(request, self, limit_bytes=limit_bytes, seconds=seconds)


def _expect_no_more(request: web.BaseRequest) -> None:
    """Spare the connection the time in which aiohttp would wait for the rest: its place is wanted."""
    if request.transport is not None:
        request.transport.pause_reading()
        request.content.feed_eof()
