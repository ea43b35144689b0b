"""Answers are read strictly, whatever they hold; nothing secret of them reaches a message."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.alibaba.replies import (
    MESSAGE_CHARACTERS,
    Failure,
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
from listener.refresh import QuotaReading, RefreshKind, TaskState

NOW = 1767323045.0
DATE = "Fri, 02 Jan 2026 03:04:05 GMT"
ROW = {
    "TaskId": "95248880",
    "ObjectPath": "http://example.com/a.txt",
    "ObjectType": "file",
    "Status": "Complete",
    "Process": "100%",
    "CreationTime": "2026-01-02T03:04:05Z",
    "Description": "",
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["Tasks", "CDNTask", *ROW]), inner),
    max_leaves=10,
)


def failure(body: bytes, status: int = 400, **headers: str) -> Failure:
    """Read an answer as the client does."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_failure(status, names, body, now=NOW, secrets=["testsecret", "tok/en+=="])


def test_a_failure_is_read_field_by_field() -> None:
    """Code, message, request id, the wait in milliseconds and the clock's skew arrive."""
    body = json.dumps({"Code": "Throttling", "Message": "too fast", "RequestId": "R", "HostId": "h"}).encode()
    assert failure(body, 503, x_acs_retry_after="1500", date=DATE) == Failure(
        503, "Throttling", "too fast", "R", 1.5, 0
    )


@pytest.mark.parametrize(
    "body", [b"", b"<html>502</html>", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"Code": {}}']
)
def test_a_body_of_another_kind_leaves_the_fields_empty(body: bytes) -> None:
    """Neither a proxy's page nor a hostile body raises; nothing of it is repeated."""
    assert failure(body, 502) == Failure(502)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("1500", 1.5), ("1", 0.001), ("0", None), ("", None), ("-5", None), ("soon", None), ("99999999999", 3600.0)],
)
def test_the_wait_is_bounded(header: str, seconds: float | None) -> None:
    """Milliseconds become seconds, at most an hour; nonsense means no wait."""
    assert retry_after_seconds(header) == seconds


@pytest.mark.parametrize(
    ("date", "now", "skew"),
    [(DATE, NOW, 0.0), (DATE, NOW + 1020, 1020.0), (DATE, NOW - 60, -60.0), ("", NOW, None), ("yesterday", NOW, None)],
)
def test_the_clock_is_compared_with_the_date_of_the_answer(date: str, now: float, skew: float | None) -> None:
    """Positive when the clock here is ahead; unknown without a usable date."""
    assert clock_skew_seconds(date, now) == skew


@pytest.mark.parametrize(
    "message",
    [
        "Specified signature is not matched. server string to sign is:POST&%2F&AccessKeyId%3Dtestid%26Secret",
        "canonicalRequest is POST\n/\n\nhost:x AccessKeyId%3Dtestid%26Secret",
        "bad StringToSign AccessKeyId%3Dtestid%26Secret",
    ],
)
def test_signing_material_is_never_repeated(message: str) -> None:
    """The service echoes the string to sign: it stays out of every message."""
    error = classify(failure(json.dumps({"Code": "SignatureDoesNotMatch", "Message": message}).encode()))
    assert "testid" not in str(error)
    assert "left out" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "key testsecret refused",
        "SecurityToken=tok/en+== refused",
        "SecurityToken%3Dtok%2Fen%2B%3D%3D refused",
        "x-acs-security-token:tok/en+== refused",
        "tok%2Fen%2B%3D%3D",
        "Signature=abcdef",
    ],
)
def test_secrets_are_struck_out_in_every_encoding(text: str) -> None:
    """Neither the secret nor the token nor a signature survives, plain or percent-encoded."""
    shown = scrub(text, ["testsecret", "tok/en+=="])
    assert "***" in shown
    assert not any(part in shown for part in ("testsecret", "tok/en", "tok%2Fen", "abcdef"))


@given(st.text(), st.sampled_from(["code", "message", "request"]))
def test_a_message_stays_on_one_line_and_short(text: str, where: str) -> None:
    """No text from outside can break a log line or fill a screen."""
    name = {"code": "Code", "message": "Message", "request": "RequestId"}[where]
    shown = str(classify(failure(json.dumps({name: text * 50}).encode())))
    assert shown.isprintable()
    assert len(shown) < MESSAGE_CHARACTERS + 100
    assert len(scrub(text * 50)) <= MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({"RefreshTaskId": "1"}, ("1",)),
        ({"RefreshTaskId": "1, 2,2,"}, ("1", "2")),
        ({"RefreshTaskId": 17}, ("17",)),
        ({"PushTaskId": "9524"}, ("9524",)),
    ],
)
def test_task_ids_are_read(fields: dict[str, Any], ids: tuple[str, ...]) -> None:
    """One id, several separated by commas, a number, or a prefetch's: each once, in order."""
    receipt = parse_receipt({**fields, "RequestId": "R"})
    assert receipt.task_ids == ids
    assert receipt.request_id == "R"


@pytest.mark.parametrize("fields", [{}, {"RefreshTaskId": ""}, {"RefreshTaskId": None}, {"RefreshTaskId": "a b\n"}])
def test_an_answer_without_a_task_is_no_receipt(fields: dict[str, Any]) -> None:
    """A success that names no task does not pass for one."""
    with pytest.raises(ReplyError):
        parse_receipt(fields)


@pytest.mark.parametrize("shape", [lambda rows: {"Tasks": {"CDNTask": rows}}, lambda rows: {"Tasks": rows}])
def test_both_shapes_of_the_task_list_are_read(shape: Any) -> None:
    """The list wraps its rows in CDNTask, the query by id does not."""
    (task,) = parse_tasks(shape([ROW]))
    assert (task.task_id, task.url, task.kind) == ("95248880", "http://example.com/a.txt", RefreshKind.FILE)
    assert (task.state, task.created_at, task.progress) == (TaskState.COMPLETE, NOW, "100%")
    assert parse_tasks(shape([])) == []


@pytest.mark.parametrize(
    ("status", "state", "description"),
    [
        ("Complete", TaskState.COMPLETE, "why"),
        ("Refreshing", TaskState.REFRESHING, "why"),
        ("Pending", TaskState.PENDING, "why"),
        ("Failed", TaskState.FAILED, "why"),
        ("Timeout", TaskState.FAILED, "timeout: why"),
        ("Canceled", TaskState.FAILED, "canceled: why"),
        ("Enlightened", TaskState.REFRESHING, "why"),
    ],
)
def test_each_status_has_its_state(status: str, state: TaskState, description: str) -> None:
    """Late additions fail with their name; an unheard-of status never counts as done."""
    (task,) = parse_tasks({"Tasks": [{**ROW, "Status": status, "Description": "why"}]})
    assert (task.state, task.description) == (state, description)


@pytest.mark.parametrize(
    ("reported", "kind"),
    [
        ("file", RefreshKind.FILE),
        ("File", RefreshKind.FILE),
        ("directory", RefreshKind.DIRECTORY),
        ("path", RefreshKind.DIRECTORY),
        ("ignoreparams", RefreshKind.IGNORE_PARAMS),
        ("preload", RefreshKind.PREFETCH),
    ],
)
def test_each_object_type_has_its_kind(reported: str, kind: RefreshKind) -> None:
    """Both API versions' words are understood in any case."""
    (task,) = parse_tasks({"Tasks": [{**ROW, "ObjectType": reported}]})
    assert task.kind is kind


def test_rows_of_others_are_left_out() -> None:
    """A regular-expression task of the same account, or a broken row, does not disturb."""
    rows = [{**ROW, "ObjectType": "regex"}, {**ROW, "TaskId": None}, "row", {**ROW, "CreationTime": "soon"}]
    (task,) = parse_tasks({"Tasks": rows})
    assert task.created_at is None


@given(anything)
def test_no_json_at_all_breaks_the_readers(value: Any) -> None:
    """Whatever the fields hold, readers return or refuse, and never raise anything else."""
    fields = {"Tasks": value, "RefreshTaskId": value, "UrlQuota": value, "UrlRemain": value, "Code": value}
    for read in (parse_tasks, parse_receipt, parse_quota):
        with contextlib.suppress(ReplyError):
            read(fields)
    classify(failure(json.dumps(fields).encode()))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"1", b'"a"'])
def test_only_a_json_object_is_an_answer(body: bytes) -> None:
    """Anything else is refused as such."""
    with pytest.raises(ReplyError):
        parse_object(body)


def test_the_quota_is_read_as_strings_or_numbers_in_any_case_with_parts_missing() -> None:
    """Every kind that is reported as a pair is read; the rest is left out, never guessed."""
    reported = {"UrlQuota": "10000", "urlremain": 9000, "DirQuota": 100, "DirRemain": "99", "PreloadQuota": "500"}
    noise = {"IgnoreParamsQuota": "-1", "IgnoreParamsRemain": "1", "RegexQuota": "20", "RegexRemain": "20"}
    assert parse_quota({**reported, **noise}) == {
        RefreshKind.FILE: QuotaReading(10000, 9000),
        RefreshKind.DIRECTORY: QuotaReading(100, 99),
    }
    assert parse_quota({"PreloadQuota": True, "PreloadRemain": "many"}) == {}


@pytest.mark.parametrize("count", [10**15, 10**40, -1])
def test_a_quota_beyond_any_account_is_not_read(count: int) -> None:
    """A number that the state file could not hold is no reading: the configured limit stays."""
    assert parse_quota({"UrlQuota": count, "UrlRemain": count, "DirQuota": 100, "DirRemain": 7}) == {
        RefreshKind.DIRECTORY: QuotaReading(100, 7)
    }


def test_an_answer_of_brackets_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty megabytes of empty lists would take gigabytes."""
    parsed: list[object] = []
    monkeypatch.setattr("listener.alibaba.replies.json.loads", parsed.append)
    with pytest.raises(ReplyError, match="objects and lists"):
        parse_object(b'{"Tasks":[' + b"[]," * 200_000 + b"[]]}")
    assert parsed == []
