"""Answers: 204 for what is accepted, and rejections."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from listener.serving import HTTPRejection
from listener.serving.answers import SERVER, rejection_headers

__all__ = ["Accepted", "rejection"]

_HEADERS: Final = CIMultiDict({"Server": SERVER})


class _AcceptedText:
    """The whole answer to what is accepted, made once a second for its date."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def now(self) -> bytes:
        """Return the text."""
        second = int(time.time())
        if second != self._second:
            date = formatdate(second, usegmt=True)
            self._text = f"HTTP/1.1 204 No Content\r\nServer: {SERVER}\r\nDate: {date}\r\n\r\n".encode()
            self._second = second
        return self._text


_text: Final = _AcceptedText()


class Accepted(web.StreamResponse):
    """
    The answer to what is durable, or needs no refresh.

    It is always the same, so a client that keeps its connection and reads its answers gets one text instead of
    headers that aiohttp puts together: a sixth of the processor time of a request.
    """

    def __init__(self) -> None:
        """Have no body."""
        super().__init__(status=HTTPStatus.NO_CONTENT, headers=_HEADERS)
        self._is_sent = False

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection stays open."""
        return True if self._is_sent else super().keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the text where that is all that the client needs."""
        transport = request.transport
        if (
            transport is None
            or transport.is_closing()
            or transport.get_write_buffer_size()
            or request.version != HttpVersion11
            or not request.keep_alive
        ):
            return await super().prepare(request)
        transport.write(_text.now())
        self._is_sent = True
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """End the answer."""
        if not self._is_sent:
            await super().write_eof(data)


def rejection(rejected: HTTPRejection) -> web.Response:
    """Return the answer to what is not accepted, which ends the connection: only accepted clients keep theirs."""
    headers = {**_HEADERS, **rejection_headers(rejected.status)}
    if rejected.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "POST"
    response = web.Response(status=rejected.status, text=rejected.reason + "\n", headers=headers)
    response.force_close()
    return response
