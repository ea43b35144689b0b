"""
Signed calls to one queue of MNS.

Every call can be repeated: received messages are redelivered, and deleting or releasing a message that is gone
returns an error that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar, Final, TypeVar

import aiohttp
import structlog
from yarl import URL

from listener.alibaba import KeyInUse
from listener.alibaba.replies import clock_skew_seconds, scrub
from listener.alibaba.session import open_session, read_bounded, words
from listener.alibaba.signature import Credentials, sign_mns
from listener.clock import Clock
from listener.egress import connection_advice
from listener.errors import ConfigurationError
from listener.formats.reading import Unreadable
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.wire import (
    BATCH,
    INVALID_HANDLE,
    Attributes,
    ErrorReply,
    change_visibility_resource,
    handles_body,
    messages_resource,
    read_attributes,
    read_error,
    read_handle_errors,
    read_messages,
    receive_resource,
    refused,
    unreachable,
)
from listener.sources.queue.transport import EntryFailure, Message, QueueError, Remedy

__all__ = ["MnsTransport"]

log = structlog.get_logger()
T = TypeVar("T")

LARGEST_REPLY_BYTES: Final = 8 * 1024 * 1024
"""Sixteen messages of 64 KB, if every character is escaped."""
SPARE_CONNECTIONS: Final = 4
"""For deletions, in addition to one for each poller."""
NOTABLE_SKEW_SECONDS: Final = 60.0


class MnsTransport:
    """See :class:`~listener.sources.queue.transport.Transport`; keeps one HTTP session."""

    batch: ClassVar[int] = BATCH

    def __init__(self, settings: MnsSettings, *, keys: KeyInUse, clock: Clock) -> None:
        """Keep the parts; open nothing."""
        self.clock_skew_seconds: float | None = None
        """How far this machine's clock is ahead of the service's, by its last reply."""
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._secrets: Sequence[str] = ()
        """Of the key in use; removed from messages of the service."""

    async def receive(self, *, wait_seconds: int) -> list[Message]:
        """Return up to sixteen messages. If cancelled, the queue redelivers messages whose reply was lost."""
        resource = receive_resource(self._settings.queue, BATCH, wait_seconds=wait_seconds)
        try:
            body = await self._request("GET", resource, wait_seconds=wait_seconds)
        except QueueError as error:
            if error.code == "MessageNotExist":
                return []
            raise
        skew = self.clock_skew_seconds or 0.0
        messages = _read(lambda: read_messages(body))
        return [m if m.sent_at is None else m._replace(sent_at=m.sent_at + skew) for m in messages]

    async def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        """Delete up to sixteen messages."""
        status, body = await self._send("DELETE", messages_resource(self._settings.queue), handles_body(handles))
        if 200 <= status < 300:
            return []
        try:
            failed = {error.handle: error.code for error in read_handle_errors(body)}
        except Unreadable:
            raise self._refused(status, body) from None
        return [
            EntryFailure(position, failed[handle], failed[handle] in INVALID_HANDLE)
            for position, handle in enumerate(handles)
            if handle in failed
        ]

    async def hide(self, handles: Sequence[str], *, seconds: int) -> list[EntryFailure]:
        """Hide messages, one call each, for at least one second."""
        resources = (
            change_visibility_resource(self._settings.queue, handle, seconds=max(seconds, 1)) for handle in handles
        )
        calls = (self._request("PUT", resource) for resource in resources)
        replies = await asyncio.gather(*calls, return_exceptions=True)
        failures = []
        for position, reply in enumerate(replies):
            if isinstance(reply, QueueError) and reply.code in INVALID_HANDLE:
                failures.append(EntryFailure(position, reply.code, is_final=True))
            elif isinstance(reply, BaseException):
                raise reply
        return failures

    async def attributes(self) -> Attributes:
        """Return the queue's settings and length."""
        body = await self._request("GET", f"/queues/{self._settings.queue}")
        return _read(lambda: read_attributes(body))

    async def metrics(self) -> Mapping[str, float]:
        """Return the queue's own counts, and how far this machine's clock is ahead of the service's."""
        found = await self.attributes()
        metrics = {
            "queue_messages": found.active_messages,
            "queue_hidden_messages": found.inactive_messages,
            "queue_delayed_messages": found.delayed_messages,
            "clock_skew_seconds": self.clock_skew_seconds,
        }
        return {name: round(value, 3) for name, value in metrics.items() if value is not None}

    async def renew(self) -> None:
        """Nothing to do: each call that is refused for its key reloads it."""

    async def close(self) -> None:
        """Close the session; later calls fail."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def key(self, *, renew: bool = False) -> Credentials:
        """Return the access key in use. Raise :class:`QueueError` where there is none."""
        try:
            return await self._keys.current(renew=renew)
        except ConfigurationError as error:
            raise QueueError(str(error), remedy=Remedy.OPERATOR, code="NoKey", hint=error.hint) from error

    # -- one call ----------------------------------------------------------------------------------

    async def _request(self, method: str, resource: str, *, wait_seconds: int = 0) -> bytes:
        status, body = await self._send(method, resource, wait_seconds=wait_seconds)
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise self._unreachable("HTTP 407 Proxy Authentication Required")
        if not 200 <= status < 300:
            raise self._refused(status, body)
        return body

    def _refused(self, status: int, body: bytes) -> QueueError:
        code, message, request_id = (scrub(text, self._secrets) for text in read_error(body))
        return refused(status, ErrorReply(code[:100], message, request_id[:100]), skew_seconds=self.clock_skew_seconds)

    async def _send(self, method: str, resource: str, body: bytes = b"", *, wait_seconds: int = 0) -> tuple[int, bytes]:
        """Make the call; if the key is refused and its source has another one, once more."""
        key = await self.key()
        status, reply = await self._call(method, resource, body, key, wait_seconds)
        renewing = status in {401, 403} and self._refused(status, reply).remedy is Remedy.RENEW
        if renewing and (another := await self.key(renew=True)) != key:
            status, reply = await self._call(method, resource, body, another, wait_seconds)
        return status, reply

    async def _call(
        self, method: str, resource: str, body: bytes, key: Credentials, wait_seconds: int
    ) -> tuple[int, bytes]:
        headers = sign_mns(method=method, resource=resource, body=body, credentials=key, now=self._clock.now())
        settings, self._secrets = self._settings, (key.access_key_secret, key.security_token or "")
        timeout = aiohttp.ClientTimeout(total=settings.answer_seconds + wait_seconds, connect=settings.connect_seconds)
        session = self._open()
        try:
            async with session.request(
                method,
                URL(f"{settings.endpoint}{resource}", encoded=True),  # sent exactly as it was signed
                data=body or None,
                headers=headers,
                skip_auto_headers=("Content-Type",),  # an unsigned one is refused
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                reply = await read_bounded(response, LARGEST_REPLY_BYTES)
                self._note_clock(response.headers)
                return response.status, reply
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(words(error)) from error

    def _unreachable(self, what: str) -> QueueError:
        endpoint = self._settings.endpoint
        advice = connection_advice(what, endpoint, setting="endpoint")
        cause = f": {advice.cause}" if advice.cause else ""
        return unreachable(f"no reply from {endpoint}{cause}: {what}", hint=advice.hint)

    def _note_clock(self, headers: Mapping[str, str]) -> None:
        skew = clock_skew_seconds(headers.get("Date", ""), self._clock.now())
        if skew is None:
            return
        if abs(skew) > NOTABLE_SKEW_SECONDS >= abs(self.clock_skew_seconds or 0.0):
            hint = "synchronise the clock of this machine (NTP)"
            log.warning("mns.clock_skew", endpoint=self._settings.endpoint, skew_seconds=round(skew), hint=hint)
        self.clock_skew_seconds = skew

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise QueueError("this source was stopped", remedy=Remedy.OPERATOR)
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
                raise QueueError(str(error), remedy=Remedy.OPERATOR, code="NoKey", hint=error.hint) from error
        return self._session


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except Unreadable as error:
        raise unreachable(f"the queue replied with HTTP 200, but not as MNS does: {error}") from error
