"""What every way to authenticate a request has in common."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from listener.serving import HTTPRejection

__all__ = ["Authenticated", "Authenticator", "RequestHead", "check_age"]

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
