"""Reading answers strictly: they come from outside, and what of them reaches a message is bounded and scrubbed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

from listener.numbers import MAX_OBJECTS, header_time, is_too_large, whole_number
from listener.refresh import QuotaReading, Receipt, RefreshKind, Task, TaskState

__all__ = [
    "LONGEST_WAIT_SECONDS",
    "MESSAGE_CHARACTERS",
    "Failure",
    "ReplyError",
    "clock_skew_seconds",
    "parse_failure",
    "parse_object",
    "parse_quota",
    "parse_receipt",
    "parse_tasks",
    "retry_after_seconds",
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


def parse_receipt(fields: Mapping[str, Any]) -> Receipt:
    """Return the task ids of a refresh or prefetch. Raise :class:`ReplyError` when there are none."""
    text = _text(fields, "RefreshTaskId") or _text(fields, "PushTaskId")
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
    Return the tasks of either query: ``Tasks.CDNTask[]`` of the list, ``Tasks[]`` of the query by id.

    Rows of a kind that we never ask for are left out; an unknown status counts as still under way.
    Raise :class:`ReplyError` when there is no such list.
    """
    rows = fields.get("Tasks", [])
    rows = rows.get("CDNTask", []) if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise ReplyError("the answer holds no list of tasks")
    return [task for row in rows if isinstance(row, dict) and (task := _task(row))]


def _task(row: Mapping[str, Any]) -> Task | None:
    kind = _KINDS.get(_text(row, "ObjectType").lower())
    task_id, url, status = _text(row, "TaskId"), _text(row, "ObjectPath"), _text(row, "Status").lower()
    if kind is None or not task_id or not url:
        return None
    description = scrub(_text(row, "Description"))
    if status in {"timeout", "canceled", "cancelled"}:
        description = f"{status}: {description}" if description else status
    state = _STATES.get(status, TaskState.REFRESHING)
    return Task(task_id, url, kind, state, _epoch(_text(row, "CreationTime")), _text(row, "Process")[:20], description)


MOST_COUNTED = 10**15
"""More units than any account has; larger numbers cannot be kept."""
_QUOTAS = {
    RefreshKind.FILE: "url",
    RefreshKind.DIRECTORY: "dir",
    RefreshKind.IGNORE_PARAMS: "ignoreparams",
    RefreshKind.PREFETCH: "preload",
}


def parse_quota(fields: Mapping[str, Any]) -> dict[RefreshKind, QuotaReading]:
    """Return the quota of each kind that the answer tells: numbers or strings, names in any case, some missing."""
    lower = {name.lower(): _count(value) for name, value in fields.items()}
    return {
        kind: QuotaReading(limit, min(remaining, limit))
        for kind, name in _QUOTAS.items()
        if (limit := lower.get(f"{name}quota")) is not None and (remaining := lower.get(f"{name}remain")) is not None
    }


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
