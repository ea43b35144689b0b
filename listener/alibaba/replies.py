"""
What Alibaba Cloud's CDN answers, and what to do about it; pure.

Answers come from outside: they are read strictly, and what of them reaches a message is bounded and scrubbed.

One table says what to do about an answer that is no success. The same code comes with different HTTP statuses in
different places, so the code decides (the longest prefix in :data:`TABLE` wins) and the status only where the code is
absent or unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import quote, quote_plus

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
from listener.refresh import QuotaReading, Receipt, RefreshKind, Task, TaskState
from listener.text import MAX_OBJECTS, header_time, is_too_large, whole_number

__all__ = [
    "CDN_HINTS",
    "CLOCK_TOLERANCE_SECONDS",
    "LONGEST_WAIT_SECONDS",
    "MESSAGE_CHARACTERS",
    "STATUS_TABLE",
    "TABLE",
    "Failure",
    "Hints",
    "Remedy",
    "ReplyError",
    "Rule",
    "classify",
    "clock_skew_seconds",
    "parse_failure",
    "parse_object",
    "parse_quota",
    "parse_receipt",
    "parse_tasks",
    "parse_usage",
    "retry_after_seconds",
    "rule_for",
    "scrub",
]


MESSAGE_CHARACTERS = 300
"""How much of the CDN's own words a message repeats."""
LONGEST_WAIT_SECONDS = 3600.0
"""What an answer may make us wait at most."""


class ReplyError(ValueError):
    """The answer is not what the API gives."""


class Failure(NamedTuple):
    """An answer that is no success, as far as it could be read."""

    status: int
    code: str = ""
    message: str = ""
    request_id: str = ""
    retry_after_seconds: float | None = None
    clock_skew_seconds: float | None = None
    """How far the clock here is ahead of the CDN's; negative when behind."""


def parse_failure(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Collection[str] = ()
) -> Failure:
    """
    Read an answer that is no success; whatever cannot be read is left empty.

    ``headers`` finds names in any case, or has lower-case names; ``now`` is in seconds since the epoch;
    ``secrets`` never appear in the result, in whatever encoding the answer echoes them.
    """
    try:
        fields = parse_object(body)
    except ReplyError:
        fields = {}
    return Failure(
        status,
        scrub(_text(fields, "Code"), secrets)[:100],
        scrub(_text(fields, "Message"), secrets),
        scrub(_text(fields, "RequestId"), secrets)[:100],
        retry_after_seconds(headers.get("x-acs-retry-after", "")),
        clock_skew_seconds(headers.get("date", ""), now),
    )


def retry_after_seconds(milliseconds: str) -> float | None:
    """Return the wait in ``x-acs-retry-after``, at most an hour; ``None`` without one."""
    asked = whole_number(milliseconds)
    return min(asked / 1000, LONGEST_WAIT_SECONDS) if asked else None


def clock_skew_seconds(date: str, now: float) -> float | None:
    """Return how far ``now`` is ahead of an answer's ``Date`` header, in seconds; ``None`` without a usable one."""
    sent_at = header_time(date)
    return None if sent_at is None else now - sent_at


_ECHO = re.compile(r"(server )?(string ?to ?sign|canonical ?request)\b.*", re.IGNORECASE | re.DOTALL)
_VALUE = re.compile(
    r"(Signature|SecurityToken|x-acs-security-token|AccessKeySecret|Authorization)(=|:|%3D)[^\s&,;\"']+", re.IGNORECASE
)


def scrub(text: str, secrets: Collection[str] = ()) -> str:
    """Return at most 300 characters of a text from outside, on one line, without secrets or echoed signing material."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in {secret, quote(secret, safe=""), quote(secret, safe="~"), quote_plus(secret)}:
            text = text.replace(form, "***")
    text = _VALUE.sub(r"\1\2***", _ECHO.sub("(signing material left out)", text[: 50 * MESSAGE_CHARACTERS]))
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[: MESSAGE_CHARACTERS - 1]}…"


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raise :class:`ReplyError` for anything else."""
    if is_too_large(body):
        raise ReplyError(f"the answer has more than {MAX_OBJECTS} objects and lists")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ReplyError("the answer is not JSON") from error
    if not isinstance(parsed, dict):
        raise ReplyError("the answer is not a JSON object")
    return parsed


_RECEIPTS = ("RefreshTaskId", "PushTaskId", "PreloadTaskId", "TaskId")
"""Fields with the task ids of a request: refreshes; prefetches of CDN, and of DCDN; purges of ESA."""


def parse_receipt(fields: Mapping[str, Any]) -> Receipt:
    """Return the task ids of a refresh or prefetch. Raise :class:`ReplyError` when there are none."""
    text = next(filter(None, (_text(fields, name) for name in _RECEIPTS)), "")
    ids = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not ids or not all(re.fullmatch(r"[\w.-]{1,128}", part) for part in ids):
        raise ReplyError("the answer names no task")
    return Receipt(ids, scrub(_text(fields, "RequestId"))[:100])


_KINDS = {
    "file": RefreshKind.FILE,
    "directory": RefreshKind.DIRECTORY,
    "path": RefreshKind.DIRECTORY,  # 2014-11-11
    "ignoreparams": RefreshKind.IGNORE_PARAMS,
    "exquery": RefreshKind.IGNORE_PARAMS,
    "preload": RefreshKind.PREFETCH,
    "push": RefreshKind.PREFETCH,
}
_STATES = {
    "complete": TaskState.COMPLETE,
    "failed": TaskState.FAILED,
    "timeout": TaskState.FAILED,
    "canceled": TaskState.FAILED,
    "cancelled": TaskState.FAILED,
    "pending": TaskState.PENDING,
}


def parse_tasks(fields: Mapping[str, Any]) -> list[Task]:
    """
    Return the tasks of a query: ``Tasks.CDNTask[]`` or DCDN's ``Tasks.Task[]`` of a list, else ``Tasks[]``.

    ESA calls the path ``Content``, its type ``Type`` and the time ``CreateTime``.

    Rows of a kind that we never ask for are left out; an unknown status counts as still under way.
    Raise :class:`ReplyError` when there is no such list.
    """
    rows = fields.get("Tasks", [])
    rows = rows.get("CDNTask", rows.get("Task", [])) if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise ReplyError("the answer holds no list of tasks")
    return [task for row in rows if isinstance(row, dict) and (task := _task(row))]


def _task(row: Mapping[str, Any]) -> Task | None:
    kind = _KINDS.get((_text(row, "ObjectType") or _text(row, "Type")).lower())
    task_id, status = _text(row, "TaskId"), _text(row, "Status").lower()
    url, created = _text(row, "ObjectPath") or _text(row, "Content"), _text(row, "CreationTime")
    if kind is None or not task_id or not url:
        return None
    description = scrub(_text(row, "Description"))
    if status in {"timeout", "canceled", "cancelled"}:
        description = f"{status}: {description}" if description else status
    state = _STATES.get(status, TaskState.REFRESHING)
    created_at = _epoch(created or _text(row, "CreateTime"))
    return Task(task_id, url, kind, state, created_at, _text(row, "Process")[:20], description)


MOST_COUNTED = 10**15
"""More units than any account has; larger numbers cannot be kept."""
_QUOTAS = {
    RefreshKind.FILE: "url",
    RefreshKind.DIRECTORY: "dir",
    RefreshKind.IGNORE_PARAMS: "ignoreparams",
    RefreshKind.PREFETCH: "preload",
}


def parse_quota(fields: Mapping[str, Any]) -> dict[RefreshKind, QuotaReading]:
    """Return the quota of each kind in the answer: numbers or strings, names in any case, some missing."""
    lower = {name.lower(): _count(value) for name, value in fields.items()}
    return {
        kind: QuotaReading(limit, min(remaining, limit))
        for kind, name in _QUOTAS.items()
        if (limit := lower.get(f"{name}quota")) is not None and (remaining := lower.get(f"{name}remain")) is not None
    }


def parse_usage(fields: Mapping[str, Any], limit: str, used: str) -> QuotaReading | None:
    """Return what is left of a limit, by the fields that have the limit and what is used; None without them."""
    units, spent = _count(fields.get(limit)), _count(fields.get(used))
    return None if units is None or spent is None else QuotaReading(units, max(0, units - spent))


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value < MOST_COUNTED else None
    return whole_number(value) if isinstance(value, str) else None


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else str(value) if type(value) is int else ""


def _epoch(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


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


class Hints(NamedTuple):
    """What the hints of :data:`TABLE` name, which differs between services. The defaults are those of CDN."""

    key: str = "ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET"
    """Where the access key comes from."""
    actions: str = "cdn:RefreshObjectCaches, cdn:PushObjectCache and cdn:DescribeRefresh*"
    """RAM actions that the key needs."""
    endpoint: str = "endpoint and api_version"
    """Settings that say which API is called."""
    object_type: str = "ignore_params_type or api_version"
    """Settings that say which types of refresh are known."""
    console: str = "CDN"
    """The console of the service."""
    quota_ends: str = "the day ends at 00:00 UTC+8; more quota: the vendor's Quota Center"
    rules: tuple[Rule, ...] = ()
    """Codes that this service alone has, as rows of :data:`TABLE`."""


CDN_HINTS: Final = Hints()
"""Those of CDN."""

_KEY = "check {key}"
_RAM = "grant this key the RAM actions {actions}"
_ENDPOINT = "check the target's {endpoint}"
_BUG = "this should not happen with a supported API version: please report it"
_ACCOUNT = "look at the {console} console: the service may be inactive, suspended or overdue"
_PATH = "the URL is malformed, or its domain is not one of this account's, or not online yet"
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
    Rule("QuotaExceeded", Remedy.TOMORROW, "{quota_ends}"),
    Rule("InvalidObjectPath", Remedy.FIND_CULPRIT, _PATH),
    Rule("ObjectPath.Malformed", Remedy.FIND_CULPRIT, _PATH),  # 2014-11-11
    Rule("InvalidExtensiveDomain", Remedy.FIND_CULPRIT, "wildcard domains cannot be refreshed: name each sub-domain"),
    Rule("InvalidDomain", Remedy.FIND_CULPRIT, _DOMAIN),
    Rule("InvalidObjectPath.Size", Remedy.HALVE),
    Rule("InvalidObjectPath.ExceedsMaximum", Remedy.HALVE),
    Rule("SingleRequest.OverLimit", Remedy.HALVE),
    Rule("InvalidObjectType", Remedy.STOP, "this account does not know the type: set {object_type}"),
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


def rule_for(status: int, code: str, own: Sequence[Rule] = ()) -> Rule:
    """Return the row with the remedy: by the code's longest prefix, in a service's ``own`` rows too, else by status."""
    rows = [rule for rule in (*TABLE, *own) if code.startswith(rule.prefix)]
    if rows:
        return max(rows, key=lambda rule: len(rule.prefix))
    if status in STATUS_TABLE:
        return STATUS_TABLE[status]
    return Rule("", Remedy.STOP, _ENDPOINT) if 300 <= status < 500 else Rule("", Remedy.ASK)


def classify(failure: Failure, hints: Hints = CDN_HINTS) -> TargetError:
    """Return the error to raise, drawn by remedy; its message names code and request id and repeats the CDN."""
    rule = rule_for(failure.status, failure.code, hints.rules)
    error = _error(rule, failure)
    error.hint = rule.hint.format_map(hints._asdict())
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
