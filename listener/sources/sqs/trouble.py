"""What SQS refuses, by what can be done about it."""

from __future__ import annotations

from typing import Final

from listener.egress import connection_advice
from listener.redaction import mask_text
from listener.sources.trouble import QueueTrouble, Remedy

__all__ = ["Remedy", "SqsTrouble", "refused", "unreachable"]


class SqsTrouble(QueueTrouble):
    """A call to a queue of SQS failed."""


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
"""The key is not the right one; since keys are rotated by replacing files, it is read anew each time."""
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
    **dict.fromkeys(_EXPIRED, "the key is read anew from where AWS's chain found it; renew it there"),
    **dict.fromkeys(
        _UNKNOWN_KEY, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile or the role, and the clock"
    ),
    **dict.fromkeys(
        _DENIED, "allow this key sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility: "
        "`cdn-listener check --print-setup SOURCE` prints the policy",
    ),
    **dict.fromkeys(_MISSING, "check queue_url and region; a queue deleted a minute ago cannot be made anew yet"),
    "OverLimit": "120,000 messages were received and not deleted: look at the other readers of this queue",
}  # fmt: skip
_TOO_OLD: Final = ("signature expired", "signature not yet current", "request timestamp")


def refused(code: str, message: str, *, status: int = 400) -> SqsTrouble:
    """Return what became of a call that the service answered with an error."""
    last = code.rpartition("#")[2]
    # Refusing a signature, AWS quotes the signed request below its first line, the session token in it.
    first_line = message.partition("\n")[0][:LONGEST_MESSAGE]
    text = f"SQS answered {last or status}: {first_line}".rstrip(": ")
    if any(words in message.lower() for words in _TOO_OLD):
        return SqsTrouble(text, remedy=Remedy.TELL, code=last, hint="set this machine's clock")
    return SqsTrouble(text, remedy=_remedy(last, status), code=last, hint=_hint(last))


def _remedy(code: str, status: int) -> Remedy:
    if code in _EXPIRED or code in _UNKNOWN_KEY:
        return Remedy.RENEW
    return Remedy.WAIT if code in _WAIT or status >= 500 or status == 429 else Remedy.TELL


def _hint(code: str) -> str:
    return _HINTS.get(code) or (_HINTS["AccessDenied"] if code.startswith("KMS.AccessDenied") else "")


def unreachable(error: Exception, url: str) -> SqsTrouble:
    """Return what became of a call to ``url`` that got no answer."""
    advice = connection_advice(error, url, setting="queue_url or endpoint_url")
    cause = f"{advice.cause}: " if advice.cause else ""
    text = f"SQS cannot be reached: {cause}{mask_text(str(error)) or type(error).__name__}"
    return SqsTrouble(text, remedy=Remedy.WAIT, hint=advice.hint)
