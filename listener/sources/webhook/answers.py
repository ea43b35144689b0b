"""What is answered: the words of HTTP, and the one way to refuse a request."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

__all__ = ["RETRY_AFTER_SECONDS", "SERVER", "Refused", "accepted", "raw_answer", "refusal"]

SERVER: Final = "cdn-listener"
"""By this name ``check`` knows that what listens on an address is this product."""
RETRY_AFTER_SECONDS: Final = 5
_HEADERS: Final = CIMultiDict({"Server": SERVER})
_RETRY: Final = {"Retry-After": str(RETRY_AFTER_SECONDS)}
_RETRIED: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE})
_MORE: Final[Mapping[int, Mapping[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": 'Bearer realm="cdn-listener"'},
    HTTPStatus.METHOD_NOT_ALLOWED: {"Allow": "POST"},
    HTTPStatus.SERVICE_UNAVAILABLE: _RETRY,
}


class Refused(Exception):
    """A request is not taken: the status to answer, and a reason that gives nothing away."""

    def __init__(self, status: int, reason: str) -> None:
        """Keep both; the reason is sent to the client and never holds what the client sent."""
        super().__init__(reason)
        self.status = status
        self.reason = reason


def accepted() -> web.Response:
    """Return the answer to what is durable, or asks for nothing."""
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=_HEADERS)


def refusal(refused: Refused) -> web.Response:
    """Return the answer to what is not taken; the connection ends with it, so that only known clients keep theirs."""
    headers = {**_HEADERS, **_MORE.get(refused.status, {})}
    response = web.Response(status=refused.status, text=refused.reason + "\n", headers=headers)
    response.force_close()
    return response


def raw_answer(status: HTTPStatus) -> bytes:
    """Return a whole answer as bytes, for connections that have not got as far as a request."""
    more = "".join(f"{name}: {value}\r\n" for name, value in _MORE.get(status, {}).items())
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: {SERVER}\r\n{more}Content-Length: 0\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
