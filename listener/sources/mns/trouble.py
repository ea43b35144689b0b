"""What the service refuses, by what can be done about it: one table from error code to remedy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS
from listener.sources.mns.wire import Failure
from listener.sources.trouble import QueueTrouble, Remedy

__all__ = ["GONE", "MnsTrouble", "Remedy", "refused", "unkeyed", "unreachable"]


class MnsTrouble(QueueTrouble):
    """A call to a queue of MNS failed."""


class _Rule(NamedTuple):
    remedy: Remedy
    hint: str = ""


_SETUP: Final = "`cdn-listener check --print-setup SOURCE` prints the policy"
_KEY: Final = "check ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
_RENEW: Final = _Rule(Remedy.RENEW, "renew the temporary key, or set credentials = 'default-chain'")
_WAIT: Final = _Rule(Remedy.WAIT)

TABLE: Final[Mapping[str, _Rule]] = {
    "AccessDenied": _Rule(Remedy.TELL, f"allow this key to receive, delete and release messages: {_SETUP}"),
    "InvalidAccessKeyId": _Rule(Remedy.RENEW, _KEY),
    "SignatureDoesNotMatch": _Rule(Remedy.RENEW, f"{_KEY}, and that nothing between rewrites requests"),
    "InvalidSecurityToken": _RENEW,
    "SecurityTokenExpired": _RENEW,
    "QueueNotExist": _Rule(Remedy.TELL, "check queue and endpoint (its account and region), or create the queue"),
    "InvalidQueueName": _Rule(Remedy.TELL, "check queue"),
    "TimeExpired": _Rule(Remedy.TELL, "synchronise the clock of this machine (NTP)"),
    "InvalidArgument": _Rule(Remedy.TELL, "check queue and wait_seconds"),
    "InvalidVersion": _Rule(Remedy.TELL, "check endpoint: it is none of MNS (SMQ) queues"),
    "ServiceNotOpen": _Rule(Remedy.TELL, "look at the console: the service may be inactive or overdue"),
    "QpsLimitExceeded": _Rule(Remedy.WAIT, "lower pollers, or look who else uses this queue"),
    "InternalError": _WAIT,
    "ServiceUnavailable": _WAIT,
}
"""From the vendor's page on error codes; the codes of keys that its SDK knows."""

GONE: Final = frozenset({"ReceiptHandleError", "MessageNotExist"})
"""The handle is over: the message was deleted, or received again under another."""


def refused(status: int, failure: Failure, *, skew_seconds: float | None = None) -> MnsTrouble:
    """Return what became of a call that the service answered with an error."""
    rule = TABLE.get(failure.code) or _by_status(status)
    skew = f"{_skew(skew_seconds)}; " if failure.code == "TimeExpired" else ""
    named = f"{failure.code or 'no error code'} (HTTP {status})"
    told = f": {failure.message}" if failure.message else ""
    asked = f" [request {failure.request_id}]" if failure.request_id else ""
    message = f"{skew}MNS answered {named}{told}{asked}"
    return MnsTrouble(message, remedy=rule.remedy, code=failure.code, hint=rule.hint)


def _by_status(status: int) -> _Rule:
    if status == 429:
        return TABLE["QpsLimitExceeded"]
    return _WAIT if status >= 500 else _Rule(Remedy.TELL, "check endpoint")


def _skew(seconds: float | None) -> str:
    if seconds is None:
        return f"the clock of this machine is more than {CLOCK_TOLERANCE_SECONDS} s off"
    direction = "ahead of" if seconds >= 0 else "behind"
    return f"the clock of this machine is {abs(seconds):.0f} s {direction} the service's"


def unreachable(what: str, *, hint: str = "check the network and endpoint") -> MnsTrouble:
    """Return what became of a call that got no answer that can be read."""
    return MnsTrouble(what, remedy=Remedy.WAIT, hint=hint)


def unkeyed(what: str, hint: str) -> MnsTrouble:
    """Return what becomes of every call while there is no access key."""
    return MnsTrouble(what, remedy=Remedy.TELL, code="NoKey", hint=hint)
