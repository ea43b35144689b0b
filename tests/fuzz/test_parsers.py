"""Whatever comes in a header or a body, a parser returns or raises its own error: always, and long in the soak."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests import ROOT
from tests.fuzz.parsers import PARSERS

CORPUS = Path(__file__).with_name("corpus")
SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))
WORDS = [
    "1",
    "9" * 4301,
    "٣",
    "1\x1c",
    "\x85",
    "\u2028",
    "\x00",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "Sat, 29 Nov 2026 00:00:00 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "1e999",
    "NaN",
    "-1",
    "0",
    " ",
    "\n",
    ":",
    "=",
    '"',
    "[",
    "{",
    "]",
    "}",
    "null",
    "true",
    "<",
    ">",
    "&",
    "%",
    "http://",
    "https://[",
    "://",
    "@",
    "Bearer ",
    "Basic ",
    "sha256=",
    "a",
]
XML_NAMES = [
    "Message",
    "Messages",
    "MessageId",
    "ReceiptHandle",
    "MessageBody",
    "EnqueueTime",
    "Error",
    "Errors",
    "Code",
    "Queue",
    "ChangeVisibility",
    "VisibilityTimeout",
    "Contents",
    "Key",
    "Size",
    "ETag",
    "LastModified",
    "ListBucketResult",
    "CommonPrefixes",
    "Prefix",
    "NextContinuationToken",
    "IsTruncated",
    "EncodingType",
]
JSON_NAMES = [
    "Type",
    "SignatureVersion",
    "Signature",
    "Timestamp",
    "Message",
    "MessageId",
    "TopicArn",
    "SigningCertURL",
    "Token",
    "RefreshTaskId",
    "RequestId",
    "Tasks",
    "CDNTask",
    "TaskId",
    "ObjectPath",
    "ObjectType",
    "Status",
    "CreationTime",
    "UrlQuota",
    "UrlRemain",
    "Failed",
    "Id",
    "ReceiptHandle",
    "Body",
    "Attributes",
    "ApproximateReceiveCount",
    "SentTimestamp",
    "Statement",
    "Effect",
    "Action",
    "Resource",
    "Principal",
    "Service",
    "AWS",
    "Condition",
    "ArnLike",
    "aws:SourceArn",
    "QueueConfigurations",
    "QueueArn",
    "Events",
    "Filter",
    "Key",
    "FilterRules",
    "Name",
    "Value",
    "fileFormat",
    "fileSchema",
    "files",
    "key",
    "sourceBucket",
    "destinationBucket",
    "Records",
    "s3",
    "object",
    "Code",
]
JSON_VALUES = [
    "Allow",
    "SQS:SendMessage",
    "*",
    "arn:aws:sqs:eu-central-1:111122223333:e",
    "Notification",
    "1",
    "2",
    "CSV",
    "Key",
    "file",
    "Complete",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    *WORDS[:4],
]
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(JSON_VALUES) | st.text(max_size=5)
values = st.recursive(
    leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(JSON_NAMES), part, max_size=6)
)


def as_xml(value: object, names: list[str]) -> str:
    """Return nested lists as elements."""
    if isinstance(value, list):
        return "".join(
            f"<{names[at % len(names)]}>{as_xml(one, names)}</{names[at % len(names)]}>" for at, one in enumerate(value)
        )
    return str(value)


bodies = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from(WORDS), max_size=6).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass")),
    values.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda value, names: as_xml(value, names).encode("utf-8", "surrogatepass"),
        st.recursive(st.sampled_from(WORDS), lambda part: st.lists(part, min_size=1, max_size=4)),
        st.lists(st.sampled_from(XML_NAMES), min_size=1, max_size=6),
    ),
)


def check(name: str, raw: bytes) -> None:
    """Parse; any error but the parser's own is a fault."""
    try:
        PARSERS[name].parse(raw)
    except PARSERS[name].errors:
        return


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_raises_nothing_else(name: str) -> None:
    """What Hypothesis makes of it."""

    @given(bodies)
    @example(b"1\x1c")
    @example(b'{"QueueConfigurations": [false, {"Filter": 1, "Events": 2}]}')
    def hold(raw: bytes) -> None:
        check(name, raw)

    hold()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once_stays_mended(path: Path) -> None:
    """The corpus: for each parser what once broke it, and what shows the fuzzer its form."""
    check(path.parent.name, path.read_bytes())


def test_the_corpus_fits() -> None:
    """Each folder is that of a parser, and each parser has one."""
    assert {path.name for path in CORPUS.iterdir()} == set(PARSERS)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_fuzzing_finds_nothing(tmp_path: Path, absent: Callable[[str], NoReturn]) -> None:
    """Atheris, guided by coverage, for ten minutes (``FUZZ_SECONDS``)."""
    if importlib.util.find_spec("atheris") is None:
        absent("atheris")
    command = [sys.executable, "-m", "tests.fuzz.fuzz_parsers", tmp_path / "seeds"]
    done = subprocess.run(
        [*command, f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, re.sub(r"(?s)^.*?(?=\n === Uncaught)", "", done.stderr)[-3000:]
