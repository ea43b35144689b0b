"""The calls that the reader makes to a queue, and the error that they raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from listener.errors import SourceUnavailable

__all__ = ["EntryFailure", "Message", "QueueError", "Remedy", "Transport"]


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


class Message(NamedTuple):
    """One message as received this time."""

    id: str
    """The same at each delivery."""
    handle: str
    """Deletes the message. Each delivery has a new handle, and only the newest is valid."""
    body: bytes
    receive_count: int = 1
    """How often it has been received, including this time."""
    sent_at: float | None = None
    """When it entered the queue, in seconds since the epoch by this machine's clock."""
    hidden_seconds: float | None = None
    """How long other readers do not see it; ``None`` where this cannot be extended."""


class EntryFailure(NamedTuple):
    """One entry of a batch that failed; the others may have succeeded."""

    position: int
    """In the batch."""
    code: str
    is_final: bool
    """The handle is no longer valid: the message is deleted, or will be redelivered with another one."""


class Transport(Protocol):
    """Calls to one queue. Each raises :class:`~listener.sources.queue.transport.QueueError`."""

    @property
    def batch(self) -> int:
        """Most messages in one request."""
        ...

    async def receive(self, *, wait_seconds: int) -> Sequence[Message]:
        """Return up to a batch of messages. If cancelled, release any that still arrive."""
        ...

    async def delete(self, handles: Sequence[str]) -> Sequence[EntryFailure]:
        """Delete up to a batch of messages; return those that failed."""
        ...

    async def hide(self, handles: Sequence[str], *, seconds: int) -> Sequence[EntryFailure]:
        """Hide up to a batch of messages for this long from now; 0 shows them to other readers at once."""
        ...

    async def metrics(self) -> Mapping[str, float]:
        """Return the queue's own counts, by metric name."""
        ...

    async def renew(self) -> None:
        """Reload the key before the next call."""
        ...

    async def close(self) -> None:
        """Release connections. May be called twice."""
        ...
