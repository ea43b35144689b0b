"""
Envelopes of notifications: each is recognized by its shape, and yields its contents.

SNS wraps a message as text, MNS in Base64, and its topics also in XML or JSON; Lambda and queues of Cloudflare
hand over several at once. Nothing is verified here: signatures and tokens are the receiver's.
Sources: AWS "Amazon SNS message and JSON formats" and "Using Lambda with Amazon SQS/SNS", Alibaba Cloud "SMQ
HTTP endpoint", Cloudflare "Pull consumers" (Queues).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import unescape

from listener.formats.reading import MAX_BODY_BYTES, Unreadable, load, mapping, text

__all__ = ["ENVELOPES", "Envelope", "Inside", "read_text"]

Inside = list[Any]
"""Values, and texts or bytes that are to be read first."""

_XML_MESSAGE = re.compile(r"<(Message|MessageBody)>([^<]*)</\1>")
_HANDSHAKES: Final = frozenset({"SubscriptionConfirmation", "UnsubscribeConfirmation"})


class Envelope(NamedTuple):
    """One way to carry notifications."""

    fits: Callable[[Mapping[str, Any]], bool]
    open: Callable[[Mapping[str, Any]], Inside]


def read_text(body: bytes | str) -> Any:
    """Return what a text holds: JSON, or bytes or text still to be read (Base64, XML)."""
    if len(body) > MAX_BODY_BYTES:
        raise Unreadable(f"longer than {MAX_BODY_BYTES} bytes")
    found = body.strip()
    first = found[:1].decode("latin-1") if isinstance(found, bytes) else found[:1]
    if first == "<":
        return _xml_message(found)
    if first and first in _BASE64_FIRST and (opened := _unbase64(found)) is not None:
        return opened
    return load(body)


_BASE64_FIRST: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _unbase64(body: bytes | str) -> bytes | None:
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None


def _xml_message(body: bytes | str) -> str:
    document = body if isinstance(body, str) else body.decode("utf-8", "surrogateescape")
    found = _XML_MESSAGE.search(document)
    if found is None:
        raise Unreadable("XML without a message")
    return unescape(found[2], {"&quot;": '"', "&apos;": "'"})


def _is_sns(value: Mapping[str, Any]) -> bool:
    return text(value, "Type") == "Notification" and isinstance(value.get("Message"), str)


def _is_mns(value: Mapping[str, Any]) -> bool:
    return "TopicName" in value and isinstance(value.get("Message"), str)


def _is_lambda(value: Mapping[str, Any]) -> bool:
    records = value.get("Records")
    first = records[0] if isinstance(records, list) and records else None
    return isinstance(first, dict) and (isinstance(first.get("body"), str) or isinstance(first.get("Sns"), dict))


def _open_lambda(value: Mapping[str, Any]) -> Inside:
    records = [record for record in value["Records"] if isinstance(record, dict)]
    return [record["body"] if "body" in record else mapping(record, "Sns").get("Message") for record in records]


def _is_pulled(value: Mapping[str, Any]) -> bool:
    messages = value.get("messages")
    return isinstance(messages, list) and all(isinstance(one, dict) and "body" in one for one in messages)


SNS: Final = Envelope(_is_sns, lambda value: [value["Message"]])
ENVELOPES: Final = (
    SNS,
    Envelope(_is_mns, lambda value: [value["Message"]]),
    Envelope(_is_lambda, _open_lambda),
    Envelope(_is_pulled, lambda value: [one["body"] for one in value["messages"]]),
)


def is_handshake(value: Mapping[str, Any]) -> bool:
    """Return whether this is SNS asking to confirm a subscription, or its end."""
    return text(value, "Type") in _HANDSHAKES and "TopicArn" in value
