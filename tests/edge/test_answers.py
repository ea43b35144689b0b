"""What answers say of themselves: tags, lengths, ages, ``Cache-Status``, the words of vendors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.edge.answers import Answer, read_answer, read_tag
from listener.edge.caches import CacheStatus, Handling, evidence_of, handling_of, read_cache_status


def test_a_plain_answer() -> None:
    """Each field as a number or a text."""
    headers = {
        "ETag": 'W/"AB"', "Last-Modified": "Thu, 01 Jan 1970 00:00:09 GMT", "Content-Length": "7", "Age": "3",
        "Date": "Thu, 01 Jan 1970 00:01:00 GMT", "Vary": "Cookie, Accept-Encoding", "X-Cache": "HIT",
        "Content-Type": "text/html; charset=utf-8",
    }  # fmt: skip
    found = read_answer(200, headers.items())
    assert found[:7] == (200, "ab", True, 9.0, 7, 3, 60.0)
    assert (found.vary, found.handling, found.is_page) == (("accept-encoding", "cookie"), Handling.HIT, True)


@pytest.mark.parametrize(
    ("status", "headers", "length"),
    [
        (200, {"Content-Length": "7", "Content-Encoding": "gzip"}, None),
        (200, {"Content-Length": "7", "Content-Encoding": "identity"}, 7),
        (200, {"Content-Length": "7", "Transfer-Encoding": "chunked"}, None),
        (206, {"Content-Length": "1", "Content-Range": "bytes 0-0/70"}, 70),
        (206, {"Content-Length": "1", "Content-Range": "bytes 0-0/*"}, None),
        (206, {"Content-Length": "1"}, None),
        (416, {"Content-Range": "bytes */0", "Content-Length": "50"}, 0),
        (404, {"Content-Length": "7"}, None),
        (304, {"Content-Length": "7"}, None),
    ],
)
def test_the_length_is_that_of_the_whole_object(status: int, headers: dict[str, str], length: int | None) -> None:
    """Not of a part of it, of compressed bytes, or of an error page."""
    assert read_answer(status, headers.items()).length == length


def test_what_cannot_be_read_says_nothing() -> None:
    """Wrong values, several that differ, an age at its limit."""
    wrong = {"Last-Modified": "soon", "Content-Length": "x", "Age": "-1", "ETag": '"a"b"', "Date": "now"}
    assert read_answer(200, wrong.items())[1:7] == (None, False, None, None, None, None)
    assert read_answer(200, [("Age", "1"), ("age", "5")]).age_seconds is None
    assert read_answer(200, [("Age", "5"), ("age", "5")]).age_seconds == 5
    assert read_answer(200, [("Age", "2147483648")]).age_seconds is None
    assert read_answer(200, [("ETag", "x" * 9999)]).tag is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Ab"', ("ab", False)),
        ('W/"ab"', ("ab", True)),
        ("ab", ("ab", False)),
        ("", (None, False)),
        ('""', (None, False)),
    ],
)
def test_tags(text: str, expected: tuple[str | None, bool]) -> None:
    """Without their quotes, which some servers leave out."""
    assert read_tag(text) == expected


def test_cache_status() -> None:
    """The examples of RFC 9211, and what is no list."""
    found = read_cache_status('OriginCache; hit; ttl=1100, "CDN; a, b"; fwd=uri-miss; detail="x, \\"y\\""')
    assert found[0] == CacheStatus("OriginCache", {"hit": "?1", "ttl": "1100"})
    assert (found[1].name, found[1].parameters["fwd"]) == ("CDN; a, b", "uri-miss")
    assert [one.handling for one in found] == [Handling.HIT, Handling.MISS]
    assert read_cache_status("A; hit; ttl=-5")[0].handling is Handling.STALE
    assert read_cache_status("A")[0].handling is Handling.UNKNOWN
    assert read_cache_status(" , ;;, ") == []
    assert len(read_cache_status("a," * 1000)) == 16


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"cache-status": "A; fwd=miss, B; hit", "x-cache": "MISS"}, "hit"),
        ({"x-cache": "HIT from squid, MISS from outer"}, "miss"),
        ({"x-cache": "Hit from cloudfront"}, "hit"),
        ({"x-cache": "RefreshHit from cloudfront"}, "miss"),
        ({"x-cache": "TCP_MEM_HIT dirn:1"}, "hit"),
        ({"cf-cache-status": "DYNAMIC"}, "miss"),
        ({"cf-cache-status": "UPDATING"}, "stale"),
        ({"x-cache-status": "STALE"}, "stale"),
        ({"x-cache-status": "EXPIRED"}, "miss"),
        ({"x-cache": "whatever"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_what_the_cache_did(headers: dict[str, str], expected: str) -> None:
    """By the standard field, else by the word of the vendor."""
    assert handling_of(headers) == expected


def test_evidence_is_bounded_and_printable() -> None:
    """In one order, without what was not asked for."""
    pairs = [("Via", "1.1 x"), ("X-Cache", "HIT\x1b[2J" + "y" * 999), ("Set-Cookie", "a=secret")]
    found = evidence_of(pairs)
    assert [name for name, _ in found] == ["x-cache", "via"]
    assert found[0][1].startswith("HIT\\x1b[2J")
    assert len(found[0][1]) < 210


@given(st.integers(100, 599), st.lists(st.tuples(st.sampled_from(["ETag", "Age", "Cache-Status", "Vary"]), st.text())))
def test_any_headers_are_read(status: int, headers: list[tuple[str, str]]) -> None:
    """Nothing raises."""
    assert isinstance(read_answer(status, headers), Answer)
