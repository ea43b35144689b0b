"""
One session for the calls to one endpoint, and what a failure of the transport means for a request.

It sends what was signed as it was signed, and bounds what it reads.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import aiohttp

from listener import __version__
from listener.alibaba.replies import scrub
from listener.egress import connection_advice, proxy_arguments
from listener.errors import ConfigurationError, Misconfigured, OutcomeUnknown, Unavailable

__all__ = ["ApiSession", "open_session", "read_bounded", "words"]

IDLE_SECONDS = 4.0
"""Idle connections are closed before a server would: a write on a dying one has an unknown outcome."""


def open_session(
    endpoint: str, *, connections: int, connect_seconds: float, answer_seconds: float, accept: str
) -> aiohttp.ClientSession:
    """
    Return a session for calls to ``endpoint``, through its proxy, without cookies or compression.

    Raises :class:`~listener.errors.ConfigurationError` where the environment names a proxy that is none.
    ``connect_seconds`` bounds a connection with its name look-up and TLS, ``answer_seconds`` a whole call;
    ``accept`` is the media type to ask for.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=IDLE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=answer_seconds, connect=connect_seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "Accept": accept,
            "Accept-Encoding": "identity",
            "User-Agent": f"cdn-listener/{__version__}",
        },
        trust_env=False,  # it would also take keys from ~/.netrc
        **proxy_arguments(endpoint),
    )


async def read_bounded(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the body. Raise :class:`aiohttp.ClientPayloadError` once it has more bytes than that."""
    parts, length = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        length += len(part)
        if length > most_bytes:
            raise aiohttp.ClientPayloadError(f"the answer has more than {most_bytes} bytes")
    return b"".join(parts)


def words(error: BaseException) -> str:
    """Return a transport's error as text that may be shown: what went wrong, and not who noticed it."""
    inner = getattr(error, "os_error", None)
    if isinstance(inner, OSError) and not isinstance(inner, ssl.SSLError):
        code = inner.errno or 0
        return os.strerror(code) if code > 0 else scrub(inner.strerror or str(inner))  # name look-ups are below 0
    if text := scrub(str(error)):
        return text
    return "it took too long" if isinstance(error, TimeoutError) else type(error).__name__


class ApiSession:
    """The session of a target: opened by its first call."""

    def __init__(
        self,
        endpoint: str,
        *,
        connections: int,
        connect_seconds: float,
        answer_seconds: float,
        accept: str,
        setting: str = "endpoint",
    ) -> None:
        """Keep how to open it, as :func:`open_session` takes it; ``setting`` has the endpoint."""
        self._endpoint = endpoint
        self._setting = setting
        self._accept = accept
        self._connections = connections
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> aiohttp.ClientSession:
        """Return it. Raise :class:`~listener.errors.Misconfigured` where the environment names a proxy that is none."""
        if self._session is None:
            try:
                self._session = open_session(
                    self._endpoint,
                    connections=self._connections,
                    connect_seconds=self._connect_seconds,
                    answer_seconds=self._answer_seconds,
                    accept=self._accept,
                )
            except ConfigurationError as error:
                raise Misconfigured(str(error), hint=error.hint) from error
        return self._session

    @contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """
        Raise what the transport raises within as what it means for the request ``what``.

        :class:`~listener.errors.Unavailable`: it surely was not sent. :class:`~listener.errors.OutcomeUnknown`: it may
        have been.
        """
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
            raise self.unreachable(words(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise OutcomeUnknown(f"{what} got no answer from {self._endpoint}: {words(error)}") from error

    def require_proxy_passed(self, status: int) -> None:
        """Raise :class:`~listener.errors.Unavailable` where a proxy answered that it wants to know who asks."""
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise self.unreachable("HTTP 407 Proxy Authentication Required")

    def unreachable(self, what: str) -> Unavailable:
        """Return the error of a request that surely did not reach the service."""
        advice = connection_advice(what, self._endpoint, setting=self._setting)
        cause = f": {advice.cause}" if advice.cause else ""
        return Unavailable(f"cannot connect to {self._endpoint}{cause}: {what}", hint=advice.hint)

    async def close(self) -> None:
        """Close it; safe to call twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
