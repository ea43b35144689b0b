"""Every parser of a header or body, as a function of bytes, with the errors that it may raise."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from listener.alibaba.replies import (
    ReplyError,
    classify,
    clock_skew_seconds,
    parse_failure,
    parse_object,
    parse_quota,
    parse_receipt,
    parse_tasks,
    retry_after_seconds,
    scrub,
)
from listener.daemon.admin.authenticator import _host_name, _is_address
from listener.edge.answers import read_answer
from listener.errors import ConfigurationError, KeyRejected, MalformedNotification, SourceUnavailable
from listener.formats import decode
from listener.formats.reading import Unreadable, unbase64
from listener.serving import HTTPRejection
from listener.sources.listing.inventory import _csv_rows, _entry, read_manifest
from listener.sources.listing.pages import read_page, time_ns
from listener.sources.mns import wire
from listener.sources.queue.transport import QueueError
from listener.sources.sqs.boto import failures_in, messages_in, refused
from listener.sources.sqs.checks import missing_events, rules_for, senders, sends_from
from listener.sources.sqs.settings import address_of
from listener.sources.webhook.authentication.certificates import _parse, https_url
from listener.sources.webhook.authentication.shared_secrets import Token, _number, _signature
from listener.sources.webhook.authentication.signatures import _account_and_id, read_message
from listener.targets.cloudflare import answers as cloudflare
from listener.targets.cloudfront import answers as cloudfront
from listener.targets.cloudfront.wire import read_failure, read_invalidation
from listener.text import header_time
from listener.urls import normal_url

__all__ = ["PARSERS", "Parser"]

ARN = "arn:aws:sqs:eu-central-1:111122223333:e"


class Parser(NamedTuple):
    """One parser."""

    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = ()
    """What it may raise; anything else is a fault."""


def header(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a parser of a header's value, decoded as aiohttp does."""
    return lambda raw: parse(raw.decode("utf-8", "surrogateescape"))


def parsed(parse: Callable[[Any], object]) -> Callable[[bytes], object]:
    """Return a parser of what stands in JSON; what is no object is the caller's affair."""

    def read(raw: bytes) -> object:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        return parse(value) if isinstance(value, dict) else None

    return read


def edge(raw: bytes) -> object:
    """Read an edge's answer: five headers, a line each."""
    names = ("ETag", "Last-Modified", "Content-Length", "Age", "Content-Encoding")
    values = raw.decode("utf-8", "surrogateescape").split("\n")
    return read_answer(200, zip(names, values, strict=False))


def inventory(raw: bytes) -> object:
    """Read an inventory's file."""
    return [_entry(row) for row in _csv_rows(io.BytesIO(raw), ("bucket", "key", "size", "modified", "etag"))]


def failure(raw: bytes) -> object:
    """Read a CDN's refusal: two headers, a line each, then the body."""
    wait, date, body = (*raw.split(b"\n", 2), b"", b"")[:3]
    headers = {"x-acs-retry-after": wait.decode("latin-1"), "date": date.decode("latin-1")}
    return classify(parse_failure(500, headers, body, now=1.7e9, secrets=["secret"]))


def cloudflare_failure(raw: bytes) -> object:
    """Read a refusal of Cloudflare: a header in a line, then the body."""
    wait, _, body = raw.partition(b"\n")
    sent = cloudflare.Sent("x", {"www.example.com/a": ["https://www.example.com/a/"]}, is_purge=True)
    failed = cloudflare.parse_failure(400, {"Retry-After": wait.decode("latin-1")}, body)
    return cloudflare.error_of(failed, sent, variable="T", secrets=["secret"])


def cloudfront_failure(raw: bytes) -> object:
    """Read a refusal of CloudFront."""
    sent = cloudfront.Sent("CreateInvalidation", "E1", "x", ("https://www.example.com/a",))
    return cloudfront.error_of(read_failure(400, raw), sent, secrets=["secret"])


def policy(raw: bytes) -> object:
    """Read the policy of a queue."""
    text = raw.decode("utf-8", "replace")
    return senders(text, ARN), sends_from(text, ARN, "arn:aws:s3:::site")


PARSERS: Mapping[str, Parser] = {
    "retry-after": Parser(header(retry_after_seconds)),
    "date": Parser(header(lambda text: clock_skew_seconds(text, 1.7e9))),
    "failure": Parser(failure),
    "cloudflare-failure": Parser(cloudflare_failure),
    "cloudfront-failure": Parser(cloudfront_failure),
    "cloudfront-invalidation": Parser(read_invalidation),
    "scrub": Parser(header(lambda text: scrub(text, ["secret"]))),
    "object": Parser(parse_object, (ReplyError,)),
    "receipt": Parser(parsed(parse_receipt), (ReplyError,)),
    "tasks": Parser(parsed(parse_tasks), (ReplyError,)),
    "quota": Parser(parsed(parse_quota)),
    "event": Parser(lambda raw: decode(raw, format="auto"), (MalformedNotification,)),
    "mns-messages": Parser(wire.read_messages, (Unreadable,)),
    "mns-handle-errors": Parser(wire.read_handle_errors, (Unreadable,)),
    "mns-attributes": Parser(wire.read_attributes, (Unreadable,)),
    "mns-error": Parser(wire.read_error),
    "sqs-refused": Parser(header(lambda text: refused(text.partition("\n")[0], text.partition("\n")[2]))),
    "sqs-message": Parser(parsed(lambda one: messages_in({"Messages": [one]})), (QueueError,)),
    "sqs-failures": Parser(parsed(failures_in), (QueueError,)),
    "sqs-policy": Parser(policy),
    "sqs-rules": Parser(parsed(lambda value: missing_events(rules_for(value, ARN)))),
    "queue-url": Parser(header(address_of), (ValueError,)),
    "listing": Parser(read_page, (SourceUnavailable,)),
    "listing-time": Parser(header(time_ns)),
    "manifest": Parser(lambda raw: read_manifest(raw, what="x"), (ConfigurationError,)),
    "inventory": Parser(inventory, (SourceUnavailable,)),
    "edge": Parser(edge),
    "sns": Parser(read_message, (HTTPRejection,)),
    "token": Parser(header(Token("token", header="Authorization").is_right)),
    "hmac": Parser(header(_signature)),
    "timestamp": Parser(header(_number)),
    "mns-date": Parser(header(header_time)),
    "eventbridge": Parser(_account_and_id),
    "base64": Parser(header(unbase64)),
    "certificate": Parser(_parse),
    "certificate-url": Parser(header(https_url)),
    "host": Parser(header(lambda text: _is_address(_host_name(text)))),
    "url": Parser(header(normal_url), (ValueError, KeyRejected)),
}
