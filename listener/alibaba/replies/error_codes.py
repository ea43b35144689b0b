"""
What to do about an answer that is no success: one table from error code to remedy.

The same code comes with different HTTP statuses in different places, so the code decides (the
longest prefix in :data:`TABLE` wins) and the status only where the code is absent or unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from listener.alibaba.replies.reading import Failure
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    OutcomeUnknown,
    QuotaExhausted,
    TargetError,
    Throttled,
    Unavailable,
    WindowFull,
)

__all__ = ["CLOCK_TOLERANCE_SECONDS", "STATUS_TABLE", "TABLE", "Remedy", "Rule", "classify", "rule_for"]

CLOCK_TOLERANCE_SECONDS = 15 * 60
"""Requests whose timestamp is further off are refused (the signature pages of the vendor)."""


class Remedy(StrEnum):
    """What helps."""

    RETRY = "retry"
    """Surely not accepted: try again with back-off."""
    WAIT = "wait"
    """Surely not accepted: try again after the time that the answer or the table gives."""
    NEXT_MINUTE = "next minute"
    RESIGN = "sign again"
    """The nonce was seen before: sign with a new one and send at once."""
    TOMORROW = "wait for the reset"
    HALVE = "halve the batch"
    FIND_CULPRIT = "find the culprit"
    RENEW_KEY = "renew the key"
    """The temporary key is over: fetch a new one, try once more, else stop."""
    SET_CLOCK = "set the clock"
    STOP = "stop and say so"
    ASK = "ask the task list"
    """The response does not show whether it was accepted."""


class Rule(NamedTuple):
    """One row of the table."""

    prefix: str
    remedy: Remedy
    hint: str = ""
    wait_seconds: float = 1.0
    """For the two waiting remedies, where the answer names no time."""


_KEY = "check ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
_RAM = "grant this key the RAM actions cdn:RefreshObjectCaches, cdn:PushObjectCache and cdn:DescribeRefresh*"
_ENDPOINT = "check the target's endpoint and api_version"
_BUG = "this should not happen with a supported API version: please report it"
_ACCOUNT = "look at the CDN console: the service may be inactive, suspended or overdue"
_PATH = "one URL of the batch is malformed"
_DOMAIN = "check that the domain belongs to this account and is online"

TABLE: tuple[Rule, ...] = (
    Rule("Throttling", Remedy.WAIT, "lower limits.calls_per_second"),
    Rule("TooManyRequests", Remedy.WAIT, "lower limits.calls_per_second"),
    Rule("TooMany.Refresh", Remedy.WAIT, "the refresh queue of the CDN is full", 30.0),
    Rule("PreloadQueueFull", Remedy.WAIT, "the prefetch queue is full, or the day's prefetch quota is used up", 60.0),
    Rule("QuotaPerMinuteExceeded", Remedy.NEXT_MINUTE, "lower limits.urls_per_domain_minute", 60.0),
    Rule("ServiceBusy", Remedy.RETRY, "the domain is being configured"),
    Rule("ServiceUnavailable", Remedy.ASK),  # "a temporary failure of the server": before or after, it does not say
    Rule("InternalError", Remedy.ASK),
    Rule("SignatureNonceUsed", Remedy.RESIGN),
    Rule("QuotaExceeded", Remedy.TOMORROW, "the day ends at 00:00 UTC+8; more quota: the vendor's Quota Center"),
    Rule("InvalidObjectPath", Remedy.FIND_CULPRIT, _PATH),
    Rule("ObjectPath.Malformed", Remedy.FIND_CULPRIT, _PATH),  # 2014-11-11
    Rule("InvalidExtensiveDomain", Remedy.FIND_CULPRIT, "wildcard domains cannot be refreshed: name each sub-domain"),
    Rule("InvalidDomain", Remedy.FIND_CULPRIT, _DOMAIN),
    Rule("InvalidObjectPath.Size", Remedy.HALVE),
    Rule("InvalidObjectPath.ExceedsMaximum", Remedy.HALVE),
    Rule("SingleRequest.OverLimit", Remedy.HALVE),
    Rule(
        "InvalidObjectType", Remedy.STOP, "this account does not know the type: set ignore_params_type or api_version"
    ),
    Rule("MissingParameter", Remedy.STOP, _BUG),
    Rule("IllegalOperation", Remedy.STOP, _ACCOUNT),
    Rule("OperationDenied", Remedy.STOP, _ACCOUNT),
    Rule("InvalidAccessKeyId", Remedy.STOP, _KEY),
    Rule("SignatureDoesNotMatch", Remedy.STOP, f"{_KEY}, and that nothing between rewrites requests"),
    Rule("IncompleteSignature", Remedy.STOP, _BUG),
    Rule("InvalidTimeStamp.Expired", Remedy.SET_CLOCK, "synchronise the clock of this machine (NTP)"),
    Rule("InvalidTimeStamp", Remedy.STOP, _BUG),
    Rule("InvalidSecurityToken", Remedy.RENEW_KEY, "renew the temporary key, or set credentials = 'default-chain'"),
    Rule("Forbidden", Remedy.STOP, _RAM),
    Rule("NoPermission", Remedy.STOP, _RAM),
    Rule("Forbidden.RiskControl", Remedy.STOP, _ACCOUNT),
    Rule("InvalidAction", Remedy.STOP, _ENDPOINT),
    Rule("InvalidApi", Remedy.STOP, _ENDPOINT),
    Rule("InvalidVersion", Remedy.STOP, _ENDPOINT),
    Rule("InvalidProtocol", Remedy.STOP, "use an https:// endpoint"),
    Rule("UnsupportedHTTPMethod", Remedy.STOP, _ENDPOINT),
    Rule("InvalidTaskId", Remedy.STOP, _BUG),
    Rule("InvalidStartTime", Remedy.STOP, _BUG),
    Rule("InvalidEndTime", Remedy.STOP, _BUG),
    Rule("InvalidStatus", Remedy.STOP, _BUG),
)
"""Longest prefix first found by :func:`rule_for`; from the vendor's error tables of both API versions."""

STATUS_TABLE: Mapping[int, Rule] = {
    408: Rule("", Remedy.ASK),
    413: Rule("", Remedy.HALVE),
    414: Rule("", Remedy.HALVE),
    429: Rule("", Remedy.WAIT, "lower limits.calls_per_second"),
}
"""Where the code is absent or unknown; else 4xx and 3xx stop, and 5xx and a 2xx that cannot be read are unknown."""


def rule_for(status: int, code: str) -> Rule:
    """Return the row that tells what to do: by the code's longest prefix, else by status."""
    rows = [rule for rule in TABLE if code.startswith(rule.prefix)]
    if rows:
        return max(rows, key=lambda rule: len(rule.prefix))
    if status in STATUS_TABLE:
        return STATUS_TABLE[status]
    return Rule("", Remedy.STOP, _ENDPOINT) if 300 <= status < 500 else Rule("", Remedy.ASK)


def classify(failure: Failure) -> TargetError:
    """Return the error to raise, drawn by remedy; its message names code and request id and repeats the CDN."""
    rule = rule_for(failure.status, failure.code)
    error = _error(rule, failure)
    error.hint = rule.hint
    return error


_PLAIN: Mapping[Remedy, type[TargetError]] = {
    Remedy.RETRY: Unavailable,
    Remedy.RESIGN: Unavailable,
    Remedy.TOMORROW: QuotaExhausted,
    Remedy.HALVE: BatchTooLarge,
    Remedy.STOP: Misconfigured,
    Remedy.RENEW_KEY: Misconfigured,
    Remedy.SET_CLOCK: Misconfigured,
    Remedy.ASK: OutcomeUnknown,
}
_WAITING = {Remedy.WAIT: Throttled, Remedy.NEXT_MINUTE: WindowFull}


def _error(rule: Rule, failure: Failure) -> TargetError:
    message, code, request_id = _describe(failure, rule), failure.code, failure.request_id
    if rule.remedy in _WAITING:
        wait = failure.retry_after_seconds or rule.wait_seconds
        return _WAITING[rule.remedy](message, retry_after_seconds=wait, code=code, request_id=request_id)
    if rule.remedy is Remedy.FIND_CULPRIT:
        return BatchRejected(message, domain=_named_domain(failure), code=code, request_id=request_id)
    return _PLAIN[rule.remedy](message, code=code, request_id=request_id)


def _describe(failure: Failure, rule: Rule) -> str:
    skew = f"{_skew(failure)}; " if rule.remedy is Remedy.SET_CLOCK else ""
    named = f"{failure.code or 'no error code'} (HTTP {failure.status})"
    details = f": {failure.message}" if failure.message else ""
    asked = f" [request {failure.request_id}]" if failure.request_id else ""
    return f"{skew}the CDN answered {named}{details}{asked}"


def _named_domain(failure: Failure) -> str | None:
    if "Domain" not in failure.code:
        return None
    found = re.search(r"\[\s*([A-Za-z0-9*._:-]{1,260})\s*\]", failure.message)
    return found[1].lower() if found else None


def _skew(failure: Failure) -> str:
    skew = failure.clock_skew_seconds
    if skew is None:
        return f"the clock of this machine is more than {CLOCK_TOLERANCE_SECONDS} s off"
    direction = "ahead of" if skew >= 0 else "behind"
    return f"the clock of this machine is {abs(skew):.0f} s {direction} the CDN's (at most {CLOCK_TOLERANCE_SECONDS} s)"
