"""ListObjectsV2: every key as it is, whatever a store does to it on the way; half an answer is none."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.errors import SourceUnavailable
from listener.sources.listing.pages import Page, read_page, time_ns
from tests.sources.listing.buckets import GOLDEN, FakeBucket

ANY_KEY = st.binary(min_size=1, max_size=40).map(key_to_text)


def answered(*keys: str, encodes: bool = True) -> Page:
    """Return what is read of an answer that lists these keys."""
    bucket = FakeBucket(dict.fromkeys(keys, b"x"), encodes=encodes)
    return read_page(bucket.answer({})[1])


def test_golden_keys_are_read_as_they_are() -> None:
    """Percent signs, plus signs, spaces, controls, other scripts: none is decoded twice, none is left encoded."""
    assert {entry.key for entry in answered(*GOLDEN).entries} == set(GOLDEN)


def test_a_store_that_does_not_encode_is_read_too() -> None:
    """Where the answer does not say that keys are encoded, a percent sign is a percent sign."""
    keys = {"50%25.txt", "a+b", "a&b<c>", "x y", "é"}
    assert {entry.key for entry in answered(*keys, encodes=False).entries} == keys


@given(st.sets(ANY_KEY, max_size=5))
def test_any_bytes_come_back(keys: set[str]) -> None:
    """Also keys that are no UTF-8."""
    assert {entry.key for entry in answered(*keys).entries} == keys


@given(ANY_KEY)
def test_both_ways_to_write_a_space(key: str) -> None:
    """Some stores write %20, some a plus sign; a plus sign itself is always encoded."""
    plain = quote_from_bytes(key_to_bytes(key), safe="/").encode()
    body = FakeBucket({"k": b"x"}).answer({})[1].replace(b"<Key>k<", b"<Key>" + plain + b"<")
    assert read_page(body).entries[0].key == key


def test_fields_may_stand_in_any_order_and_be_missing() -> None:
    """A missing tag shifts no other object's; entity tags come without quotes, in lower case."""
    body = (
        b"<ListBucketResult xmlns='x'><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        b"<Contents><Size>1</Size><Key>a%26b</Key></Contents>"
        b"<Contents><Key>b</Key><ETag>&#34;AB&#34;</ETag><Owner><ID>o</ID></Owner><Size>2</Size>"
        b"<LastModified>1970-01-01T00:00:01Z</LastModified></Contents></ListBucketResult>\n"
    )
    page = read_page(body)
    assert page.more
    assert [(entry.key, entry.fingerprint) for entry in page.entries] == [
        ("a&b", Fingerprint(1)),
        ("b", Fingerprint(2, 1_000_000_000, etag="ab")),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>please log in</html>",
        b"<ListBucketResult><Contents><Key>a</Key>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>",
        b"<!DOCTYPE x><ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Contents></ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_an_error(body: bytes) -> None:
    """Never an empty listing: that would be taken for an empty bucket."""
    with pytest.raises(SourceUnavailable):
        read_page(body)


def test_times() -> None:
    """Nanoseconds, to the microsecond; UTC where none is named; nothing for what is no time."""
    assert time_ns("2026-11-22T21:31:48.123Z") == 1_795_383_108_123_000_000
    assert time_ns("1970-01-01T00:00:01") == 1_000_000_000
    assert time_ns("yesterday") is None
