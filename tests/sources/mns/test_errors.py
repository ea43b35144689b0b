"""The mns source: body encodings, its key, the clock, unreadable replies, and its error codes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import SourceState
from listener.sources.mns import MnsSource
from listener.sources.mns.wire import ErrorReply, refused
from listener.sources.queue.transport import Remedy
from tests.keys import KEYS
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.oss_messages import bodies, body_of, event
from tests.sources.mns.sdk import Sdk
from tests.sources.queue.backends import reading
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
MakeSource = Callable[..., MnsSource]


async def test_events_become_changes_with_their_attributes(service: FakeMns, make_source: MakeSource) -> None:
    """Keys are taken as they are, with size, ETag and time."""
    await service.send(
        body_of(event("ObjectCreated:PutObject", "dir/a b%20+中.html"), event("ObjectRemoved:DeleteObject", "b"))
    )
    async with reading(make_source()) as consumer:
        await until(lambda: len(service.queue.deleted) == 1)
    put = Change(
        "events", "dir/a b%20+中.html", ChangeKind.CONTENT, Fingerprint(10, etag="d9703079d307a57c"), 1767323045.0
    )
    assert list(consumer.deliveries[0].changes) == [put, Change("events", "b", ChangeKind.DELETED, None, 1767323045.0)]


@pytest.mark.parametrize("encode", [True, False])
async def test_body_encodings_are_detected(service: FakeMns, sdk: Sdk, make_source: MakeSource, encode: bool) -> None:
    """Base64 once, twice (the SDK encodes what was encoded) or not at all: the official SDK sends them."""
    await sdk.send(body_of(event("ObjectCreated:PutObject", "a"), encode=encode))
    sdk.queue.set_encoding(False)
    await sdk.send(body_of(event("ObjectCreated:PutObject", "b"), encode=encode))
    async with reading(make_source()) as consumer:
        await until(lambda: len(service.queue.deleted) == 2)
    assert sorted(consumer.keys) == ["a", "b"]


async def test_an_unreachable_service_is_reported(make_source: MakeSource) -> None:
    """With the endpoint, the setting to check."""
    async with reading(make_source(endpoint="http://127.0.0.1:9", connect_seconds=1)) as consumer:
        await until(lambda: consumer.source.health.state is SourceState.DEGRADED)
        assert "http://127.0.0.1:9" in consumer.source.health.detail


async def test_a_wrong_clock_is_reported_with_its_difference(service: FakeMns, make_source: MakeSource) -> None:
    """The error reply has the service's time."""
    service.ahead = 3600
    async with reading(make_source()) as consumer:
        await until(lambda: consumer.source.health.detail)
        found = re.search(r"the clock of this machine is (\d+) s behind the service's", consumer.source.health.detail)
        assert found is not None
        assert 3500 < int(found[1]) < 3700
        assert "NTP" in consumer.source.health.detail


async def test_a_drifting_clock_is_logged_early(service: FakeMns, make_source: MakeSource) -> None:
    """Two minutes are a warning and a metric."""
    service.ahead = -120
    with capture_logs() as logs:
        async with reading(make_source(figures_interval_seconds=0.05)) as consumer:
            await until(lambda: consumer.metric("clock_skew_seconds") > 100)
            assert consumer.source.health.ready
    assert [entry["event"] for entry in logs].count("mns.clock_skew") == 1


async def test_a_missing_key_is_reported(service: FakeMns, make_source: MakeSource) -> None:
    """No call is made; the health names the variables."""
    async with reading(make_source(environment={})) as consumer:
        await until(lambda: consumer.source.health.detail)
        assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in consumer.source.health.detail
    assert not service.calls


async def test_a_replaced_key_is_reloaded(service: FakeMns, make_source: MakeSource, tmp_path: Path) -> None:
    """A refused key is reloaded at once: a rotation causes neither a restart nor a failure."""
    (tmp_path / "secret").write_text("testsecret")
    names = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET_FILE": str(tmp_path / "secret")}
    async with reading(make_source(environment=names)) as consumer:
        await until(lambda: consumer.source.health.ready)
        service.keys["testid"] = "another"
        (tmp_path / "secret").write_text("another")
        await service.send(*bodies(["a"]))
        await until(lambda: service.queue.deleted)
        assert consumer.metric("failed_receives") == 0
        assert consumer.metric("not_deleted_messages") == 0


async def test_a_temporary_key_is_sent_with_its_token(service: FakeMns, make_source: MakeSource) -> None:
    """The token is sent; an expired one is reported with what to do."""
    service.token = "sts"
    await service.send(*bodies(["a"]))
    async with reading(make_source(environment={**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "sts"})):
        await until(lambda: service.queue.deleted)
    async with reading(make_source(environment={**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "old"})) as consumer:
        await until(lambda: consumer.source.health.detail)
        assert "renew the temporary key" in consumer.source.health.detail


async def test_secrets_stay_out_of_errors_and_logs(service: FakeMns, make_source: MakeSource) -> None:
    """Whatever the service echoes: string to sign, secret or token."""
    environment = {**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "token-of-mine"}
    service.order("AccessDenied", status=403, times=100, message="you sent testsecret and token-of-mine")
    with capture_logs() as logs:
        async with reading(make_source(environment=environment)) as consumer:
            await until(lambda: consumer.source.health.detail)
    text = f"{consumer.source.health.detail} {logs}"
    assert "you sent" in text
    assert "testsecret" not in text
    assert "token-of-mine" not in text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>hello</html>", "no Messages"),
        (b"<Messages><Message/></Messages>", "no MessageId"),
        (b"x" * 9_000_000, "more than 8388608 bytes"),
    ],
)
async def test_an_unreadable_reply_is_reported(
    service: FakeMns, make_source: MakeSource, answer: bytes, words: str
) -> None:
    """A captive portal, a broken message or an endless reply: degraded, retried, nothing deleted."""
    await service.send(*bodies(["a"]))
    service.raw_answer = answer
    async with reading(make_source()) as consumer:
        await until(lambda: consumer.source.health.state is SourceState.DEGRADED)
        assert words in consumer.source.health.detail
        assert consumer.deliveries == []
        service.raw_answer = None
        await until(lambda: service.queue.deleted)
    assert consumer.keys == ["a"]


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", Remedy.OPERATOR),
        (404, "QueueNotExist", Remedy.OPERATOR),
        (408, "TimeExpired", Remedy.OPERATOR),
        (403, "InvalidSecurityToken", Remedy.RENEW),
        (400, "QpsLimitExceeded", Remedy.WAIT),
        (429, "", Remedy.WAIT),
        (500, "", Remedy.WAIT),
        (503, "SomethingNew", Remedy.WAIT),
        (404, "SomethingNew", Remedy.OPERATOR),
        (301, "", Remedy.OPERATOR),
    ],
)
def test_the_code_decides_and_for_unknown_codes_the_status(status: int, code: str, remedy: Remedy) -> None:
    """Each has one remedy, and those for the operator a hint."""
    error = refused(status, ErrorReply(code, "words", "5F"))
    assert error.remedy is remedy
    assert remedy is Remedy.WAIT or error.hint
    assert "words" in str(error)
    assert "5F" in str(error)
