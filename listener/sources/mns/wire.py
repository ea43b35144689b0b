"""Request and reply formats of MNS. Replies are untrusted XML: no document types, a bounded number of tags. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from listener.numbers import whole_number
from listener.sources.queue.transport import Message

__all__ = [
    "BATCH",
    "Attributes",
    "ErrorReply",
    "HandleError",
    "WireError",
    "change_visibility_resource",
    "handles_body",
    "messages_resource",
    "read_attributes",
    "read_error",
    "read_handle_errors",
    "read_messages",
    "receive_resource",
]

BATCH: Final = 16
"""Most messages in one request (the vendor's pages BatchReceiveMessage and BatchDeleteMessage)."""
XMLNS: Final = "http://mns.aliyuncs.com/doc/v1/"
MOST_TAGS: Final = 8_000
"""Sixteen messages with all their fields and properties have some hundreds."""


class WireError(ValueError):
    """A reply is not one of the service."""


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


def _parse(body: bytes) -> Element:
    if body.count(b"<") > MOST_TAGS:  # bounds elements and depth before anything is built
        raise WireError(f"the reply has more than {MOST_TAGS} tags")
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except DefusedXmlException:
        raise WireError("the reply declares a document type") from None
    except (ParseError, ValueError, LookupError) as error:
        raise WireError(f"the reply is not XML: {error}") from None
    return root


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _rows(body: bytes, name: str, within: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each element ``name``: the root, or the children of a root ``within``."""
    root = _parse(body)
    rows = [root] if _name(root) == name else list(root) if _name(root) == within else None
    if rows is None or any(_name(row) != name for row in rows):
        raise WireError(f"the reply has no {within}")
    return ({_name(field): field.text or "" for field in row} for row in rows)


def read_messages(body: bytes) -> list[Message]:
    """Return the messages of a reply; ``sent_at`` is by the service's clock. Raise :class:`WireError`."""
    return [_message(fields) for fields in _rows(body, "Message", "Messages")]


def _message(fields: dict[str, str]) -> Message:
    try:
        message_id, handle, text = fields["MessageId"], fields["ReceiptHandle"], fields["MessageBody"]
    except KeyError as missing:
        raise WireError(f"a message has no {missing.args[0]}") from None
    if not _is_name(message_id) or not _is_name(handle):
        raise WireError("a message has an invalid id or receipt handle")
    enqueued_at = _number(fields, "EnqueueTime")
    count = _number(fields, "DequeueCount") or 1
    return Message(message_id, handle, text.encode(), count, enqueued_at / 1000 if enqueued_at else None)


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[!-~]{1,2048}", text) is not None


def read_handle_errors(body: bytes) -> list[HandleError]:
    """Return the failed deletions of a batch. Raise :class:`WireError` where the reply is not such a list."""
    rows = list(_rows(body, "Error", "Errors"))
    if not rows or not all(row.get("ReceiptHandle") for row in rows):
        raise WireError("the reply names no receipt handles")
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
    """Return a queue's settings and length. Raise :class:`WireError`."""
    (fields,) = _rows(body, "Queue", "Queue")
    names = ("VisibilityTimeout", "MessageRetentionPeriod", "DelaySeconds", "MaximumMessageSize")
    counts = ("ActiveMessages", "InactiveMessages", "DelayMessages")
    return Attributes(*(_number(fields, name) for name in (*names, *counts)))


def _number(fields: dict[str, str], name: str) -> int | None:
    return whole_number(fields.get(name, ""))
