"""What can be done about a failed call to a queue, whichever service it is. Pure."""

from __future__ import annotations

from enum import StrEnum

from listener.errors import SourceUnavailable

__all__ = ["QueueTrouble", "Remedy"]


class Remedy(StrEnum):
    """What a reader of a queue can do about a failed call."""

    WAIT = "wait"
    """Try again with back-off: the network, the service, or too many calls."""
    RENEW = "renew"
    """The key is no longer valid: read it anew, then try again."""
    TELL = "tell"
    """Nothing helps but an operator; trying again now and then finds out when it was mended."""


class QueueTrouble(SourceUnavailable):
    """A call to a queue failed."""

    def __init__(self, message: str, *, remedy: Remedy, code: str = "", hint: str = "") -> None:
        """Keep what to do, and the service's own word for it."""
        super().__init__(message, hint=hint)
        self.remedy = remedy
        self.code = code
