"""Whatever a message holds, the decoder answers or raises its own error: no other exception, no key that is no key."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.change import ChangeKind, key_to_bytes
from listener.errors import MalformedNotification
from listener.formats import FORMATS, Decoded, decode
from listener.formats.decoding import MAX_DEPTH
from listener.formats.reading import MAX_BODY_BYTES, MAX_RECORDS
from tests.formats.corpus_cases import CASES

BODIES = [json.loads(case.body) for case in CASES if case.expected and case.body[:1] in (b"{", b"[")]


def names_in(value: Any) -> set[str]:
    """Return every member name in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


MEMBERS = sorted(set().union(*map(names_in, BODIES)))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(
        ["", "s3:", "ObjectCreated:*", ":", "a%", "%ZZ", "\ud800", "\udcff", "2026-13-45T99:00:00Z", "0" * 5000]
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=5),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in a JSON value."""
    found = [path]
    if isinstance(value, dict):
        found += [place for name, inner in value.items() for place in places(inner, (*path, name))]
    elif isinstance(value, list):
        found += [place for at, inner in enumerate(value) for place in places(inner, (*path, at))]
    return found


def changed(body: Any, path: tuple[Any, ...], how: str, value: Any) -> Any:
    """Return a copy with one place replaced, removed or wrapped."""
    if not path:
        return [body] if how == "wrap" else value
    body = copy.deepcopy(body)
    inside = body
    for step in path[:-1]:
        inside = inside[step]
    if how == "remove":
        del inside[path[-1]]
    else:
        inside[path[-1]] = [inside[path[-1]]] if how == "wrap" else value
    return body


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a message of the corpus, damaged in one to three places."""
    body = draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["replace", "remove", "wrap"]))
        body = changed(body, draw(st.sampled_from(places(body))), how, draw(values))
    raw = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([raw, base64.b64encode(raw), raw[: len(raw) // 2], b"<Message>" + raw + b"</Message>"]))


def checked(body: bytes, **arguments: Any) -> Decoded | None:
    """Decode; whatever comes of it is well formed."""
    try:
        decoded = decode(body, **arguments)
    except MalformedNotification as error:
        assert str(error)
        assert len(str(error)) < 2000
        return None
    for change in decoded.changes:
        assert change.root or arguments.get("format", "auto") in ("auto", "sns", "keys")  # a script need not name it
        assert change.key
        key_to_bytes(change.key)
        assert isinstance(change.kind, ChangeKind)
        assert change.order is None or len(change.order) == 16
        assert change.event_time is None or isinstance(change.event_time, float)
    assert decoded.ignored >= 0
    return decoded


@given(mutated(), st.sampled_from(sorted(FORMATS)))
@settings(max_examples=300)
def test_a_damaged_message_is_read_or_refused(body: bytes, name: str) -> None:
    """Members replaced, removed, wrapped and cut off raise the decoder's own error or give sound changes."""
    checked(body, format=name)


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Bytes of any kind raise the decoder's own error, or are one of its forms."""
    checked(body)


@given(values)
@settings(max_examples=200)
def test_any_json_made_of_known_members_is_read_or_refused(value: Any) -> None:
    """JSON of known members in places where no vendor has them is no trouble either."""
    checked(json.dumps(value).encode("utf-8", "surrogatepass"))


@given(st.text(min_size=1))
def test_a_key_is_decoded_exactly_once(key: str) -> None:
    """A key that a store encodes as its vendor does comes out as it was, byte for byte; raw keys stay."""
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        return
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": quote_plus(raw)}}}
    for source in ("aws:s3", "minio:s3", "rustfs:s3"):
        body = json.dumps({"Records": [record | {"eventSource": source}]}).encode()
        assert decode(body).changes[0].key == key
    record["s3"]["object"]["key"] = key  # type: ignore[index]
    assert decode(json.dumps({"Records": [record | {"eventSource": "ceph:s3"}]}).encode()).changes[0].key == key
    r2 = {"action": "PutObject", "bucket": "b", "object": {"key": key}}
    assert decode(json.dumps(r2).encode()).changes[0].key == key


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"Records":' * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'"' + b"\\" * 100_001,
        b"A" * (MAX_BODY_BYTES + 1),
        b'{"Event": "s3:TestEvent"}' + b" " * MAX_BODY_BYTES,
        b"QUFB" * (MAX_BODY_BYTES // 4),
        b"<" * 1_000_000,
        b"<Message>" * 200_000,
        b"1" * 100_000,
        b"-" + b"9" * 5000,
        json.dumps({"Records": [{}] * (MAX_RECORDS + 1)}).encode(),
        json.dumps([[{}] * 10] * (MAX_RECORDS // 10)).encode(),
        json.dumps({"messages": [{"body": "[]"}] * (MAX_RECORDS + 1)}).encode(),
        b"[" * 500 + b"]" * 500,
        b"[" + b"[]," * 300_000 + b"[]]",
        b'{"Records":[' + b"{}," * 300_000 + b"{}]}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_huge_or_deep_message_is_refused(body: bytes) -> None:
    """Depth, length and number are bounded: each is refused by the decoder's own error, none is worked through."""
    assert checked(body) is None


def test_many_records_within_the_bound_are_all_read() -> None:
    """A message of as many records as are allowed is read whole."""
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}}
    decoded = decode(json.dumps({"Records": [record] * MAX_RECORDS}).encode())
    assert len(decoded.changes) == MAX_RECORDS


def test_a_message_wrapped_over_and_over_is_refused() -> None:
    """Envelopes are opened a bounded number of times, whichever they are."""
    body = b'{"Event":"s3:TestEvent"}'
    for _ in range(MAX_DEPTH):
        assert decode(body).note == "s3:TestEvent"
        body = base64.b64encode(body)
    assert checked(base64.b64encode(body)) is None
