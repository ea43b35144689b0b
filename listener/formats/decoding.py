"""
Decoding: envelopes are opened by shape, to a bounded depth, and what is in them read by shape or by name.

SNS wraps a message as text, MNS in Base64, and its topics also in XML or JSON; Lambda and queues of Cloudflare
hand over several at once. Nothing is verified here: signatures and tokens are the receiver's.
Sources: AWS "Amazon SNS message and JSON formats" and "Using Lambda with Amazon SQS/SNS", Alibaba Cloud "SMQ
HTTP endpoint", Cloudflare "Pull consumers" (Queues).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from listener.errors import ConfigurationError, MalformedNotification
from listener.formats import keys, oss, r2, s3, seaweedfs
from listener.formats.reading import (
    MAX_BODY_BYTES,
    Decoded,
    Tally,
    Unreadable,
    load,
    load_xml,
    mapping,
    tag_name,
    text,
    unbase64,
)

__all__ = ["ENVELOPES", "FORMATS", "MAX_DEPTH", "Envelope", "Format", "Inside", "decode", "read_text"]

Inside = list[Any]
"""Values, and texts or bytes that are to be read first."""

MOST_TAGS: Final = 1_000
"""A notification of MNS has some twenty."""
_HANDSHAKES: Final = frozenset({"SubscriptionConfirmation", "UnsubscribeConfirmation"})

_BASE64_FIRST: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
MAX_DEPTH: Final = 8
"""Texts, lists and envelopes around a notification. Three SNS topics in a row need seven."""
_HINT: Final = "Set the source's format if it is one of these in other clothes: {}."


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
        return _xml_message(found if isinstance(found, bytes) else found.encode("utf-8", "surrogateescape"))
    if first and first in _BASE64_FIRST and (opened := unbase64(found)) is not None:
        return opened
    return load(body)


def _xml_message(document: bytes) -> str:
    for element in load_xml(document, most_tags=MOST_TAGS).iter():
        if tag_name(element) in ("Message", "MessageBody"):
            return element.text or ""
    raise Unreadable("XML without a message")


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


class _Form(NamedTuple):
    """One vendor's notification."""

    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Tally], None]


class Format(NamedTuple):
    """What a source's setting ``format`` may name."""

    forms: tuple[_Form, ...]
    outside: Envelope | None = None
    """The envelope that everything must come in."""


def _ignore_handshake(value: Mapping[str, Any], tally: Tally) -> None:
    tally.ignore(f"sns:{text(value, 'Type')}")


def _records(dialect: s3.Dialect | None) -> _Form:
    return _Form(s3.is_records, partial(s3.read_records, dialect))


_HANDSHAKE = _Form(is_handshake, _ignore_handshake)
_EVENTBRIDGE = (_Form(s3.is_bus_event, s3.read_bus_event),)
_DETAIL = (_Form(s3.is_detail, s3.read_detail),)
_OSS = (_Form(oss.is_cloud_event, oss.read_cloud_event), _Form(oss.is_events, oss.read_events))
_R2 = (_Form(r2.is_event, r2.read_event),)
_SEAWEEDFS = (_Form(seaweedfs.is_webhook, seaweedfs.read_webhook), _Form(seaweedfs.is_tail, seaweedfs.read_tail))
_KEYS = (_Form(keys.is_keys, keys.read_keys),)
_AUTO = (_HANDSHAKE, *_EVENTBRIDGE, _records(None), *_OSS, *_R2, *_SEAWEEDFS, *_DETAIL, *_KEYS)

FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "auto": Format(_AUTO),  # by shape, and records of S3's kind by the source that they name
        "s3": Format((_records(s3.AWS),)),  # Amazon S3, and stores that encode keys as it does
        "sns": Format(_AUTO, SNS),  # whatever there is, in messages of Amazon SNS
        "eventbridge": Format((*_EVENTBRIDGE, *_DETAIL)),  # events of S3, whole or the detail alone
        "minio": Format((_records(s3.MINIO),)),  # MinIO and RustFS
        "ceph": Format((_records(s3.CEPH),)),  # Ceph RADOS Gateway: keys stand as they are
        "seaweedfs": Format(_SEAWEEDFS),  # by webhook or from the filer's log
        "oss": Format(_OSS),  # Alibaba Cloud, by MNS, Function Compute or EventBridge
        "r2": Format(_R2),  # Cloudflare
        "keys": Format(_KEYS),  # scripts of your own
    }
)


def decode(body: bytes, *, format: str = "auto", roots: Collection[str] | None = None) -> Decoded:  # noqa: A002
    """
    Return what a message says, as changes.

    ``format`` is a name of :data:`FORMATS`; ``roots`` are the buckets that are wanted (``None``: all), what
    is known of others counts as ignored.

    Raises:
        MalformedNotification: the message is in no known form, or none of its records can be read.
        ConfigurationError: there is no such format.
    """
    known = FORMATS.get(format)
    if known is None:
        raise ConfigurationError(f"there is no format {format!r}", hint=f"One of: {', '.join(FORMATS)}.")
    tally = Tally(roots)
    try:
        _take(body, known, tally, depth=0)
        return tally.result()
    except Unreadable as error:
        hint = _HINT.format(", ".join(FORMATS))
        raise MalformedNotification(f"unreadable notification: {error}", hint=hint) from None


def _take(value: Any, known: Format, tally: Tally, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Unreadable(f"wrapped more than {MAX_DEPTH} times")
    if isinstance(value, dict):
        _take_object(value, known, tally, depth=depth)
    elif isinstance(value, bytes | str):
        _take(read_text(value), known, tally, depth=depth + 1)
    elif isinstance(value, list):
        tally.each(value, partial(_take_one, known, depth=depth + 1), "list", of=None)
    else:
        raise Unreadable("neither an object nor a list")


def _take_one(known: Format, value: Any, tally: Tally, *, depth: int) -> None:
    _take(value, known, tally, depth=depth)


def _take_object(value: Mapping[str, Any], known: Format, tally: Tally, *, depth: int) -> None:
    if known.outside is not None:
        known = known._replace(outside=None)
        if not known.forms[0].fits(value) and not SNS.fits(value):
            raise Unreadable("no message of Amazon SNS")
    for envelope in ENVELOPES:
        if envelope.fits(value):
            tally.each(envelope.open(value), partial(_take_one, known, depth=depth + 1), "message", of=None)
            return
    for form in known.forms:
        if form.fits(value):
            form.read(value, tally)
            return
    raise Unreadable(f"an object in no known form, with {_names(value)}")


def _names(value: Mapping[str, Any]) -> str:
    return ", ".join(repr(name[:40]) for name in sorted(value)[:8]) or "nothing in it"
