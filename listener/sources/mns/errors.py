"""Error codes of MNS, by what can be done about them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS
from listener.sources.mns.wire import ErrorReply
from listener.sources.queue.errors import QueueError, Remedy

__all__ = ["INVALID_HANDLE", "TABLE", "refused", "unreachable"]


class _Rule(NamedTuple):
    remedy: Remedy
    hint: str = ""


_SETUP: Final = "`cdn-listener check --print-setup SOURCE` prints the policy"
_KEY: Final = "check ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
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

INVALID_HANDLE: Final = frozenset({"ReceiptHandleError", "MessageNotExist"})
"""The message was deleted, or redelivered with another handle."""


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
