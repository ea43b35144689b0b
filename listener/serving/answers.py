"""Rejections, and answers to connections that never became a request."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

__all__ = ["RETRY_AFTER_SECONDS", "SERVER", "HTTPRejection", "raw_answer", "rejection_headers"]

SERVER: Final = "cdn-listener"
"""By this name ``check`` recognizes this product on an address that is in use."""
RETRY_AFTER_SECONDS: Final = 5
_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": 'Bearer realm="cdn-listener"'},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": str(RETRY_AFTER_SECONDS)},
}


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
