"""
Guards: each knows one way in which a request proves where it comes from.

The first guard that finds its own mark on a request judges it, at the head where it can: who has no
business here does not get to send a body. Whatever is compared with a secret is compared in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

from listener.formats.reading import load
from listener.numbers import whole_number
from listener.serving import HTTPRejection

__all__ = ["Anonymous", "Authenticated", "Guard", "Hmac", "OpaqueToken", "Request", "Token", "check_age"]


class Request(NamedTuple):
    """What of a request may prove something; the Host header is none of it, since any client may choose it."""

    method: str
    target: str
    """Path and query as they were sent."""
    headers: Mapping[str, str]
    """Names in any case."""
    client: str = ""
    """The address that it comes from."""


class Authenticated(NamedTuple):
    """A request that has proved where it comes from."""

    message_id: str = ""
    """The same at each delivery of one message; empty where nothing tells two messages apart."""
    is_event: bool = True
    """False for a handshake, which was dealt with."""
    id_is_digest: bool = False
    """Whether the id is a digest of what was signed, because the sender gives no name."""
    content: bytes | None = None
    """What was signed, where that is not the whole body: nothing else is decoded."""


_BY_TOKEN: Final = Authenticated()


class Guard(Protocol):
    """One way to prove oneself."""

    def knows(self, request: Request) -> bool:
        """Return whether the request bears this guard's mark, right or wrong."""
        ...

    def check_head(self, request: Request) -> None:
        """Raise :class:`HTTPRejection` for what can be told to be wrong before the body is read."""
        ...

    async def check(self, request: Request, body: bytes) -> Authenticated:
        """Return what is proved, or raise :class:`HTTPRejection`."""
        ...


class Token:
    """A shared token in a header: ``Bearer TOKEN``, ``Basic`` with it as the password, or alone."""

    def __init__(self, token: str, *, header: str) -> None:
        """Keep digests of the token as it is mostly written, and alone."""
        self.header = header
        self._usual = _digest(f"Bearer {token}".encode())
        self._digest = _digest(token.encode())

    def knows(self, request: Request) -> bool:
        """Whether the header is there."""
        return self.header in request.headers

    def check_head(self, request: Request) -> None:
        """Compare."""
        if not self.is_right(request.headers[self.header]):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong token")

    async def check(self, request: Request, body: bytes) -> Authenticated:  # noqa: ARG002 - the head has said it all
        """Accept."""
        return _BY_TOKEN

    def is_right(self, value: str) -> bool:
        """Return whether the value of a header holds the token."""
        given = _digest(value.encode("utf-8", "surrogateescape"))
        if hmac.compare_digest(given, self._usual) or hmac.compare_digest(given, self._digest):
            return True
        scheme, _, rest = value.partition(" ")
        inner = {"bearer": rest.strip, "basic": lambda: _password(rest)}.get(scheme.lower(), str)()
        return hmac.compare_digest(_digest(inner.encode("utf-8", "surrogateescape")), self._digest)


class OpaqueToken:
    """A shared token in the ``opaqueData`` of each record, as Ceph's topics repeat it."""

    def __init__(self, token: str) -> None:
        """Keep the token's digest."""
        self._digest = _digest(token.encode())

    def knows(self, request: Request) -> bool:  # noqa: ARG002
        """Any request may hold one."""
        return True

    def check_head(self, request: Request) -> None:
        """Nothing can be told yet."""

    async def check(self, request: Request, body: bytes) -> Authenticated:  # noqa: ARG002
        """Compare in every record: one of them may be smuggled in."""
        try:
            records = load(body)["Records"]
            given = [record.get("opaqueData") for record in records]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            given = []
        if not given:
            raise HTTPRejection(HTTPStatus.UNAUTHORIZED, "no records with opaqueData")
        right = [hmac.compare_digest(_digest(str(one).encode("utf-8", "replace")), self._digest) for one in given]
        if not all(right):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong token")
        return Authenticated()


class Hmac:
    """HMAC-SHA256 with a shared secret over the body, and over the time of sending where that is given."""

    def __init__(self, secret: str, *, header: str, timestamp_header: str, window_seconds: float, clock: Any) -> None:
        """
        Keep the secret.

        An empty ``timestamp_header`` means that no time is signed: a recorded request stays valid for ever, and only
        the digest of what was signed, which is remembered for a while, tells it from a new one.
        """
        self._secret = secret.encode()
        self._header = header
        self._timestamp_header = timestamp_header
        self._window_seconds = window_seconds
        self._clock = clock

    def knows(self, request: Request) -> bool:
        """Whether the signature's header is there."""
        return self._header in request.headers

    def check_head(self, request: Request) -> None:
        """Look at the form of the signature and at the time, which the signature will have to confirm."""
        if _signature(request.headers[self._header]) is None:
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "not a signature")
        if self._timestamp_header:
            sent_at = _number(request.headers.get(self._timestamp_header, ""))
            check_age(sent_at, now=self._clock.now(), past_seconds=self._window_seconds)

    async def check(self, request: Request, body: bytes) -> Authenticated:
        """Compare."""
        made = hmac.new(self._secret, digestmod=hashlib.sha256)
        if self._timestamp_header:
            made.update(request.headers[self._timestamp_header].encode("utf-8", "surrogateescape") + b".")
        made.update(body)
        if not hmac.compare_digest(_signature(request.headers[self._header]) or b"", made.digest()):
            raise HTTPRejection(HTTPStatus.FORBIDDEN, "wrong signature")
        return Authenticated(f"hmac {made.hexdigest()}", id_is_digest=True)


class Anonymous:
    """Takes everything."""

    def knows(self, request: Request) -> bool:  # noqa: ARG002
        """Any request will do."""
        return True

    def check_head(self, request: Request) -> None:
        """Nothing is asked for."""

    async def check(self, request: Request, body: bytes) -> Authenticated:  # noqa: ARG002
        """Admit."""
        return Authenticated()


FUTURE_SECONDS = 300.0
"""How far a sender's clock may be ahead of ours, unless the window is shorter."""


def check_age(sent_at: float | None, *, now: float, past_seconds: float) -> None:
    """Refuse what was sent longer ago than ``past_seconds``, or far in the future, or at no time at all."""
    if sent_at is None:
        raise HTTPRejection(HTTPStatus.FORBIDDEN, "no readable time of sending")
    if not -min(FUTURE_SECONDS, past_seconds) <= now - sent_at <= past_seconds:
        raise HTTPRejection(HTTPStatus.FORBIDDEN, "sent too long ago, or in the future: replayed, or a wrong clock")


def _digest(value: bytes) -> bytes:
    # Digests have one length, so that comparing tells nothing of the secret's.
    return hashlib.sha256(value).digest()


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode("utf-8", "surrogateescape").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _signature(value: str) -> bytes | None:
    """Return the 32 bytes that a header holds in one of the usual ways."""
    text = value.strip().removeprefix("sha256=")
    try:
        raw = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 32 else None


def _number(text: str) -> float | None:
    seconds = whole_number(text)
    return None if seconds is None else float(seconds)
