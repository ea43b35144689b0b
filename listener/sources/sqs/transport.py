"""The calls that a reader of a queue makes, whoever makes them: one contract, two transports."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from listener.numbers import whole_number
from listener.sources.sqs.trouble import Remedy, SqsTrouble

__all__ = [
    "BATCH",
    "LARGEST_ANSWER_BYTES",
    "NOT_SQS",
    "Failure",
    "Message",
    "Transport",
    "attributes_in",
    "failures_in",
    "messages_in",
]

BATCH: Final = 10
"""Messages in one request, by the service's limit."""
NOT_SQS: Final = "check endpoint_url: what answers there does not speak as SQS does"

LARGEST_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Ten messages of a mebibyte, escaped as JSON."""
_NAME: Final = re.compile(r"[!-~]{1,4096}")


class Message(NamedTuple):
    """One message as it was received."""

    id: str
    """The same each time that it is received."""
    handle: str
    """What deletes it; a new one each time that it is received, and only the newest counts."""
    body: str
    receive_count: int = 1
    sent_at: float | None = None
    """When it reached the queue, in seconds since the epoch."""


class Failure(NamedTuple):
    """One entry of a batch that failed while others may have succeeded."""

    position: int
    """In the batch."""
    code: str
    message: str
    is_final: bool
    """The service says that it is the sender's mistake: the same again fails again."""


class Transport(Protocol):
    """Makes calls to one queue. Each raises :class:`~listener.sources.sqs.trouble.SqsTrouble`."""

    async def receive(self, *, wait_seconds: int) -> Sequence[Message]:
        """Return up to ten messages, hidden from others from now on. Cancelled, it gives back what still comes."""
        ...

    async def delete(self, handles: Sequence[str]) -> Sequence[Failure]:
        """Delete up to ten messages; return those that failed."""
        ...

    async def hide(self, handles: Sequence[str], *, seconds: int) -> Sequence[Failure]:
        """Hide up to ten messages for so long from now on (0: show them to others at once)."""
        ...

    async def attributes(self) -> Mapping[str, str]:
        """Return what the queue tells of itself: its settings, and how many messages are in it."""
        ...

    async def renew(self) -> None:
        """Read the key anew for the calls to come."""
        ...

    async def close(self) -> None:
        """Release connections; calls under way end by themselves. Safe to call twice."""
        ...


def messages_in(answer: Mapping[str, Any]) -> list[Message]:
    """Return the messages of ReceiveMessage's answer. Raise SqsTrouble where one lacks what it must have."""
    try:
        return [_message(one) for one in answer.get("Messages") or ()]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SqsTrouble("SQS answered with something that is no message", remedy=Remedy.TELL, hint=NOT_SQS) from None


def _message(answer: Mapping[str, Any]) -> Message:
    stated = answer.get("Attributes") or {}
    sent_at = whole_number(str(stated["SentTimestamp"])) if "SentTimestamp" in stated else None
    return Message(
        _name(answer["MessageId"]),
        _name(answer["ReceiptHandle"]),
        _text(answer["Body"]),
        whole_number(str(stated.get("ApproximateReceiveCount", 1))) or 1,
        None if sent_at is None else sent_at / 1000,
    )


def _name(text: Any) -> str:
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise ValueError("neither an id nor a receipt handle")
    return text


def _text(body: Any) -> str:
    if not isinstance(body, str):
        raise TypeError("no body")
    return body


def attributes_in(answer: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what GetQueueAttributes' answer says, without what is no text."""
    stated = answer.get("Attributes")
    if not isinstance(stated, Mapping):
        return {}
    return {name: value for name, value in stated.items() if isinstance(value, str)}


def failures_in(answer: Mapping[str, Any]) -> list[Failure]:
    """Return the failed entries of a batch's answer, named by their position. Raise SqsTrouble where one is not."""
    try:
        return [
            Failure(
                _position(entry["Id"]), entry.get("Code", ""), entry.get("Message", ""), bool(entry.get("SenderFault"))
            )
            for entry in answer.get("Failed") or ()
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SqsTrouble("SQS answered with something that is no list", remedy=Remedy.TELL, hint=NOT_SQS) from None


def _position(name: str) -> int:
    position = whole_number(name)
    if position is None or position >= BATCH:
        raise ValueError(name)
    return position
