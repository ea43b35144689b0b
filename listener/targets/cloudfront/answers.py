"""
What an answer without success means; no input or output.

================================================= ==========================================================
answer                                            error
================================================= ==========================================================
``TooManyInvalidationsInProgress``                WindowFull: this kind of request waits
``Throttling`` and its like, 429                  Throttled
``BatchTooLarge``, 413                            BatchTooLarge
``InvalidArgument``                               BatchRejected: it names no path, halves are sent
``InvalidationBatchAlreadyExists``                BatchRejected: sent under another reference
5xx of what creates an invalidation               OutcomeUnknown: the same is sent again, and charged once
5xx of any other call                             Unavailable
``NoSuchDistribution``, ``AccessDenied``, a key   Misconfigured
anything else                                     Misconfigured: a proxy may have answered
================================================= ==========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

from listener.alibaba.replies import scrub
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    OutcomeUnknown,
    TargetError,
    Throttled,
    Unavailable,
    WindowFull,
)
from listener.targets.cloudfront.wire import Failure

__all__ = ["ACCESS_DENIED", "KEY_CODES", "NO_INVALIDATION", "Request", "Sent", "error_of"]

THROTTLED_SECONDS: Final = 2.0
"""CloudFront names no time; in 2022 an engineer of AWS named one call in two seconds."""
ACCESS_DENIED: Final = "AccessDenied"
NO_INVALIDATION: Final = "NoSuchInvalidation"
THROTTLES: Final = frozenset(
    {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown"}
)
KEY_CODES: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""What is wrong is the key, or the clock."""


class Sent(NamedTuple):
    """What the answer is about."""

    action: str
    distribution: str
    what: str
    """In words."""
    urls: Sequence[str] = ()
    """Of a request that creates an invalidation; empty for any other."""
    refill_seconds: float = 1.0
    """How long until the next request of this kind fits."""


class Request(NamedTuple):
    """One call."""

    method: str
    path: str
    """Below the distribution."""
    sent: Sent
    body: bytes = b""
    query: str = ""


def error_of(failure: Failure, sent: Sent, *, secrets: Sequence[str]) -> TargetError:
    """Return the error, by what can be done about it; ``secrets`` are in none."""
    status, code = failure.status, failure.code
    # Below the first line AWS may quote the signed request, which contains the session token.
    reason = scrub(failure.message.partition("\n")[0], secrets) or "without a reason"
    words = f"CloudFront answered {sent.what} with HTTP {status}{f' {code}' if code else ''}: {reason}"
    ids = {"code": code, "request_id": scrub(failure.request_id, secrets)[:100]}
    if code == "TooManyInvalidationsInProgress":
        return WindowFull(words, retry_after_seconds=sent.refill_seconds, **ids)
    if code in THROTTLES or status == HTTPStatus.TOO_MANY_REQUESTS:
        return Throttled(words, retry_after_seconds=THROTTLED_SECONDS, **ids)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return (OutcomeUnknown if sent.urls else Unavailable)(words, **ids)
    if sent.urls and (code == "BatchTooLarge" or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        return BatchTooLarge(words, **ids)
    if sent.urls and code in ("InvalidArgument", "InvalidationBatchAlreadyExists"):
        return BatchRejected(words, **ids)
    return Misconfigured(words, hint=_hint(failure, sent), **ids)


def _hint(failure: Failure, sent: Sent) -> str:
    if failure.code == "NoSuchDistribution":
        return (
            f"correct `distribution`: {sent.distribution} is none of the AWS account whose key is used"
            " (`aws sts get-caller-identity` shows which)"
        )
    if failure.code == ACCESS_DENIED:
        return (
            f"allow cloudfront:{sent.action} on distribution/{sent.distribution} for this key"
            " (config/policies/iam-cloudfront.json); it may be a distribution of another AWS account"
        )
    if failure.code in KEY_CODES:
        clock = "the clock of this machine (`date -u`), and "
        return f"check {clock}the AWS key: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or the role"
    return "check `endpoint_url` and any proxy before it"
