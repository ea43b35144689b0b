"""One call over one session, and the token that it carries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from yarl import URL

from listener.alibaba.replies import ReplyError, parse_object
from listener.alibaba.session import ApiSession, read_bounded
from listener.errors import ConfigurationError, Misconfigured, OutcomeUnknown, Unavailable
from listener.targets.cloudflare.answers import Request, error_of, parse_failure
from listener.targets.cloudflare.settings import Settings, read_token

__all__ = ["Client"]

ROOT: Final = "/client/v4"
LARGEST_REPLY_BYTES: Final = 4 * 1024 * 1024
CONNECTIONS: Final = 8
TOKEN_SECONDS: Final = 60.0
"""How long a token is used before it is read again, so that a rotated file takes effect."""


class Client:
    """Makes calls; keeps one session and the token in use."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """Keep the settings; open nothing and read no token."""
        self._settings = settings
        self._environment = environment
        self._session = ApiSession(
            settings.endpoint,
            connections=CONNECTIONS,
            connect_seconds=settings.connect_seconds,
            answer_seconds=settings.answer_seconds,
            accept="application/json",
        )
        self._token: tuple[float, str] | None = None

    async def call(self, request: Request) -> dict[str, Any]:
        """
        Return the fields of the answer.

        Raises a :class:`~listener.errors.TargetError` by what can be done about it: of a purge
        :class:`~listener.errors.OutcomeUnknown` where it may have been accepted, of a call that changes nothing
        :class:`~listener.errors.Unavailable` instead.
        """
        try:
            return await self._call(request)
        except OutcomeUnknown as error:
            if request.sent.is_purge:
                raise
            raise Unavailable(str(error)) from error

    async def close(self) -> None:
        """Close the session; safe to call twice."""
        await self._session.close()

    async def _call(self, request: Request) -> dict[str, Any]:
        token = await self._current_token()
        headers = {"Authorization": f"Bearer {token}"}
        content = None if request.body is None else json.dumps(request.body, separators=(",", ":")).encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        url = URL(self._settings.endpoint + ROOT + request.path).with_query(request.query)
        with self._session.failures(request.sent.what):
            async with self._session.open().request(
                request.method, url, data=content, headers=headers, allow_redirects=False
            ) as response:
                body = await read_bounded(response, LARGEST_REPLY_BYTES)
        self._session.require_proxy_passed(response.status)
        return self._outcome(request, response, body, token)

    def _outcome(self, request: Request, response: aiohttp.ClientResponse, body: bytes, token: str) -> dict[str, Any]:
        if response.status == HTTPStatus.OK:
            try:
                fields = parse_object(body)
            except ReplyError as error:
                raise OutcomeUnknown(f"{request.sent.what} was answered with HTTP 200, but {error}") from error
            if fields.get("success") is True:
                return fields
        if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            self._token = None  # it may have been rotated
        failure = parse_failure(response.status, response.headers, body)
        raise error_of(failure, request.sent, variable=self._settings.variable, secrets=[token])

    async def _current_token(self) -> str:
        now = asyncio.get_running_loop().time()
        if self._token is not None and now - self._token[0] < TOKEN_SECONDS:
            return self._token[1]
        try:
            token = await asyncio.to_thread(read_token, self._settings, self._environment)
        except ConfigurationError as error:
            raise Misconfigured(str(error), hint=error.hint) from error
        self._token = now, token
        return token
