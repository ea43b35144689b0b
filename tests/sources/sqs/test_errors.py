"""The sqs source: its key, its visibility timeout, its error codes, and what ``check`` finds without receiving."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from listener.contracts import CheckState
from listener.sources.queue.transport import Remedy
from listener.sources.sqs import SqsSettings, SqsSource
from listener.sources.sqs.boto import refused
from tests.sources.queue.backends import SqsBackend, reading, s3_event
from tests.sources.sqs.fake_sqs import FakeSqs
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)


def test_a_removed_setting_names_its_replacement() -> None:
    """``transport`` was an option of earlier versions."""
    with pytest.raises(ValidationError, match="transport was removed, boto3 makes all calls: delete this line"):
        SqsSettings.model_validate({"queue_url": "http://h/e", "transport": "aiohttp"})


async def test_a_message_is_hidden_for_the_configured_time(sqs: FakeSqs) -> None:
    """The queue's own timeout, 30 s, does not count."""
    message_id = sqs.send(s3_event("a.html"))
    async with reading(SqsBackend(sqs).source(), acks=False) as consumer:
        await until(lambda: consumer.keys)
        assert sqs.queues["events"].messages[message_id].hidden_until > sqs.now() + 31


async def test_an_expired_token_is_reloaded(sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that AWS's chain finds then is used, without a restart."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "old-token")
    async with reading(SqsBackend(sqs).source()) as consumer:
        health = consumer.source.health
        await until(lambda: health.ready)
        sqs.expired.add("old-token")
        await until(lambda: not health.ready)
        assert "ExpiredToken" in health.detail
        assert "old-token" not in health.detail
        monkeypatch.setenv("AWS_SESSION_TOKEN", "new-token")
        sqs.send(s3_event("a.html"))
        await until(lambda: consumer.keys == ["a.html"])
        assert health.ready


async def test_a_missing_key_is_reported_and_found_later(sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The health names the variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with reading(SqsBackend(sqs).source()) as consumer:
        health = consumer.source.health
        await until(lambda: "no AWS key" in health.detail)
        assert "AWS_ACCESS_KEY_ID" in health.detail
        assert not health.ready
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testid")
        await until(lambda: health.ready)


async def test_check_finds_what_the_key_may_do_without_receiving(sqs: FakeSqs, url: str) -> None:
    """Denied deletions fail; a queue whose settings cannot be read is a warning; no message is touched."""
    sqs.send(s3_event("a.html"))
    source = SqsSource("events", SqsSource.Settings(queue_url=url, region="eu-central-1"))  # type: ignore[arg-type]
    sqs.order("DeleteMessage", "AccessDenied", status=403)
    sqs.order("GetQueueAttributes", "AccessDenied", status=403)
    found = {check.message: check.state for check in await source.check()}
    assert {state for text, state in found.items() if "sqs:DeleteMessage" in text} == {CheckState.FAILED}
    assert found["sqs:ChangeMessageVisibility is allowed"] is CheckState.OK
    assert found["its settings cannot be read: AccessDenied"] is CheckState.WARNING
    assert sqs.log == []


async def test_check_finds_a_wrong_clock(sqs: FakeSqs, url: str) -> None:
    """Ten minutes off, and every signature is refused."""

    class Ahead:
        def now(self) -> float:
            return time.time() + 600

    settings = SqsSource.Settings(queue_url=url, region="eu-central-1")
    checks = await SqsSource("events", settings, clock=Ahead()).check()  # type: ignore[arg-type]
    assert any("differs" in check.message and check.state is CheckState.FAILED for check in checks)


@pytest.mark.parametrize(
    ("code", "status", "remedy"),
    [
        ("com.amazonaws.sqs#RequestThrottled", 403, Remedy.WAIT),
        ("ThrottlingException", 400, Remedy.WAIT),
        ("InternalFailure", 500, Remedy.WAIT),
        ("", 502, Remedy.WAIT),
        ("ExpiredToken", 403, Remedy.RENEW),
        ("InvalidClientTokenId", 403, Remedy.RENEW),
        ("AccessDenied", 403, Remedy.OPERATOR),
        ("KMS.AccessDeniedException", 400, Remedy.OPERATOR),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, Remedy.OPERATOR),
        ("SomethingNew", 400, Remedy.OPERATOR),
    ],
)
def test_each_error_code_has_a_remedy(code: str, status: int, remedy: Remedy) -> None:
    """An unknown one is for the operator."""
    assert refused(code, "words", status=status).remedy is remedy


def test_a_wrong_clock_is_named() -> None:
    """A signature that is too old is the clock's fault, not the key's."""
    error = refused("InvalidSignatureException", "Signature expired: 20261122T150000Z is now earlier than", status=403)
    assert "clock" in error.hint


def test_a_quoted_request_is_left_out() -> None:
    """Refusing a signature, AWS quotes the canonical request, and with it the session token."""
    quoted = "does not match.\n\nThe Canonical String should have been\n'POST\n/\n\nx-amz-security-token:FwoGZXIvY"
    error = refused("InvalidSignatureException", quoted, status=403)
    assert "does not match." in str(error)
    assert "FwoGZXIvY" not in f"{error} {error.hint}"
    assert len(str(refused("X", "y" * 10_000))) < 400
