"""
What goes over the wire: resources, bodies, and answers read strictly. Pure.

An answer is XML from outside: a document type, and with that every entity, is refused, and depth and
number of elements are bounded. Names are read without a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote
from xml.parsers import expat
from xml.sax.saxutils import escape

from listener.numbers import whole_number

__all__ = [
    "BATCH_MESSAGES",
    "Attributes",
    "Failure",
    "HandleError",
    "Message",
    "WireError",
    "handles_body",
    "messages_of",
    "read_attributes",
    "read_failure",
    "read_handle",
    "read_handle_errors",
    "read_messages",
    "receiving",
    "visibility",
]

BATCH_MESSAGES: Final = 16
"""Messages in one request, at most (the vendor's pages BatchReceiveMessage and BatchDeleteMessage)."""
XMLNS: Final = "http://mns.aliyuncs.com/doc/v1/"
MAX_DEPTH: Final = 8
MAX_ELEMENTS: Final = 4_000
"""Sixteen messages with all their fields and properties have some hundreds."""


class WireError(ValueError):
    """An answer is not what the service gives."""


class Message(NamedTuple):
    """One message, as it was received this time."""

    id: str
    handle: str
    """Deletes or releases it until it turns visible; each time that it is received it gets another."""
    body: bytes
    """As it was sent; often Base64."""
    dequeue_count: int
    """How often it was received by now, this time included."""
    enqueued_at: float | None
    """Seconds since the epoch, by the service's clock."""


class HandleError(NamedTuple):
    """Why one of several deletions failed."""

    handle: str
    code: str


class Failure(NamedTuple):
    """An answer that is no success, as far as it could be read."""

    code: str = ""
    message: str = ""
    request_id: str = ""


class Attributes(NamedTuple):
    """What a queue is set to, and how much is in it; ``None`` where the answer does not tell."""

    visibility_seconds: int | None
    retention_seconds: int | None
    delay_seconds: int | None
    max_message_bytes: int | None
    active_messages: int | None
    inactive_messages: int | None
    """Received by somebody and not yet deleted."""
    delayed_messages: int | None


# -- requests ------------------------------------------------------------------------------------


def messages_of(queue: str) -> str:
    """Return the resource that a queue's messages are at."""
    return f"/queues/{queue}/messages"


def receiving(queue: str, count: int, *, wait_seconds: int) -> str:
    """Return the resource that gives so many messages, after waiting so long for the first."""
    return f"{messages_of(queue)}?numOfMessages={count}&waitseconds={wait_seconds}"


def visibility(queue: str, handle: str, *, seconds: int) -> str:
    """Return the resource that makes a message visible to others after so many seconds."""
    # As the official SDK sends it: what a handle is made of stands as it is.
    return f"{messages_of(queue)}?ReceiptHandle={quote(handle, safe='+/=:@-._~')}&VisibilityTimeout={seconds}"


def handles_body(handles: Iterable[str]) -> bytes:
    """Return the body that names messages to delete."""
    items = "".join(f"<ReceiptHandle>{escape(handle)}</ReceiptHandle>" for handle in handles)
    head = '<?xml version="1.0" encoding="utf-8"?>'
    return f'{head}<ReceiptHandles xmlns="{XMLNS}">{items}</ReceiptHandles>'.encode()


# -- answers -------------------------------------------------------------------------------------


class _Element:
    __slots__ = ("children", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.children: list[_Element] = []

    def fields(self) -> dict[str, str]:
        """Return the texts of its children by name."""
        return {child.name: child.text for child in self.children}


class _Tree:
    """Builds elements from what the parser meets."""

    __slots__ = ("_left", "_open")

    def __init__(self) -> None:
        self._open = [_Element("")]
        self._left = MAX_ELEMENTS

    def start(self, name: str, _attributes: object) -> None:
        self._left -= 1
        if len(self._open) > MAX_DEPTH or self._left < 0:
            raise WireError("the answer is nested too deeply or too long")
        element = _Element(name.rpartition(":")[2])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _name: str) -> None:
        self._open.pop()

    def text(self, text: str) -> None:
        self._open[-1].text += text

    def refuse(self, *_declaration: object) -> None:
        raise WireError("the answer declares a document type")

    @property
    def root(self) -> _Element:
        return self._open[0].children[0]


def _parse(body: bytes) -> _Element:
    tree = _Tree()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = tree.refuse
    parser.EntityDeclHandler = tree.refuse
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.text
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise WireError(f"the answer is not XML: {error}") from None
    return tree.root


def _each(body: bytes, name: str, within: str) -> Iterator[dict[str, str]]:
    root = _parse(body)
    rows = [root] if root.name == name else root.children if root.name == within else None
    if rows is None or any(row.name != name for row in rows):
        raise WireError(f"the answer holds no {within}")
    return (row.fields() for row in rows)


def read_messages(body: bytes) -> list[Message]:
    """Return the messages of an answer. Raise :class:`WireError` for one that cannot be told or deleted."""
    return [_message(fields) for fields in _each(body, "Message", "Messages")]


def _message(fields: dict[str, str]) -> Message:
    try:
        name, handle, text = fields["MessageId"], fields["ReceiptHandle"], fields["MessageBody"]
    except KeyError as missing:
        raise WireError(f"a message has no {missing.args[0]}") from None
    if not _is_name(name) or not _is_name(handle):
        raise WireError("a message's id or receipt handle is none")
    enqueued = _number(fields, "EnqueueTime")
    count = _number(fields, "DequeueCount") or 1
    return Message(name, handle, text.encode(), count, enqueued / 1000 if enqueued else None)


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[!-~]{1,2048}", text) is not None


def read_handle_errors(body: bytes) -> list[HandleError]:
    """Return which deletions of several failed. Raise :class:`WireError` where the answer is no such list."""
    rows = list(_each(body, "Error", "Errors"))
    if not rows or not all(row.get("ReceiptHandle") for row in rows):
        raise WireError("the answer names no receipt handles")
    return [HandleError(row["ReceiptHandle"], row.get("ErrorCode", "")) for row in rows]


def read_handle(body: bytes) -> str:
    """Return the receipt handle that took the place of another."""
    (fields,) = _each(body, "ChangeVisibility", "ChangeVisibility")
    handle = fields.get("ReceiptHandle", "")
    if not _is_name(handle):
        raise WireError("the answer names no receipt handle")
    return handle


def read_failure(body: bytes) -> Failure:
    """Return what an answer says that is no success; whatever cannot be read is left empty."""
    try:
        (fields,) = _each(body, "Error", "Errors")
    except ValueError:
        return Failure()
    code = fields.get("Code", "") or fields.get("ErrorCode", "")
    return Failure(code, fields.get("Message", "") or fields.get("ErrorMessage", ""), fields.get("RequestId", ""))


def read_attributes(body: bytes) -> Attributes:
    """Return what a queue says of itself."""
    (fields,) = _each(body, "Queue", "Queue")
    names = ("VisibilityTimeout", "MessageRetentionPeriod", "DelaySeconds", "MaximumMessageSize")
    counts = ("ActiveMessages", "InactiveMessages", "DelayMessages")
    return Attributes(*(_number(fields, name) for name in (*names, *counts)))


def _number(fields: dict[str, str], name: str) -> int | None:
    return whole_number(fields.get(name, ""))
