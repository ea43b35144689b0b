"""
Calls, and what an answer without success means; no input or output.

============================ ==================================================================
answer                       error
============================ ==================================================================
429                          WindowFull: this kind of request waits
400 that names what we sent  BatchRejected, with the URLs
400 about a plan             Misconfigured: ``plan``, ``subtree``
400, 413 about a number      BatchTooLarge
another 400                  BatchRejected
400 without errors           Misconfigured: a proxy may have answered
401, 403                     Misconfigured: the token
404                          Misconfigured: the zone
5xx                          Unavailable: to purge twice does no harm
anything else                Misconfigured: the endpoint
============================ ==================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from listener.alibaba.replies import ReplyError, parse_object, scrub
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    NotInPlan,
    TargetError,
    Throttled,
    Unavailable,
    WindowFull,
)
from listener.text import whole_number

__all__ = ["Failure", "Request", "Sent", "error_of", "parse_failure"]

LONGEST_WAIT_SECONDS: Final = 600.0
"""What an answer may make us wait at most; the vendor blocks for five minutes."""
MOST_MESSAGE_CHARACTERS: Final = 65_536
"""In which what we sent is looked for; what is named beyond is found by sending halves."""
_PLAN: Final = re.compile(r"\b(enterprise|plan|entitle[a-z]*|upgrade)\b", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\b(limit your|too many|at most|maximum|exceed[a-z]*|up to \d+)\b", re.IGNORECASE)
PERMISSIONS: Final = "give the token the permission Cache Purge, and Zone Read where zones are looked up, for its zones"


class Failure(NamedTuple):
    """An answer without success, as far as it could be read."""

    status: int
    code: str
    message: str
    """As it was sent: it may repeat secrets."""
    retry_after_seconds: float | None
    request_id: str


class Sent(NamedTuple):
    """What the answer is about."""

    what: str
    """In words."""
    items: Mapping[str, Sequence[str]] = {}
    """What was purged, to the URLs that it is for."""
    zone: str = ""
    is_purge: bool = False
    refill_seconds: float = 60.0
    """How long until the next request of this kind fits, where the answer does not say."""


class Request(NamedTuple):
    """One call."""

    method: str
    path: str
    """Below ``/client/v4``."""
    sent: Sent
    query: Mapping[str, str] = {}
    body: Mapping[str, Any] | None = None


def parse_failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Read an answer without success; whatever cannot be read is left empty."""
    try:
        errors = parse_object(body).get("errors")
    except ReplyError:
        errors = None
    read = [_error(one) for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    wait = whole_number(headers.get("Retry-After", ""))
    return Failure(
        status,
        read[0][0] if read else "",
        "; ".join(message for _, message in read if message)[:MOST_MESSAGE_CHARACTERS],
        None if wait is None else min(float(wait), LONGEST_WAIT_SECONDS),
        headers.get("CF-Ray", ""),
    )


def _error(fields: Mapping[str, Any]) -> tuple[str, str]:
    code, message = fields.get("code"), fields.get("message")
    return str(code) if isinstance(code, int) else "", message if isinstance(message, str) else ""


def error_of(failure: Failure, sent: Sent, *, variable: str, secrets: Sequence[str]) -> TargetError:
    """Return the error, by what can be done about it; ``variable`` has the token, ``secrets`` are in no error."""
    reason = scrub(failure.message, secrets) or "without a reason"
    number = f" (code {failure.code})" if failure.code else ""
    words = f"Cloudflare answered {sent.what} with HTTP {failure.status}: {reason}{number}"
    ids = {"code": failure.code, "request_id": scrub(failure.request_id, secrets)[:100]}
    status = failure.status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = sent.refill_seconds if failure.retry_after_seconds is None else failure.retry_after_seconds
        return (WindowFull if sent.is_purge else Throttled)(words, retry_after_seconds=wait, **ids)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(words, **ids)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return BatchTooLarge(words, **ids)
    is_read = bool(failure.code or failure.message)  # else a proxy may have answered, of whatever we sent
    if status in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST) and sent.is_purge and is_read:
        return _rejection(failure, sent, words, ids)
    return Misconfigured(words, hint=_hint(status, sent.zone, variable), **ids)


def _hint(status: int, zone: str, variable: str) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return f"check the token in {variable}, or in its file: it is unknown, expired or disabled"
    if status == HTTPStatus.FORBIDDEN:
        return f"{PERMISSIONS}; or the one in {variable} is wrong"
    if status == HTTPStatus.NOT_FOUND and zone:
        return f"correct the id {zone} in `zones`, or let the token see this zone"
    return "check `endpoint` and any proxy before it, and the token"


def _rejection(failure: Failure, sent: Sent, words: str, ids: dict[str, str]) -> TargetError:
    if named := _named(failure.message, sent.items):
        return BatchRejected(words, urls=[url for item in named for url in sent.items[item]], **ids)
    if _PLAN.search(failure.message):
        hint = 'set `plan` to that of the zone; set `subtree = "none"` where it has no such purges'
        return NotInPlan(words, hint=hint, **ids)
    if _NUMBER.search(failure.message):
        return BatchTooLarge(words, **ids)
    return BatchRejected(words, **ids)


def _named(message: str, items: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the items that a message repeats; not one that only is the beginning of another."""
    named = []
    for item in sorted(items, key=len, reverse=True):
        whole = rf"(?<![^\s'\"(\[]){re.escape(item)}(?![^\s'\",;.)\]])"
        message, times = re.subn(whole, " ", message)
        if times:
            named.append(item)
    return named
