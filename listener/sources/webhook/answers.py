"""How requests are answered."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from listener.serving import HTTPRejection
from listener.serving.answers import SERVER, rejection_headers

__all__ = ["accepted", "rejection"]

_HEADERS: Final = CIMultiDict({"Server": SERVER})


def accepted() -> web.Response:
    """Return the answer to what is durable, or needs no refresh."""
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=_HEADERS)


def rejection(rejected: HTTPRejection) -> web.Response:
    """Return the answer to what is not accepted, which ends the connection: only accepted clients keep theirs."""
    headers = {**_HEADERS, **rejection_headers(rejected.status)}
    if rejected.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = "POST"
    response = web.Response(status=rejected.status, text=rejected.reason + "\n", headers=headers)
    response.force_close()
    return response
