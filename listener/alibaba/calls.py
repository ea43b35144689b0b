"""
One call of an API: its parameters by place, and the settings of how it is made; pure.

What changes something is a POST, which no HTTP library sends again by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from pydantic import Field

from listener.alibaba.access import KeySettings, Origin, Table

__all__ = ["FORM_TYPE", "ApiSettings", "Request", "Timeouts"]

FORM_TYPE = "application/x-www-form-urlencoded"


class Request(NamedTuple):
    """One call: its action, and its parameters by place."""

    action: str
    query: Mapping[str, str]
    form: Mapping[str, str] | None = None
    method: Literal["GET", "POST"] = "POST"

    @property
    def body(self) -> bytes:
        """The bytes to hash and to send."""
        return urlencode(self.form).encode() if self.form is not None else b""

    @property
    def content_type(self) -> str | None:
        """The body's type; ``None`` without a body."""
        return FORM_TYPE if self.form is not None else None


class Timeouts(Table):
    """How long to wait for the API, and over how many connections."""

    connect_seconds: float = Field(5, gt=0)
    """For a connection, its name look-up and TLS included: nothing was sent when this ends."""
    answer_seconds: float = Field(30, gt=0)
    """For the whole call: when this ends a refresh may have been accepted, and the task list is searched."""
    retry_seconds: float = Field(30, ge=0)
    """For all tries of a call that was throttled; after it the caller decides."""
    tries: int = Field(4, ge=1, le=20)
    """Tries of a call that was throttled, the first included."""
    connections: int = Field(8, ge=1)
    """Connections at once."""


class ApiSettings(KeySettings):
    """How an API is called; each service has a subclass with its own endpoint."""

    endpoint: Origin
    """Where the API is: scheme, host and port. Plain http is for emulators and tests."""
    signature: Literal["acs3-hmac-sha256", "hmac-sha1"] = "acs3-hmac-sha256"
    """How requests are signed; ``hmac-sha1`` is for endpoints that do not know the newer form."""
    timeouts: Timeouts = Timeouts()
    """Patience with the API, and connections to it."""
