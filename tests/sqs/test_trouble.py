"""What the source does when the service refuses, fails or is gone: it says so, and goes on by itself."""

from __future__ import annotations

import time

import pytest
from fake_sqs import FakeSqs
from sqs_world import reading, s3_event, until

from listener.contracts import CheckState, SourceState
from listener.sources.sqs import SqsSource
from listener.sources.sqs.trouble import Remedy, refused

pytestmark = [pytest.mark.looptime(False)]


@pytest.mark.parametrize(
    ("what", "status"), [("RequestThrottled", 403), ("ServiceUnavailable", 503), ("OverLimit", 403), ("drop", 0)]
)
async def test_passing_trouble_is_waited_out(sqs: FakeSqs, url: str, transport: str, what: str, status: int) -> None:
    """Throttling, a service that is down, broken connections: told as degraded, and over when it is over."""
    async with reading(sqs, url, transport=transport) as taker:
        health = taker.source.health
        await until(lambda: health.ready)
        fault = sqs.order("ReceiveMessage", what, status=status)
        await until(lambda: health.state is SourceState.DEGRADED)
        assert health.ready
        assert health.detail
        fault.left = 0
        sqs.send(s3_event("a.html"))
        await until(lambda: taker.keys == ["a.html"])
        assert (health.state, health.detail) == (SourceState.LISTENING, "")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDenied", "sqs:ReceiveMessage"),
        ("AWS.SimpleQueueService.NonExistentQueue", "queue_url"),
        ("InvalidClientTokenId", "AWS_ACCESS_KEY_ID"),
    ],
)
async def test_what_an_operator_must_mend_makes_it_unready_and_says_what_to_do(
    sqs: FakeSqs, url: str, transport: str, code: str, words: str
) -> None:
    """A refused key, a missing permission, a missing queue: not ready, with the service's word and a hint."""
    async with reading(sqs, url, transport=transport) as taker:
        health = taker.source.health
        await until(lambda: health.ready)
        fault = sqs.order("ReceiveMessage", code, status=403)
        await until(lambda: health.state is SourceState.DEGRADED)
        assert not health.ready
        assert code in health.detail
        assert words in health.detail
        fault.left = 0
        await until(lambda: health.ready)
        assert health.detail == ""


async def test_an_expired_token_is_read_anew(
    sqs: FakeSqs, url: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that the chain finds by then is taken, without a restart."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "old-token")
    async with reading(sqs, url, transport=transport) as taker:
        health = taker.source.health
        await until(lambda: health.ready)
        sqs.expired.add("old-token")
        await until(lambda: not health.ready)
        assert "ExpiredToken" in health.detail
        assert "old-token" not in health.detail
        monkeypatch.setenv("AWS_SESSION_TOKEN", "new-token")
        sqs.send(s3_event("a.html"))
        await until(lambda: taker.keys == ["a.html"])
        assert health.ready


async def test_without_a_key_it_says_so(
    sqs: FakeSqs, url: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key anywhere: told with what to set, and taken up once there is one."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with reading(sqs, url, transport=transport) as taker:
        health = taker.source.health
        await until(lambda: "no AWS key" in health.detail)
        assert "AWS_ACCESS_KEY_ID" in health.detail
        assert not health.ready
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testid")
        await until(lambda: health.ready)


@pytest.mark.parametrize("what", ["RequestThrottled", "drop", "after"])
async def test_deletions_survive_passing_trouble(sqs: FakeSqs, url: str, transport: str, what: str) -> None:
    """Throttled, broken, or broken after the work was done: in the end the messages are gone, and came once."""
    sqs.order("DeleteMessageBatch", what, 2)
    for number in range(10):
        sqs.send(s3_event(f"{number}.html"))
    async with reading(sqs, url, transport=transport) as taker:
        await until(lambda: not sqs.queues["events"].messages)
        assert len(taker.keys) == 10


async def test_messages_whose_answer_was_lost_come_again(sqs: FakeSqs, url: str, transport: str) -> None:
    """The connection broke after the service had handed them out: they are hidden, then received anew."""
    sqs.send(s3_event("a.html"))
    sqs.order("ReceiveMessage", "after", 1)
    async with reading(sqs, url, transport=transport) as taker:
        await until(lambda: sqs.hidden() == 1)
        sqs.ahead += 61
        await until(lambda: taker.keys == ["a.html"])


async def test_deletions_that_are_forbidden_are_told(sqs: FakeSqs, url: str, transport: str) -> None:
    """Without the permission to delete, messages are counted as not deleted rather than tried for ever."""
    sqs.order("DeleteMessageBatch", "AccessDenied", 1, status=403)
    sqs.send(s3_event("a.html"))
    async with reading(sqs, url, transport=transport) as taker:
        await until(lambda: taker.keys and not sqs.faults[0].left)
        await until(lambda: taker.source.health.state is SourceState.DEGRADED)
        assert "AccessDenied" in taker.source.health.detail
        sqs.ahead += 61
        await until(lambda: not sqs.queues["events"].messages)
        assert taker.keys == ["a.html"]
        await until(lambda: taker.source.health.state is SourceState.LISTENING)
    assert taker.source.health.figures["not_deleted_messages"] == 1


async def test_forbidden_figures_disturb_nothing(sqs: FakeSqs, url: str, transport: str) -> None:
    """Without the permission to look at the queue there are no figures of it, and all else works."""
    sqs.order("GetQueueAttributes", "AccessDenied", status=403)
    async with reading(sqs, url, transport=transport, figures_interval_seconds=0.05) as taker:
        sqs.send(s3_event("a.html"))
        await until(lambda: taker.keys == ["a.html"])
        assert taker.source.health.ready
        assert "queue_messages" not in taker.source.health.figures


async def test_check_tells_what_the_key_may_do_without_receiving(sqs: FakeSqs, url: str) -> None:
    """Refused deletions fail; a queue that cannot be looked at is a warning; no message is touched."""
    sqs.send(s3_event("a.html"))
    source = SqsSource("events", SqsSource.Settings(queue_url=url, region="eu-central-1"))  # type: ignore[arg-type]
    sqs.order("DeleteMessage", "AccessDenied", status=403)
    sqs.order("GetQueueAttributes", "AccessDenied", status=403)
    found = {check.message: check.state for check in await source.check()}
    assert {state for text, state in found.items() if "sqs:DeleteMessage" in text} == {CheckState.FAILED}
    assert found["sqs:ChangeMessageVisibility is allowed"] is CheckState.OK
    assert found["cannot be looked at: AccessDenied"] is CheckState.WARNING
    assert sqs.log == []


async def test_check_sees_a_clock_that_is_wrong(sqs: FakeSqs, url: str) -> None:
    """Ten minutes off the service's clock, and every signature would be refused."""

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
        ("AccessDenied", 403, Remedy.TELL),
        ("KMS.AccessDeniedException", 400, Remedy.TELL),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, Remedy.TELL),
        ("SomethingNew", 400, Remedy.TELL),
    ],
)
def test_refusals_are_drawn_by_remedy(code: str, status: int, remedy: Remedy) -> None:
    """Each code of the service leads to what can be done about it; an unknown one is told."""
    assert refused(code, "words", status=status).remedy is remedy


def test_a_wrong_clock_is_named() -> None:
    """A signature that is too old is the clock's fault, not the key's."""
    error = refused("InvalidSignatureException", "Signature expired: 20261122T150000Z is now earlier than", status=403)
    assert "clock" in error.hint


def test_what_the_service_quotes_of_a_request_is_not_told() -> None:
    """Refusing a signature, AWS quotes the canonical request, and with it the session token."""
    quoted = "does not match.\n\nThe Canonical String should have been\n'POST\n/\n\nx-amz-security-token:FwoGZXIvY"
    error = refused("InvalidSignatureException", quoted, status=403)
    assert "does not match." in str(error)
    assert "FwoGZXIvY" not in f"{error} {error.hint}"
    assert len(str(refused("X", "y" * 10_000))) < 400
