"""Error codes of SQS, by what can be done about them."""

from __future__ import annotations

from typing import Final

from listener.egress import connection_advice
from listener.redaction import mask_text
from listener.sources.queue.errors import QueueError, Remedy

__all__ = ["refused", "unreachable"]

LONGEST_MESSAGE: Final = 300

_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_UNKNOWN_KEY: Final = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NoCredentials",
        "NotAuthorized",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""The key is wrong; it is reloaded each time, because keys are rotated by replacing files."""
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "OptInRequired", "UnauthorizedOperation"})
_MISSING: Final = frozenset(
    {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NonExistentQueue", "InvalidAddress"}
)
_WAIT: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "KmsThrottled",
        "LimitExceededException",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_HINTS: Final = {
    **dict.fromkeys(_EXPIRED, "the key is reloaded from where AWS's chain found it; renew it there"),
    **dict.fromkeys(
        _UNKNOWN_KEY, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile or the role, and the clock"
    ),
    **dict.fromkeys(
        _DENIED, "allow this key sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility: "
        "`cdn-listener check --print-setup SOURCE` prints the policy",
    ),
    **dict.fromkeys(_MISSING, "check queue_url and region; a deleted queue cannot be created again within a minute"),
    "OverLimit": "120,000 messages were received and not deleted: check the other readers of this queue",
}  # fmt: skip
_TOO_OLD: Final = ("signature expired", "signature not yet current", "request timestamp")


def refused(code: str, message: str, *, status: int = 400) -> QueueError:
    """Return the error for an error reply of the service."""
    last = code.rpartition("#")[2]
    # Below the first line AWS may quote the signed request, which contains the session token.
    first_line = message.partition("\n")[0][:LONGEST_MESSAGE]
    text = f"SQS answered {last or status}: {first_line}".rstrip(": ")
    if any(words in message.lower() for words in _TOO_OLD):
        return QueueError(text, remedy=Remedy.OPERATOR, code=last, hint="set this machine's clock")
    return QueueError(text, remedy=_remedy(last, status), code=last, hint=_hint(last))


def _remedy(code: str, status: int) -> Remedy:
    if code in _EXPIRED or code in _UNKNOWN_KEY:
        return Remedy.RENEW
    return Remedy.WAIT if code in _WAIT or status >= 500 or status == 429 else Remedy.OPERATOR


def _hint(code: str) -> str:
    return _HINTS.get(code) or (_HINTS["AccessDenied"] if code.startswith("KMS.AccessDenied") else "")


def unreachable(error: Exception, url: str) -> QueueError:
    """Return the error for a call to ``url`` without a reply."""
    advice = connection_advice(error, url, setting="queue_url or endpoint_url")
    cause = f"{advice.cause}: " if advice.cause else ""
    text = f"SQS cannot be reached: {cause}{mask_text(str(error)) or type(error).__name__}"
    return QueueError(text, remedy=Remedy.WAIT, hint=advice.hint)
