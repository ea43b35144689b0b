"""Every message of the corpus comes to what was done to the storage, no more and no less."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import pytest

from listener.change import Change, Fingerprint
from listener.errors import ConfigurationError, MalformedNotification
from listener.formats import FORMATS, decode
from tests.formats.corpus_cases import CASES, Case

GOOD = [case for case in CASES if case.expected and not case.arguments]


def bare(change: Change) -> Change:
    """Return a change whose fingerprint, where it says nothing, is none."""
    return change._replace(fingerprint=None) if change.fingerprint == Fingerprint() else change


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_message_comes_to_what_happened(case: Case) -> None:
    """Changes, what is ignored and why, what is unreadable: all as the corpus says."""
    if "error" in case.reported:
        with pytest.raises(MalformedNotification) as raised:
            decode(case.body, **case.arguments)
        assert case.reported["error"] in str(raised.value)
        return
    decoded = decode(case.body, **case.arguments)
    assert tuple(map(bare, decoded.changes)) == case.expected
    assert decoded.ignored == case.reported.get("ignored", 0)
    assert case.reported.get("note", "") in decoded.note
    assert len(decoded.unreadable) == case.reported.get("unreadable", 0)


def test_the_corpus_is_wide_and_says_where_it_comes_from() -> None:
    """At least a hundred messages, of every vendor, each with the source of its shape."""
    files = Counter(case.id.partition(":")[0] for case in CASES)
    assert len(CASES) >= 100
    assert {"aws", "eventbridge", "minio", "ceph", "seaweedfs", "r2", "oss", "envelopes"} <= set(files)
    assert all(len(case.shape) > 10 or case.shape == "no vendor" for case in CASES)


def _sns(body: bytes) -> bytes:
    text = body.decode("utf-8", "surrogateescape")
    return json.dumps({"Type": "Notification", "TopicArn": "t", "Message": text}).encode()


@pytest.mark.parametrize(
    "wrap", [base64.b64encode, _sns, lambda body: b'  \r\n"' + json.dumps(body.decode("utf-8", "replace")).encode()[1:]]
)
def test_what_it_comes_in_changes_nothing(wrap: Any) -> None:
    """Base64, SNS and a quoted text around any message of the corpus leave its meaning as it is."""
    for case in GOOD:
        if "\udcff" not in repr(case.expected) and not case.body.startswith(b"\xef\xbb\xbf"):
            assert tuple(map(bare, decode(wrap(case.body)).changes)) == case.expected, case.id


def test_a_bucket_that_is_not_asked_for_brings_nothing() -> None:
    """With roots that are others, nothing is a change and everything is counted."""
    for case in GOOD:
        if not all(change.root for change in case.expected):
            continue  # what names no bucket is of the only one
        decoded = decode(case.body, roots=["none-of-these"])
        assert not decoded.changes
        assert decoded.ignored >= len(case.expected)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("auto", "sns")])
def test_a_format_reads_nothing_of_others(name: str) -> None:
    """A format that is set reads its own; what another vendor sends is refused or without change, never guessed at."""
    own = {"s3": "aws moto envelopes minio ceph", "minio": "minio aws moto envelopes ceph"}.get(name, name)
    own = {"ceph": "ceph aws moto envelopes minio", "eventbridge": "eventbridge moto envelopes"}.get(name, own)
    own = {"oss": "oss envelopes", "r2": "r2 envelopes"}.get(name, own)
    for case in GOOD:
        if case.id.partition(":")[0] not in own.split():
            with pytest.raises(MalformedNotification):
                decode(case.body, format=name)


def test_a_format_that_does_not_exist_is_named_with_those_that_do() -> None:
    """A wrong name is the operator's to mend, and the error lists the right ones."""
    with pytest.raises(ConfigurationError) as raised:
        decode(b"{}", format="s4")
    assert "eventbridge" in raised.value.hint


def test_what_is_logged_of_a_message_is_short() -> None:
    """Neither a note nor an error repeats more than a little of a message, whatever it holds."""
    long = "x" * 100_000
    record = {"eventName": long, "s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}}
    assert len(decode(json.dumps({"Records": [record]}).encode()).note) < 200
    with pytest.raises(MalformedNotification) as raised:
        decode(json.dumps({long + str(at): at for at in range(20)}).encode())
    assert len(str(raised.value)) < 1000
    other = decode(json.dumps({"Records": [record | {"eventName": "ObjectCreated:Put"}]}).encode(), roots=[])
    assert len(other.note) < 200
