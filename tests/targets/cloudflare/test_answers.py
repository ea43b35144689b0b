"""What an answer without success means."""

from __future__ import annotations

import json
import time

import pytest

from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    NotInPlan,
    TargetError,
    Throttled,
    Unavailable,
    WindowFull,
)
from listener.targets.cloudflare.answers import Sent, error_of, parse_failure

SENT = Sent("purge_cache", {"www.example.com/a": ["https://www.example.com/a/"]}, "z", is_purge=True, refill_seconds=12)


def error(status: int, message: object = "no", sent: Sent = SENT, **headers: str) -> TargetError:
    """Return the error of an answer with one message."""
    body = json.dumps({"success": False, "errors": [{"code": 7, "message": message}]}).encode()
    return error_of(parse_failure(status, {"CF-Ray": "ray", **headers}, body), sent, variable="T", secrets=["hidden"])


def test_secrets_and_long_texts_are_left_out() -> None:
    """Whatever the answer repeats."""
    found = error(400, "the token hidden is wrong " + 900 * "x", **{"CF-Ray": "hidden"})
    assert "hidden" not in f"{found}{found.request_id}"
    assert len(str(found)) < 500


@pytest.mark.parametrize(
    ("retry_after", "wait"), [("", 12), ("7", 7), ("soon", 12), ("-1", 12), ("999999", 600), ("Wed, 21 Oct 2026", 12)]
)
def test_how_long_a_full_window_lasts(retry_after: str, wait: float) -> None:
    """As the answer says, within a bound; else until the bucket has the next token."""
    found = error(429, **{"Retry-After": retry_after})
    assert isinstance(found, WindowFull) and found.retry_after_seconds == wait
    lookup = error(429, sent=Sent("zones"))
    assert isinstance(lookup, Throttled) and not isinstance(lookup, WindowFull)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Only enterprise zones can purge by tag.", NotInPlan),
        (400, "not available on your plan", NotInPlan),
        (400, "please limit your request to 100", BatchTooLarge),
        (400, "too many prefixes", BatchTooLarge),
        (400, "Unable to purge www.example.com/a, which is an enterprise limit your", BatchRejected),
        (400, "something", BatchRejected),
        (200, "something", BatchRejected),
        (400, None, BatchRejected),
        (404, "x", Misconfigured),
        (302, "x", Misconfigured),
        (418, "x", Misconfigured),
        (502, "<html>", Unavailable),
    ],
)
def test_what_is_wrong(status: int, message: object, kind: type[TargetError]) -> None:
    """By the status, and where one status means several things by the words."""
    found = error(status, message)
    assert type(found) is kind
    assert found.hint if kind is Misconfigured else True
    assert isinstance(error(status, message, Sent("zones")), Unavailable if status >= 500 else Misconfigured)


def test_a_long_answer_is_read_quickly() -> None:
    """Five hundred items are looked for in a bounded part of it."""
    items = {f"https://www.example.com/{number}": [f"https://www.example.com/{number}"] for number in range(500)}
    began = time.process_time()
    found = error(400, " ".join(items) + 4_000_000 * " h", sent=Sent("purge_cache", items, is_purge=True))
    assert isinstance(found, BatchRejected) and found.urls == set(items)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"errors": 1}', b'{"errors": [1, {"code": "x"}]}', b"\xff"])
def test_bodies_that_are_none(body: bytes) -> None:
    """The status counts."""
    found = error_of(parse_failure(403, {}, body), SENT, variable="T", secrets=[])
    assert isinstance(found, Misconfigured) and "Cache Purge" in found.hint and not found.code


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("body", [b"<html>400 Bad Request</html>", b"{}", b'{"success": false, "errors": []}'])
def test_an_answer_without_errors_sets_no_url_aside(status: int, body: bytes) -> None:
    """A proxy may have given it, to each request: all that changes meanwhile would wait for a person."""
    found = error_of(parse_failure(status, {}, body), SENT, variable="T", secrets=[])
    assert isinstance(found, Misconfigured) and "proxy" in found.hint
