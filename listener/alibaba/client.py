"""
One signed call over one session, what each failure means, and when a call is made again.

====================================== ====================== ==========================
what happened                          a write (submit)       a read
====================================== ====================== ==========================
no connection: refused, DNS, TLS       Unavailable            again, then Unavailable
throttled, nonce seen                  again, then Throttled  again, then Throttled
temporary key over                     again with a new one   again with a new one
reset, time-out, 5xx, unreadable 2xx   OutcomeUnknown         again, then Unavailable
anything else                          by the table of replies
====================================== ====================== ==========================

A write is made again only where the answer says that it was surely not accepted.
"""

from __future__ import annotations

import asyncio
import io
import math
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesIOPayload
from yarl import URL

from listener.alibaba.access import KeyInUse, KeySource
from listener.alibaba.calls import ApiSettings, Request
from listener.alibaba.rates import Window
from listener.alibaba.replies import (
    CDN_HINTS,
    Hints,
    Remedy,
    ReplyError,
    classify,
    clock_skew_seconds,
    parse_failure,
    parse_object,
    rule_for,
)
from listener.alibaba.session import ApiSession, read_bounded
from listener.alibaba.signature import Credentials, canonical_query, sign_acs3, sign_v1
from listener.clock import Clock, back_off_seconds
from listener.errors import (
    ConfigurationError,
    Misconfigured,
    NotSent,
    OutcomeUnknown,
    SendingEnded,
    TargetError,
    Throttled,
    Unavailable,
)

__all__ = ["SignedClient"]

log = structlog.get_logger()

LONGEST_WAIT_SECONDS = 8.0
"""Between two tries of a call, unless the answer requests more."""
PIECE_BYTES = 64 * 1024
LARGEST_REPLY_BYTES = 32 * 1024 * 1024
"""Ten tasks of 2,000 URLs (the vendor merges up to that many) have some 26 MB at the most."""


class SignedClient:
    """Makes signed calls; keeps one session, the key in use and the skew of the clock."""

    def __init__(
        self,
        settings: ApiSettings,
        *,
        version: str,
        calls_per_second: float,
        keys: KeySource,
        clock: Clock,
        randomness: random.Random,
        make_nonce: Callable[[], str] = lambda: secrets.token_hex(16),
        left_seconds: Callable[[], float] = lambda: math.inf,
        hints: Hints = CDN_HINTS,
    ) -> None:
        """
        Keep the parts; open nothing. ``version`` is the API's.

        ``left_seconds`` returns for how long writes may be sent, ``hints`` are for errors of this service.
        """
        self.clock_skew_seconds: float | None = None
        """How far the clock here was ahead of the CDN's, by its last answer."""
        self.calls = Window(calls_per_second, 1.0)
        self._settings = settings
        self._version = version
        self._hints = hints
        self._keys = KeyInUse(keys)
        self._clock = clock
        self._random = randomness
        self._make_nonce = make_nonce
        self._left_seconds = left_seconds
        timeouts = settings.timeouts
        self._session = ApiSession(
            settings.endpoint,
            connections=timeouts.connections,
            connect_seconds=timeouts.connect_seconds,
            answer_seconds=timeouts.answer_seconds,
            accept="application/json",
        )

    async def write(self, request: Request) -> dict[str, Any]:
        """Make a call that spends quota; its first place in the call window was taken by ``admit``."""
        return await self._repeat(request, _write_may_repeat, taken=True, left_seconds=self._left_seconds)

    async def read(self, request: Request) -> dict[str, Any]:
        """Make a call that changes nothing; never raises :class:`~listener.errors.OutcomeUnknown`."""
        try:
            return await self._repeat(request, _read_may_repeat, taken=False, left_seconds=lambda: math.inf)
        except OutcomeUnknown as error:
            raise Unavailable(str(error), code=error.code, request_id=error.request_id) from error

    async def credentials(self, *, renew: bool = False) -> Credentials:
        """Return the key in use. Raise :class:`~listener.errors.Misconfigured` when there is none."""
        try:
            return await self._keys.current(renew=renew)
        except ConfigurationError as error:
            raise Misconfigured(str(error), hint=error.hint) from error

    async def close(self) -> None:
        """Close the session; safe to call twice."""
        await self._session.close()

    # -- again or not ------------------------------------------------------------------------------

    async def _repeat(
        self,
        request: Request,
        may_repeat: Callable[[TargetError], bool],
        *,
        taken: bool,
        left_seconds: Callable[[], float],
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.timeouts.retry_seconds
        renewed = False
        for tried in range(1, self._settings.timeouts.tries + 1):
            if tried > 1 or not taken:
                await self.calls.take()
            used = await self.credentials()
            try:
                return await self._call(request, used, Body(request.body, left_seconds))
            except TargetError as error:
                if _remedy(error) is Remedy.RENEW_KEY and not renewed:
                    renewed = await self.credentials(renew=True) != used  # the same one again would fail again
                    wait = 0.0 if renewed else None
                else:
                    wait = self._wait_seconds(error, tried) if may_repeat(error) else None
                if wait is None or tried == self._settings.timeouts.tries or loop.time() + wait > until:
                    raise
                log.info("target.retries", action=request.action, code=error.code, tried=tried, wait_seconds=wait)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")  # pragma: no cover

    def _wait_seconds(self, error: TargetError, tried: int) -> float:
        """Full jitter, after the wait that the response requests; a used nonce needs no wait."""
        if _remedy(error) is Remedy.RESIGN:
            return 0.0
        demanded = error.retry_after_seconds if isinstance(error, Throttled) else 0.0
        return demanded + back_off_seconds(tried, longest=LONGEST_WAIT_SECONDS, randomness=self._random)

    # -- one call ----------------------------------------------------------------------------------

    async def _call(self, request: Request, credentials: Credentials, sent: Body) -> dict[str, Any]:
        url, headers = self._signed(request, credentials)
        try:
            with self._session.failures(request.action):
                async with self._session.open().request(
                    request.method,
                    url,
                    data=sent if request.method == "POST" else None,
                    headers=headers,
                    allow_redirects=False,
                    skip_auto_headers=("Content-Type",),
                ) as response:
                    body = await read_bounded(response, LARGEST_REPLY_BYTES)
        except OutcomeUnknown as error:
            if sent.is_withheld:
                raise SendingEnded from error
            raise
        return self._outcome(response.status, response.headers, body, credentials)

    def _outcome(
        self, status: int, headers: Mapping[str, str], body: bytes, credentials: Credentials
    ) -> dict[str, Any]:
        now = self._clock.now()
        skew = clock_skew_seconds(headers.get("Date", ""), now)
        self.clock_skew_seconds = self.clock_skew_seconds if skew is None else skew
        if status == 200:
            try:
                return parse_object(body)
            except ReplyError as error:
                raise OutcomeUnknown(f"the CDN answered with HTTP 200, but {error}") from error
        self._session.require_proxy_passed(status)
        hidden = [credentials.access_key_secret, credentials.security_token or ""]
        lower = {name.lower(): value for name, value in headers.items()}
        raise classify(parse_failure(status, lower, body, now=now, secrets=hidden), self._hints)

    def _signed(self, request: Request, credentials: Credentials) -> tuple[URL, dict[str, str]]:
        version, now, nonce = self._version, self._clock.now(), self._make_nonce()
        content = {"Content-Type": request.content_type} if request.content_type else {}
        query = dict(request.query)
        if self._settings.signature == "hmac-sha1":
            query = sign_v1(
                method=request.method,
                action=request.action,
                version=version,
                query=query,
                form=request.form or {},
                credentials=credentials,
                now=now,
                nonce=nonce,
            )
            headers = content
        else:
            headers = sign_acs3(
                method=request.method,
                host=_host(self._settings.endpoint),
                action=request.action,
                version=version,
                query=query,
                body=request.body,
                content_type=request.content_type,
                credentials=credentials,
                now=now,
                nonce=nonce,
            )
        # Sent exactly as it was signed: nothing may encode it again.
        return URL(f"{self._settings.endpoint}/?{canonical_query(query)}", encoded=True), headers


class Body(BytesIOPayload):
    """
    The body of a request, handed to the socket only while sending is allowed.

    aiohttp keeps the head back until the first piece of the body, so that this step decides on both. A stream, since it
    warns of raw bytes above 1 MiB, and 1,000 long URLs get there.
    """

    def __init__(self, content: bytes, left_seconds: Callable[[], float]) -> None:
        """Take the bytes, and what returns for how long they may be sent."""
        super().__init__(io.BytesIO(content))
        self._left_seconds = left_seconds
        self.is_withheld = False
        """Whether sending was over before the last byte: the server cannot have read a whole request."""

    async def write_with_length(self, writer: AbstractStreamWriter, _content_length: int | None) -> None:
        """Write it in pieces; nothing stands between the look at the time and the call of the socket."""
        content = self._value.getvalue()
        for start in range(0, max(1, len(content)), PIECE_BYTES):
            if self._left_seconds() <= 0:
                self.is_withheld = True
                raise SendingEnded
            await writer.write(content[start : start + PIECE_BYTES])


def _remedy(error: TargetError) -> Remedy | None:
    return rule_for(0, error.code).remedy if error.code else None


def _write_may_repeat(error: TargetError) -> bool:
    # What is throttled goes back to the sender: during a wait somebody may have paused or cancelled it.
    return isinstance(error, NotSent) and _remedy(error) is Remedy.RESIGN


def _read_may_repeat(error: TargetError) -> bool:
    return isinstance(error, Unavailable | Throttled | OutcomeUnknown)


def _host(endpoint: str) -> str:
    return endpoint.partition("://")[2]
