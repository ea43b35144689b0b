"""What goes over the wire: requests as the vendor's client writes them, answers read strictly, hostile ones refused."""

from __future__ import annotations

import tomllib
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.formats.reading import Unreadable
from listener.sources.mns.wire import (
    Attributes,
    ErrorReply,
    HandleError,
    change_visibility_resource,
    handles_body,
    messages_resource,
    read_attributes,
    read_error,
    read_handle_errors,
    read_messages,
    receive_resource,
)
from listener.sources.queue.transport import Message
from tests import ROOT

VECTORS = tomllib.loads((ROOT / "tests/alibaba/mns.toml").read_text())["request"]
XMLNS = 'xmlns="http://mns.aliyuncs.com/doc/v1/"'
READERS = [read_attributes, read_error, read_handle_errors, read_messages]


def message(**fields: str) -> str:
    """Return a message with these fields instead of the usual ones; an empty one is left out."""
    usual = {"MessageId": "5F-1", "ReceiptHandle": "1-aGFuZGxl", "MessageBody": "eyJldmVudHMiOltdfQ=="}
    usual |= {"EnqueueTime": "1767323045123", "DequeueCount": "2", **fields}
    return "".join(f"<{name}>{value}</{name}>" for name, value in usual.items() if value)


def messages(*rows: str) -> bytes:
    """Return an answer with these messages."""
    inner = "".join(f"<Message>{row}</Message>" for row in rows)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<Messages {XMLNS}>\n{inner}</Messages>'.encode()


def test_requests_are_those_of_the_vendors_client() -> None:
    """Resources and the body of a batch are, byte for byte, those that its signatures were recorded of."""
    get, _, _, put, delete = VECTORS
    assert receive_resource("myqueue", 16, wait_seconds=30) == get["resource"]
    assert change_visibility_resource("myqueue", "rh1", seconds=120) == put["resource"]
    assert messages_resource("myqueue") == delete["resource"]
    assert handles_body(["rh1", "rh2"]).decode() == delete["body"]


def test_a_handle_cannot_become_another_request() -> None:
    """Handles stand as the vendor writes them; what would end a value, a line or an element is escaped."""
    assert change_visibility_resource("q", "1-Ab+/=", seconds=1).endswith("ReceiptHandle=1-Ab+/=&VisibilityTimeout=1")
    assert change_visibility_resource("q", "a&b c\r\nd#e?", seconds=1).endswith(
        "=a%26b%20c%0D%0Ad%23e%3F&VisibilityTimeout=1"
    )
    assert b"<ReceiptHandle>a&lt;/ReceiptHandle&gt;&amp;</ReceiptHandle>" in handles_body(["a</ReceiptHandle>&"])


def test_messages_are_read() -> None:
    """One alone or many, with or without a prefix for the namespace; unknown fields are not looked at."""
    expected = Message("5F-1", "1-aGFuZGxl", b"eyJldmVudHMiOltdfQ==", 2, 1767323045.123)
    assert read_messages(messages(message(), message(Priority="8"))) == [expected, expected]
    assert read_messages(f"<Message {XMLNS}>{message()}</Message>".encode()) == [expected]
    prefixed = (
        b'<m:Messages xmlns:m="urn:x"><m:Message><m:MessageId>a</m:MessageId><m:ReceiptHandle>b</m:ReceiptHandle>'
    )
    prefixed += b"<m:MessageBody>c</m:MessageBody></m:Message></m:Messages>"
    assert read_messages(prefixed) == [Message("a", "b", b"c", 1)]
    properties = "<PropertyValue><Name>n</Name><Value>v</Value></PropertyValue>"
    assert read_messages(messages(message(UserProperties=properties))) == [expected]


def test_a_body_that_is_no_base64_stands_as_it_is() -> None:
    """Escapes and CDATA are undone, all else stays."""
    (read,) = read_messages(messages(message(MessageBody="{&quot;a&quot;:1}<![CDATA[<&>]]>中")))
    assert read.body == '{"a":1}<&>中'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<html><body>502 Bad Gateway</body></html>",
        messages(message(MessageId="")),
        messages(message(ReceiptHandle="")),
        messages(message(ReceiptHandle="two words")),
        messages(message(ReceiptHandle="x" * 3000)),
        messages(message())[:-20],
        b"<Messages><Other/></Messages>",
    ],
)
def test_an_answer_that_is_not_one_is_refused(body: bytes) -> None:
    """A proxy's page, half an answer, a message that could never be deleted."""
    with pytest.raises(Unreadable):
        read_messages(body)


def laughs(depth: int = 12) -> bytes:
    """Return the document that grows tenfold with each entity."""
    rows = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha"}">' for n in range(depth))
    return f"<!DOCTYPE Messages [{rows}]><Messages><Message>&e{depth - 1};</Message></Messages>".encode()


HOSTILE = {
    "billion laughs": laughs(),
    "external entity": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Messages>&x;</Messages>',
    "external type": b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd"><Messages/>',
    "deep": b"<Messages>" * 100_000,
    "wide": b"<Messages>" + b"<a/>" * 1_000_000 + b"</Messages>",
    "utf-7": b'<?xml version="1.0" encoding="utf-7"?>+ADw-Messages/+AD4-',
    "null": b"<Messages>\x00</Messages>",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", READERS)
def test_hostile_xml_is_refused_before_it_grows(read: Any, name: str) -> None:
    """No entity is expanded, nothing is fetched, and memory stays within a few times the answer's."""
    body = HOSTILE[name]
    tracemalloc.start()
    try:
        if read is read_error:
            assert read(body) == ErrorReply()
        else:
            with pytest.raises(Unreadable):
                read(body)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000 + 2 * len(body)
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300) | st.text(alphabet='<>/&;!? "=aMes', max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Nothing but the reader's own error leaves it."""
    for read in READERS:
        try:
            read(body)  # type: ignore[operator]
        except Unreadable:
            continue


def test_failures_are_read_as_far_as_they_can_be() -> None:
    """Code, words and request id; an answer that is none leaves them empty."""
    body = f"<Error {XMLNS}><Code>AccessDenied</Code><Message>no</Message><RequestId>5F</RequestId></Error>".encode()
    assert read_error(body) == ErrorReply("AccessDenied", "no", "5F")
    assert read_error(b"<html/>") == ErrorReply()
    assert read_error(b"") == ErrorReply()


def test_partial_failures_name_their_handles() -> None:
    """Each with its code; an error about the whole request is not taken for one."""
    row = "<Error><ErrorCode>{}</ErrorCode><ErrorMessage>m</ErrorMessage><ReceiptHandle>{}</ReceiptHandle></Error>"
    rows = row.format("ReceiptHandleError", "rh1") + row.format("InternalError", "rh2")
    assert read_handle_errors(f"<Errors {XMLNS}>{rows}</Errors>".encode()) == [
        HandleError("rh1", "ReceiptHandleError"),
        HandleError("rh2", "InternalError"),
    ]
    with pytest.raises(Unreadable):
        read_handle_errors(b"<Error><Code>QueueNotExist</Code><Message>m</Message></Error>")
    with pytest.raises(Unreadable):
        read_handle_errors(b"<Errors></Errors>")


def test_attributes_are_read() -> None:
    """Numbers where there are any; what is no number is not reported."""
    body = b"<Queue><VisibilityTimeout>30</VisibilityTimeout><MaximumMessageSize> 65536 </MaximumMessageSize>"
    body += b"<ActiveMessages>7</ActiveMessages><DelaySeconds>-1</DelaySeconds></Queue>"
    assert read_attributes(body) == Attributes(30, None, None, 65536, 7, None, None)
