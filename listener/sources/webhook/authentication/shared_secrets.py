"""
What every way to authenticate a request has in common, and those by a shared secret.

That is a token in a header or in each record, an HMAC; or none. Secrets are compared in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from listener.clock import Clock
from listener.formats.reading import load
from listener.serving import HTTPRejection
from listener.text import whole_number

__all__ = ["Anonymous", "Authenticated", "Authenticator", "Hmac", "OpaqueToken", "RequestHead", "Token", "check_age"]

FUTURE_SECONDS: Final = 300.0
"""How far a sender's clock may be ahead of ours, unless the window is shorter."""


class RequestHead(NamedTuple):
    """The part of a request that may prove its origin; without the Host header, which any client may choose."""

    method: str
    target: str
    """Path and query as they were sent."""
    headers: Mapping[str, str]
    """Names in any case."""
    client: str = ""
    """The address that it comes from."""


class Authenticated(NamedTuple):
    """A request whose origin is proved."""

    message_id: str = ""
    """The same at each delivery of one message; empty where two messages cannot be distinguished."""
    is_event: bool = True
    """False for a handshake, which is complete."""
    id_is_digest: bool = False
    """Whether the id is a digest of what was signed, because the sender gives no name."""
    content: bytes | None = None
    """What was signed, where that is not the whole body: nothing else is decoded."""


class Authenticator(Protocol):
    """One way to authenticate a request."""

    def matches(self, request: RequestHead) -> bool:
        """Return whether the request uses this way, rightly or wrongly."""
        ...

    def check_head(self, request: RequestHead) -> None:
        """Raise :class:`HTTPRejection` for what is wrong before the body is read."""
        ...

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:
        """Return what is proved. Raise :class:`HTTPRejection`."""
        ...


def check_age(sent_at: float | None, *, now: float, past_seconds: float) -> None:
    """Reject what was sent more than ``past_seconds`` ago, far in the future, or at an unknown time."""
    if sent_at is None:
        raise HTTPRejection(HTTPStatus.FORBIDDEN, "no readable time of sending")
    if not -min(FUTURE_SECONDS, past_seconds) <= now - sent_at <= past_seconds:
        raise HTTPRejection(HTTPStatus.FORBIDDEN, "sent too long ago, or in the future: replayed, or a wrong clock")


_BY_SECRET: Final = Authenticated()


class Token:
    """A token in a header: ``Bearer TOKEN``, ``Basic`` with the token as password, or the token alone."""

    def __init__(self, token: str, *, header: str) -> None:
        """Keep digests of the token, alone and in its usual form."""
        self.header = header
        self._usual = _digest(f"Bearer {token}".encode())
        self._digest = _digest(token.encode())

    def matches(self, request: RequestHead) -> bool:
        """Return whether the header is there."""
        return self.header in request.headers

    def check_head(self, request: RequestHead) -> None:
        """Compare the token."""
        if not self.is_right(request.headers[self.header]):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong token")

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:  # noqa: ARG002 - the head suffices
        """Accept."""
        return _BY_SECRET

    def is_right(self, value: str) -> bool:
        """Return whether a header with this value contains the token."""
        given = _digest(value.encode("utf-8", "surrogateescape"))
        if hmac.compare_digest(given, self._usual) or hmac.compare_digest(given, self._digest):
            return True
        scheme, _, rest = value.partition(" ")
        inner = {"bearer": rest.strip, "basic": lambda: _password(rest)}.get(scheme.lower(), str)()
        return hmac.compare_digest(_digest(inner.encode("utf-8", "surrogateescape")), self._digest)


class _InBody:
    """A way to authenticate that needs the body, and may be used by any request."""

    def matches(self, request: RequestHead) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def check_head(self, request: RequestHead) -> None:
        """Accept every head."""


class OpaqueToken(_InBody):
    """A token in the ``opaqueData`` of each record, as Ceph's topics repeat it."""

    def __init__(self, token: str) -> None:
        """Keep the token's digest."""
        self._digest = _digest(token.encode())

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:  # noqa: ARG002
        """Compare the token of every record: a single one may be smuggled in."""
        try:
            given = [record.get("opaqueData") for record in load(body)["Records"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            given = []
        if not given:
            raise HTTPRejection(HTTPStatus.UNAUTHORIZED, "no records with opaqueData")
        right = [hmac.compare_digest(_digest(str(one).encode("utf-8", "replace")), self._digest) for one in given]
        if not all(right):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong token")
        return _BY_SECRET


class Anonymous(_InBody):
    """Accepts every request."""

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:  # noqa: ARG002
        """Accept."""
        return _BY_SECRET


class Hmac:
    """HMAC-SHA256 with a shared secret over the body, and over the time of sending where there is a header for it."""

    def __init__(self, secret: str, *, header: str, timestamp_header: str, window_seconds: float, clock: Clock) -> None:
        """
        Keep the secret.

        Without ``timestamp_header`` no time is signed: a recorded request stays valid for ever, and only the digest of
        what was signed, remembered for a while, distinguishes it from a new one.
        """
        self._secret = secret.encode()
        self._header = header
        self._timestamp_header = timestamp_header
        self._window_seconds = window_seconds
        self._clock = clock

    def matches(self, request: RequestHead) -> bool:
        """Return whether the signature's header is there."""
        return self._header in request.headers

    def check_head(self, request: RequestHead) -> None:
        """Check the form of the signature, and the time, which the signature has to confirm."""
        if _signature(request.headers[self._header]) is None:
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "not a signature")
        if self._timestamp_header:
            sent_at = _number(request.headers.get(self._timestamp_header, ""))
            check_age(sent_at, now=self._clock.now(), past_seconds=self._window_seconds)

    async def check(self, request: RequestHead, body: bytes) -> Authenticated:
        """Compare the signature."""
        made = hmac.new(self._secret, digestmod=hashlib.sha256)
        if self._timestamp_header:
            made.update(request.headers[self._timestamp_header].encode("utf-8", "surrogateescape") + b".")
        made.update(body)
        if not hmac.compare_digest(_signature(request.headers[self._header]) or b"", made.digest()):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong signature")
        return Authenticated(f"hmac {made.hexdigest()}", id_is_digest=True)


def _digest(value: bytes) -> bytes:
    # Digests have one length, so that the comparison reveals nothing of the secret's.
    return hashlib.sha256(value).digest()


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode("utf-8", "surrogateescape").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _signature(value: str) -> bytes | None:
    """Return the 32 bytes of a header in hexadecimal digits or Base64, with or without ``sha256=``."""
    text = value.strip().removeprefix("sha256=")
    try:
        raw = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 32 else None


def _number(text: str) -> float | None:
    seconds = whole_number(text)
    return None if seconds is None else float(seconds)
