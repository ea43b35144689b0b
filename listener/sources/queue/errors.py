"""Failed calls to a queue, by what can be done about them."""

from __future__ import annotations

from enum import StrEnum

from listener.errors import SourceUnavailable

__all__ = ["QueueError", "Remedy"]


class Remedy(StrEnum):
    """What helps after a failed call."""

    WAIT = "wait"
    """Retry with back-off: network, service, or throttling."""
    RENEW = "renew"
    """The key is no longer valid: reload it, then retry."""
    OPERATOR = "operator"
    """An operator must fix it; slow retries notice when that has happened."""


class QueueError(SourceUnavailable):
    """A call to a queue failed."""

    def __init__(self, message: str, *, remedy: Remedy, code: str = "", hint: str = "") -> None:
        """Keep the remedy and the service's own error code."""
        super().__init__(message, hint=hint)
        self.remedy = remedy
        self.code = code

    @property
    def described(self) -> str:
        """The message with its hint."""
        return f"{self}: {self.hint}" if self.hint else str(self)
