"""
Request and reply formats of MNS, and its error codes by what can be done about them. Pure.

Replies are untrusted XML: no document types, a bounded number of tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape

from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS
from listener.formats.reading import Unreadable, load_xml, tag_name
from listener.sources.queue.transport import Message, QueueError, Remedy
from listener.text import whole_number

__all__ = [
    "BATCH",
    "INVALID_HANDLE",
    "TABLE",
    "Attributes",
    "ErrorReply",
    "HandleError",
    "change_visibility_resource",
    "handles_body",
    "messages_resource",
    "read_attributes",
    "read_error",
    "read_handle_errors",
    "read_messages",
    "receive_resource",
    "refused",
    "unreachable",
]

BATCH: Final = 16
"""Most messages in one request (the vendor's pages BatchReceiveMessage and BatchDeleteMessage)."""
XMLNS: Final = "http://mns.aliyuncs.com/doc/v1/"
MOST_TAGS: Final = 8_000
"""Sixteen messages with all their fields and properties have some hundreds."""

_SETUP: Final = "`cdn-listener check --print-setup SOURCE` prints the policy"
_KEY: Final = "check ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
INVALID_HANDLE: Final = frozenset({"ReceiptHandleError", "MessageNotExist"})
"""The message was deleted, or redelivered with another handle."""


class HandleError(NamedTuple):
    """Why one of several deletions failed."""

    handle: str
    code: str


class ErrorReply(NamedTuple):
    """An error reply, as far as it could be read."""

    code: str = ""
    message: str = ""
    request_id: str = ""


class Attributes(NamedTuple):
    """A queue's settings and length; ``None`` where the reply has no number."""

    visibility_seconds: int | None
    retention_seconds: int | None
    delay_seconds: int | None
    max_message_bytes: int | None
    active_messages: int | None
    inactive_messages: int | None
    """Received by a reader and not yet deleted."""
    delayed_messages: int | None


# -- requests ------------------------------------------------------------------------------------


def messages_resource(queue: str) -> str:
    """Return the resource of a queue's messages."""
    return f"/queues/{queue}/messages"


def receive_resource(queue: str, count: int, *, wait_seconds: int) -> str:
    """Return the resource that receives up to ``count`` messages with a long poll."""
    return f"{messages_resource(queue)}?numOfMessages={count}&waitseconds={wait_seconds}"


def change_visibility_resource(queue: str, handle: str, *, seconds: int) -> str:
    """Return the resource that makes a message visible to other readers after ``seconds``."""
    # The official SDK leaves these characters of a handle unescaped.
    return f"{messages_resource(queue)}?ReceiptHandle={quote(handle, safe='+/=:@-._~')}&VisibilityTimeout={seconds}"


def handles_body(handles: Iterable[str]) -> bytes:
    """Return the body of a batch deletion."""
    items = "".join(f"<ReceiptHandle>{escape(handle)}</ReceiptHandle>" for handle in handles)
    head = '<?xml version="1.0" encoding="utf-8"?>'
    return f'{head}<ReceiptHandles xmlns="{XMLNS}">{items}</ReceiptHandles>'.encode()


# -- replies -------------------------------------------------------------------------------------


def _rows(body: bytes, name: str, within: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each element ``name``: the root, or the children of a root ``within``."""
    root = load_xml(body, most_tags=MOST_TAGS)
    rows = [root] if tag_name(root) == name else list(root) if tag_name(root) == within else None
    if rows is None or any(tag_name(row) != name for row in rows):
        raise Unreadable(f"no {within} in it")
    return ({tag_name(field): field.text or "" for field in row} for row in rows)


def read_messages(body: bytes) -> list[Message]:
    """Return the messages of a reply; ``sent_at`` is by the service's clock. Raise :class:`Unreadable`."""
    return [_message(fields) for fields in _rows(body, "Message", "Messages")]


def _message(fields: dict[str, str]) -> Message:
    try:
        message_id, handle, text = fields["MessageId"], fields["ReceiptHandle"], fields["MessageBody"]
    except KeyError as missing:
        raise Unreadable(f"a message has no {missing.args[0]}") from None
    if not _is_name(message_id) or not _is_name(handle):
        raise Unreadable("a message has an invalid id or receipt handle")
    enqueued_at = _number(fields, "EnqueueTime")
    count = _number(fields, "DequeueCount") or 1
    return Message(message_id, handle, text.encode(), count, enqueued_at / 1000 if enqueued_at else None)


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[!-~]{1,2048}", text) is not None


def read_handle_errors(body: bytes) -> list[HandleError]:
    """Return the failed deletions of a batch. Raise :class:`Unreadable` where the reply is not such a list."""
    rows = list(_rows(body, "Error", "Errors"))
    if not rows or not all(row.get("ReceiptHandle") for row in rows):
        raise Unreadable("the reply names no receipt handles")
    return [HandleError(row["ReceiptHandle"], row.get("ErrorCode", "")) for row in rows]


def read_error(body: bytes) -> ErrorReply:
    """Return an error reply; whatever cannot be read is left empty."""
    try:
        (fields,) = _rows(body, "Error", "Errors")
    except ValueError:
        return ErrorReply()
    code = fields.get("Code", "") or fields.get("ErrorCode", "")
    return ErrorReply(code, fields.get("Message", "") or fields.get("ErrorMessage", ""), fields.get("RequestId", ""))


def read_attributes(body: bytes) -> Attributes:
    """Return a queue's settings and length. Raise :class:`Unreadable`."""
    (fields,) = _rows(body, "Queue", "Queue")
    names = ("VisibilityTimeout", "MessageRetentionPeriod", "DelaySeconds", "MaximumMessageSize")
    counts = ("ActiveMessages", "InactiveMessages", "DelayMessages")
    return Attributes(*(_number(fields, name) for name in (*names, *counts)))


def _number(fields: dict[str, str], name: str) -> int | None:
    return whole_number(fields.get(name, ""))


class _Rule(NamedTuple):
    remedy: Remedy
    hint: str = ""


_RENEW: Final = _Rule(Remedy.RENEW, "renew the temporary key, or set credentials = 'default-chain'")
_WAIT: Final = _Rule(Remedy.WAIT)

TABLE: Final[Mapping[str, _Rule]] = {
    "AccessDenied": _Rule(Remedy.OPERATOR, f"allow this key to receive, delete and release messages: {_SETUP}"),
    "InvalidAccessKeyId": _Rule(Remedy.RENEW, _KEY),
    "SignatureDoesNotMatch": _Rule(Remedy.RENEW, f"{_KEY}, and that no proxy rewrites requests"),
    "InvalidSecurityToken": _RENEW,
    "SecurityTokenExpired": _RENEW,
    "QueueNotExist": _Rule(Remedy.OPERATOR, "check queue and endpoint (account and region), or create the queue"),
    "InvalidQueueName": _Rule(Remedy.OPERATOR, "check queue"),
    "TimeExpired": _Rule(Remedy.OPERATOR, "synchronise the clock of this machine (NTP)"),
    "InvalidArgument": _Rule(Remedy.OPERATOR, "check queue and wait_seconds"),
    "InvalidVersion": _Rule(Remedy.OPERATOR, "check endpoint: it is not one of MNS (SMQ) queues"),
    "ServiceNotOpen": _Rule(Remedy.OPERATOR, "check the console: the service may be inactive or overdue"),
    "QpsLimitExceeded": _Rule(Remedy.WAIT, "lower pollers, or check who else uses this queue"),
    "InternalError": _WAIT,
    "ServiceUnavailable": _WAIT,
}
"""From the vendor's page on error codes, and the codes about keys in its SDK."""


def refused(status: int, reply: ErrorReply, *, skew_seconds: float | None = None) -> QueueError:
    """Return the error for an error reply of the service."""
    rule = TABLE.get(reply.code) or _by_status(status)
    skew = f"{_skew(skew_seconds)}; " if reply.code == "TimeExpired" else ""
    message = f"{skew}MNS returned {reply.code or 'no error code'} (HTTP {status})"
    message += f": {reply.message}" if reply.message else ""
    message += f" [request {reply.request_id}]" if reply.request_id else ""
    return QueueError(message, remedy=rule.remedy, code=reply.code, hint=rule.hint)


def _by_status(status: int) -> _Rule:
    if status == 429:
        return TABLE["QpsLimitExceeded"]
    return _WAIT if status >= 500 else _Rule(Remedy.OPERATOR, "check endpoint")


def _skew(seconds: float | None) -> str:
    if seconds is None:
        return f"the clock of this machine is more than {CLOCK_TOLERANCE_SECONDS} s off"
    direction = "ahead of" if seconds >= 0 else "behind"
    return f"the clock of this machine is {abs(seconds):.0f} s {direction} the service's"


def unreachable(what: str, *, hint: str = "check the network and endpoint") -> QueueError:
    """Return the error for a call without a readable reply."""
    return QueueError(what, remedy=Remedy.WAIT, hint=hint)
