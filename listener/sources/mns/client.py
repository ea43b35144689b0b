"""
One signed call over one session: receive, delete, release, and what a queue says of itself.

Every call may be made again: receiving hides messages that come back by themselves, and deleting or
releasing what is gone is answered with an error that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
from yarl import URL

from listener.alibaba import KeyInUse
from listener.alibaba.replies import clock_skew_seconds, scrub
from listener.alibaba.sessions import open_session, read_bounded, words
from listener.alibaba.signature import Credentials, sign_mns
from listener.clock import Clock
from listener.egress import connection_advice
from listener.errors import ConfigurationError
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.trouble import MnsTrouble, Remedy, refused, unkeyed, unreachable
from listener.sources.mns.wire import (
    Attributes,
    Failure,
    Message,
    WireError,
    handles_body,
    messages_of,
    read_attributes,
    read_failure,
    read_handle,
    read_handle_errors,
    read_messages,
    receiving,
    visibility,
)

__all__ = ["QueueClient"]

T = TypeVar("T")

LARGEST_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Sixteen messages of 64 KB, were every character of them escaped."""
SPARE_CONNECTIONS: Final = 4
"""For deletions, beside one a poller."""


class QueueClient:
    """Makes signed calls to one queue; keeps one session, the key in use and the skew of the clock."""

    def __init__(self, settings: MnsSettings, *, keys: KeyInUse, clock: Clock) -> None:
        """Keep the parts; open nothing."""
        self.clock_skew_seconds: float | None = None
        """How far the clock here was ahead of the service's, by its last answer."""
        self.keys = keys
        self._settings = settings
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._hidden: Sequence[str] = ()
        """Secrets of the key in use, which no message repeats."""

    async def receive(self, count: int, *, wait_seconds: int) -> list[Message]:
        """Return messages as soon as there are any, or none after so long."""
        resource = receiving(self._settings.queue, count, wait_seconds=wait_seconds)
        try:
            body = await self._ask("GET", resource, wait_seconds=wait_seconds)
        except MnsTrouble as trouble:
            if trouble.code == "MessageNotExist":
                return []
            raise
        return _read(lambda: read_messages(body))

    async def delete(self, handles: Sequence[str]) -> dict[str, str]:
        """Delete messages, at most a batch; return the handles for which that failed, each with the reason's code."""
        status, body = await self._send("DELETE", messages_of(self._settings.queue), handles_body(handles))
        if 200 <= status < 300:
            return {}
        try:
            return {error.handle: error.code for error in read_handle_errors(body)}
        except WireError:
            raise self._refused(status, body) from None

    async def release(self, handle: str, *, seconds: int = 1) -> str:
        """Let others see a message after so many seconds, at least one; return the handle that it has now."""
        body = await self._ask("PUT", visibility(self._settings.queue, handle, seconds=seconds))
        return _read(lambda: read_handle(body))

    async def attributes(self) -> Attributes:
        """Return what the queue says of itself."""
        body = await self._ask("GET", f"/queues/{self._settings.queue}")
        return _read(lambda: read_attributes(body))

    async def close(self) -> None:
        """Close the session; safe to call twice, and a later call opens another."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # -- one call ----------------------------------------------------------------------------------

    async def _ask(self, method: str, resource: str, *, wait_seconds: int = 0) -> bytes:
        status, body = await self._send(method, resource, wait_seconds=wait_seconds)
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise self._unreachable("HTTP 407 Proxy Authentication Required")
        if not 200 <= status < 300:
            raise self._refused(status, body)
        return body

    def _refused(self, status: int, body: bytes) -> MnsTrouble:
        told = [scrub(text, self._hidden) for text in read_failure(body)]
        failure = Failure(told[0][:100], told[1], told[2][:100])
        return refused(status, failure, skew_seconds=self.clock_skew_seconds)

    async def _send(self, method: str, resource: str, body: bytes = b"", *, wait_seconds: int = 0) -> tuple[int, bytes]:
        """Make the call, once more where another key may help."""
        key = await self.key()
        status, answer = await self._call(method, resource, body, key, wait_seconds)
        renewing = status in {401, 403} and self._refused(status, answer).remedy is Remedy.RENEW
        if renewing and (another := await self.key(renew=True)) != key:
            status, answer = await self._call(method, resource, body, another, wait_seconds)
        return status, answer

    async def key(self, *, renew: bool = False) -> Credentials:
        """Return the access key in use. Raise :class:`MnsTrouble` when there is none."""
        try:
            return await self.keys.current(renew=renew)
        except ConfigurationError as error:
            raise unkeyed(str(error), error.hint) from error

    async def _call(
        self, method: str, resource: str, body: bytes, key: Credentials, wait_seconds: int
    ) -> tuple[int, bytes]:
        headers = sign_mns(method=method, resource=resource, body=body, credentials=key, now=self._clock.now())
        settings, self._hidden = self._settings, (key.access_key_secret, key.security_token or "")
        patience = aiohttp.ClientTimeout(total=settings.answer_seconds + wait_seconds, connect=settings.connect_seconds)
        session = self._open()
        try:
            async with session.request(
                method,
                # Sent exactly as it was signed: nothing may encode it again.
                URL(f"{settings.endpoint}{resource}", encoded=True),
                data=body or None,
                headers=headers,
                skip_auto_headers=("Content-Type",),  # one that is not signed is refused
                allow_redirects=False,
                timeout=patience,
            ) as response:
                answer = await read_bounded(response, LARGEST_ANSWER_BYTES)
                self._note_clock(response.headers)
                return response.status, answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(words(error)) from error

    def _unreachable(self, what: str) -> MnsTrouble:
        endpoint = self._settings.endpoint
        advice = connection_advice(what, endpoint, setting="endpoint")
        cause = f": {advice.cause}" if advice.cause else ""
        return unreachable(f"no answer from {endpoint}{cause}: {what}", hint=advice.hint)

    def _note_clock(self, headers: Mapping[str, str]) -> None:
        skew = clock_skew_seconds(headers.get("Date", ""), self._clock.now())
        self.clock_skew_seconds = self.clock_skew_seconds if skew is None else skew

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings = self._settings
            try:
                self._session = open_session(
                    settings.endpoint,
                    connections=settings.pollers + SPARE_CONNECTIONS,
                    connect_seconds=settings.connect_seconds,
                    answer_seconds=settings.answer_seconds,
                    accept="text/xml",
                )
            except ConfigurationError as error:
                raise unkeyed(str(error), error.hint) from error
        return self._session


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except WireError as error:
        raise unreachable(f"the queue answered with HTTP 200, but {error}") from error
