"""Every row of the vendor's error tables leads to its remedy."""

from __future__ import annotations

import pytest

from listener.alibaba.replies import STATUS_TABLE, TABLE, Failure, Remedy, classify, rule_for
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    NotSent,
    OutcomeUnknown,
    QuotaExhausted,
    TargetError,
    Throttled,
    Unavailable,
    WindowFull,
)

ROWS: list[tuple[str, int, Remedy, type[TargetError]]] = [
    ("Throttling", 503, Remedy.WAIT, Throttled),
    ("Throttling", 400, Remedy.WAIT, Throttled),
    ("Throttling.User", 400, Remedy.WAIT, Throttled),
    ("Throttling.Api", 400, Remedy.WAIT, Throttled),
    ("TooManyRequests", 429, Remedy.WAIT, Throttled),
    ("TooMany.Refresh", 400, Remedy.WAIT, Throttled),
    ("PreloadQueueFull", 403, Remedy.WAIT, Throttled),
    ("PreloadQueueFull", 400, Remedy.WAIT, Throttled),
    ("QuotaPerMinuteExceeded.Refresh", 400, Remedy.NEXT_MINUTE, WindowFull),
    ("ServiceBusy", 403, Remedy.RETRY, Unavailable),
    ("InternalError", 500, Remedy.ASK, OutcomeUnknown),
    ("ServiceUnavailable", 503, Remedy.ASK, OutcomeUnknown),
    ("SignatureNonceUsed", 400, Remedy.RESIGN, Unavailable),
    ("QuotaExceeded.Refresh", 400, Remedy.TOMORROW, QuotaExhausted),
    ("QuotaExceeded.Preload", 400, Remedy.TOMORROW, QuotaExhausted),
    ("InvalidObjectPath.Malformed", 400, Remedy.FIND_CULPRIT, BatchRejected),
    ("ObjectPath.Malformed", 400, Remedy.FIND_CULPRIT, BatchRejected),
    ("InvalidExtensiveDomain.ValueNotSupported", 400, Remedy.FIND_CULPRIT, BatchRejected),
    ("InvalidDomain.NotFound", 404, Remedy.FIND_CULPRIT, BatchRejected),
    ("InvalidDomain.Offline", 404, Remedy.FIND_CULPRIT, BatchRejected),
    ("InvalidDomain.Configure_failed", 500, Remedy.FIND_CULPRIT, BatchRejected),
    ("InvalidObjectPath.Size.Malformed", 400, Remedy.HALVE, BatchTooLarge),
    ("InvalidObjectPath.ExceedsMaximum", 400, Remedy.HALVE, BatchTooLarge),
    ("SingleRequest.OverLimit", 400, Remedy.HALVE, BatchTooLarge),
    ("InvalidObjectType.ValueNotSupported", 400, Remedy.STOP, Misconfigured),
    ("InvalidObjectType.Malformed", 400, Remedy.STOP, Misconfigured),
    ("MissingParameter", 400, Remedy.STOP, Misconfigured),
    ("MissingParameter.ObjectType", 400, Remedy.STOP, Misconfigured),
    ("IllegalOperation", 403, Remedy.STOP, Misconfigured),
    ("OperationDenied", 403, Remedy.STOP, Misconfigured),
    ("InvalidAccessKeyId.NotFound", 404, Remedy.STOP, Misconfigured),
    ("InvalidAccessKeyId.Inactive", 400, Remedy.STOP, Misconfigured),
    ("SignatureDoesNotMatch", 400, Remedy.STOP, Misconfigured),
    ("IncompleteSignature", 400, Remedy.STOP, Misconfigured),
    ("InvalidTimeStamp.Expired", 400, Remedy.SET_CLOCK, Misconfigured),
    ("InvalidTimeStamp.Format", 400, Remedy.STOP, Misconfigured),
    ("InvalidSecurityToken.Expired", 403, Remedy.RENEW_KEY, Misconfigured),
    ("InvalidSecurityToken.Malformed", 400, Remedy.RENEW_KEY, Misconfigured),
    ("Forbidden.RAM", 403, Remedy.STOP, Misconfigured),
    ("Forbidden.RiskControl", 403, Remedy.STOP, Misconfigured),
    ("NoPermission", 403, Remedy.STOP, Misconfigured),
    ("InvalidAction.NotFound", 404, Remedy.STOP, Misconfigured),
    ("InvalidApi.NotFound", 404, Remedy.STOP, Misconfigured),
    ("InvalidVersion", 400, Remedy.STOP, Misconfigured),
    ("InvalidProtocol.NeedSsl", 400, Remedy.STOP, Misconfigured),
    ("UnsupportedHTTPMethod", 405, Remedy.STOP, Misconfigured),
    ("InvalidTaskId.Malformed", 400, Remedy.STOP, Misconfigured),
    ("InvalidStartTime.ValueNotSupported", 400, Remedy.STOP, Misconfigured),
    ("InvalidEndTime.Mismatch", 400, Remedy.STOP, Misconfigured),
    ("InvalidStatus.ValueNotSupported", 400, Remedy.STOP, Misconfigured),
    ("", 500, Remedy.ASK, OutcomeUnknown),
    ("", 502, Remedy.ASK, OutcomeUnknown),
    ("", 503, Remedy.ASK, OutcomeUnknown),
    ("", 504, Remedy.ASK, OutcomeUnknown),
    ("Unheard.Of", 500, Remedy.ASK, OutcomeUnknown),
    ("", 200, Remedy.ASK, OutcomeUnknown),
    ("", 408, Remedy.ASK, OutcomeUnknown),
    ("", 413, Remedy.HALVE, BatchTooLarge),
    ("", 414, Remedy.HALVE, BatchTooLarge),
    ("", 429, Remedy.WAIT, Throttled),
    ("", 302, Remedy.STOP, Misconfigured),
    ("", 404, Remedy.STOP, Misconfigured),
    ("Unheard.Of", 400, Remedy.STOP, Misconfigured),
]


@pytest.mark.parametrize(("code", "status", "remedy", "error"), ROWS, ids=[f"{c or 'none'}-{s}" for c, s, _, _ in ROWS])
def test_each_code_leads_to_its_remedy(code: str, status: int, remedy: Remedy, error: type[TargetError]) -> None:
    """The remedy, the exact error class, code and request id are those of the row."""
    assert rule_for(status, code).remedy is remedy
    raised = classify(Failure(status, code, "words", "R-1"))
    assert type(raised) is error
    assert (raised.code, raised.request_id) == (code, "R-1")
    assert str(status) in str(raised)
    assert "R-1" in str(raised)
    assert "words" in str(raised)


def test_every_row_of_the_table_is_held_by_this_test() -> None:
    """A row that is added without its promise turns this red."""
    assert {rule_for(status, code).prefix for code, status, _, _ in ROWS} == {rule.prefix for rule in TABLE} | {""}
    assert set(STATUS_TABLE) <= {status for code, status, _, _ in ROWS if not code}


def test_an_error_that_stops_sending_has_a_remedy() -> None:
    """Every remedy that needs a person comes with a hint."""
    for code, status, remedy, _ in ROWS:
        if remedy in {Remedy.STOP, Remedy.SET_CLOCK, Remedy.RENEW_KEY, Remedy.TOMORROW}:
            assert classify(Failure(status, code)).hint, code


def test_an_unclear_answer_is_never_taken_for_not_sent() -> None:
    """A 5xx without a known code may have been accepted: it must not be sent again unasked."""
    for status in range(500, 600):
        assert not isinstance(classify(Failure(status)), NotSent)


def test_the_answer_says_how_long_to_wait() -> None:
    """The time of the answer wins over the table's, which differs by code."""
    reported = classify(Failure(503, "Throttling", retry_after_seconds=1.5))
    assert isinstance(reported, Throttled)
    assert reported.retry_after_seconds == 1.5
    silent = [classify(Failure(400, code)) for code in ("Throttling", "TooMany.Refresh", "QuotaPerMinuteExceeded.X")]
    assert [error.retry_after_seconds for error in silent if isinstance(error, Throttled)] == [1.0, 30.0, 60.0]


@pytest.mark.parametrize(
    ("code", "message", "domain"),
    [
        ("InvalidDomain.NotFound", "The domain [Other.example.com] does not belong to you.", "other.example.com"),
        ("InvalidDomain.Offline", "The domain [127.0.0.1:8701] is offline.", "127.0.0.1:8701"),
        ("InvalidDomain.NotFound", "The domain does not belong to you.", None),
        ("InvalidDomain.NotFound", "The domain [http://a b] does not belong to you.", None),
        ("InvalidObjectPath.Malformed", "The path [example.com] is bad.", None),
    ],
)
def test_a_named_domain_is_found(code: str, message: str, domain: str | None) -> None:
    """Only a domain that the CDN named, and named as one, is set aside at once."""
    error = classify(Failure(404, code, message))
    assert isinstance(error, BatchRejected)
    assert error.domain == domain


@pytest.mark.parametrize(
    ("skew", "words"),
    [(1020.4, "1020 s ahead of"), (-3600.0, "3600 s behind"), (None, "more than 900 s off")],
)
def test_a_wrong_clock_is_measured_and_named(skew: float | None, words: str) -> None:
    """The message says how far off the clock is, in which direction, and what is allowed."""
    error = classify(Failure(400, "InvalidTimeStamp.Expired", "expired", clock_skew_seconds=skew))
    assert isinstance(error, Misconfigured)
    assert words in str(error)
    assert "900 s" in str(error)
    assert "NTP" in error.hint
