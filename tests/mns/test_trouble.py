"""What a queue refuses: visible in health with what to do, tried again with back-off, and over once it is mended."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_mns import FakeMns
from oss_messages import bodies
from reading_along import reading, until
from structlog.testing import capture_logs

from listener.contracts import SourceState
from listener.sources.mns import MnsSource
from listener.sources.mns.trouble import Remedy, refused
from listener.sources.mns.wire import Failure

pytestmark = pytest.mark.looptime(False)
MakeSource = Callable[..., MnsSource]
KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret"}


async def test_a_queue_that_is_not_there_is_told(service: FakeMns, make_source: MakeSource) -> None:
    """Not ready, with what to check; once it is created everything goes its way."""
    queue = service.queues.pop("events")
    async with reading(make_source()) as along:
        health = along.source.health
        await until(lambda: health.detail)
        assert health.state is SourceState.DEGRADED
        assert not health.ready
        assert "QueueNotExist" in health.detail
        assert "check queue and endpoint" in health.detail
        service.queues["events"] = queue
        await service.send(*bodies(["a"]))
        await until(lambda: along.keys == ["a"])
        assert (health.state, health.ready, health.detail) == (SourceState.LISTENING, True, "")


async def test_a_key_that_may_not_read_is_told(service: FakeMns, make_source: MakeSource) -> None:
    """With the command that prints the policy."""
    service.denied = {"BatchReceiveMessage"}
    async with reading(make_source()) as along:
        await until(lambda: "AccessDenied" in along.source.health.detail)
        assert "--print-setup" in along.source.health.detail
        assert not along.source.health.ready


async def test_a_key_that_may_not_delete_loses_and_repeats_nothing(service: FakeMns, make_source: MakeSource) -> None:
    """What was durable is handed out once, however often it comes again; mended, it is deleted."""
    await service.send(*bodies("ab"))
    service.denied = {"BatchDeleteMessage"}
    with capture_logs() as logs:
        async with reading(make_source()) as along:
            await until(lambda: along.figure("deletions_failed"))
            await service.advance(31)
            await until(lambda: along.figure("received_again") == 2)
            await until(lambda: along.figure("deletions_given_up"))
            await service.advance(31)
            await until(lambda: along.source.health.state is SourceState.DEGRADED)
            assert "cannot be deleted" in along.source.health.detail
            assert along.source.health.ready
            service.denied = set()
            await service.advance(31)
            await until(lambda: len(service.queue.deleted) == 2)
            await service.send(*bodies("c"))
            await until(lambda: along.source.health.state is SourceState.LISTENING)
    assert along.keys[:2] == ["a", "b"]
    assert any("AccessDenied" in str(entry.get("error")) for entry in logs)


@pytest.mark.parametrize(
    ("code", "status"), [("QpsLimitExceeded", 429), ("QpsLimitExceeded", 400), ("InternalError", 500), ("", 503)]
)
async def test_busy_times_pass_by_themselves(service: FakeMns, make_source: MakeSource, code: str, status: int) -> None:
    """Throttled or broken once, it asks again after a while, and nobody is alarmed."""
    await service.send(*bodies(["a"]))
    service.order(code, status=status, action="BatchReceiveMessage")
    async with reading(make_source()) as along:
        await until(lambda: service.queue.deleted)
        assert along.figure("receives_failed") == 1
        assert along.source.health.detail == ""
        assert along.source.health.ready


async def test_trouble_that_stays_is_told(service: FakeMns, make_source: MakeSource) -> None:
    """After some tries the source is degraded, and says by what."""
    service.order("InternalError", action="BatchReceiveMessage", times=3)
    async with reading(make_source()) as along:
        await until(lambda: along.source.health.detail)
        assert along.source.health.state is SourceState.DEGRADED
        assert "InternalError" in along.source.health.detail
        await until(lambda: along.source.health.ready)


async def test_a_service_that_cannot_be_reached_is_told(make_source: MakeSource) -> None:
    """With the endpoint, which is the setting to look at."""
    async with reading(make_source(endpoint="http://127.0.0.1:9", connect_seconds=1)) as along:
        await until(lambda: along.source.health.state is SourceState.DEGRADED)
        assert "http://127.0.0.1:9" in along.source.health.detail


async def test_a_clock_that_is_off_is_told_by_how_much(service: FakeMns, make_source: MakeSource) -> None:
    """The service's own time stands in its refusal."""
    service.ahead = 3600
    async with reading(make_source()) as along:
        await until(lambda: along.source.health.detail)
        told = re.search(r"the clock of this machine is (\d+) s behind the service's", along.source.health.detail)
        assert told is not None
        assert 3500 < int(told[1]) < 3700
        assert "NTP" in along.source.health.detail


async def test_a_clock_that_drifts_is_told_before_it_matters(service: FakeMns, make_source: MakeSource) -> None:
    """Two minutes are no reason to stop, but to warn, and a figure."""
    service.ahead = -120
    with capture_logs() as logs:
        async with reading(make_source(figures_interval_seconds=0.05)) as along:
            await until(lambda: along.figure("clock_skew_seconds") > 100)
            assert along.source.health.ready
    assert [entry["event"] for entry in logs].count("mns.clock_skew") == 1


async def test_a_missing_key_is_told(service: FakeMns, make_source: MakeSource) -> None:
    """Nothing is sent; the variables are named."""
    async with reading(make_source(environment={})) as along:
        await until(lambda: along.source.health.detail)
        assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in along.source.health.detail
    assert not service.calls


async def test_a_key_that_was_replaced_is_read_anew(service: FakeMns, make_source: MakeSource, tmp_path: Path) -> None:
    """A refused key is asked for again at once: a rotation needs no restart, and reading goes on without a failure."""
    (tmp_path / "secret").write_text("testsecret")
    names = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET_FILE": str(tmp_path / "secret")}
    async with reading(make_source(environment=names)) as along:
        await until(lambda: along.source.health.ready)
        service.keys["testid"] = "another"
        (tmp_path / "secret").write_text("another")
        await service.send(*bodies(["a"]))
        await until(lambda: service.queue.deleted)
        assert along.figure("receives_failed") == 0
        assert along.figure("deletions_failed") == 0


async def test_a_temporary_key_brings_its_token(service: FakeMns, make_source: MakeSource) -> None:
    """The token goes along, and one that is over is told with what to do."""
    service.token = "sts"
    await service.send(*bodies(["a"]))
    async with reading(make_source(environment={**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "sts"})):
        await until(lambda: service.queue.deleted)
    async with reading(make_source(environment={**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "old"})) as along:
        await until(lambda: along.source.health.detail)
        assert "renew the temporary key" in along.source.health.detail


async def test_secrets_stay_out_of_what_is_told(service: FakeMns, make_source: MakeSource) -> None:
    """Whatever the service echoes: string to sign, secret or token."""
    environment = {**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": "token-of-mine"}
    service.order("AccessDenied", status=403, times=100, message="you sent testsecret and token-of-mine")
    with capture_logs() as logs:
        async with reading(make_source(environment=environment)) as along:
            await until(lambda: along.source.health.detail)
    told = f"{along.source.health.detail} {logs}"
    assert "you sent" in told
    assert "testsecret" not in told
    assert "token-of-mine" not in told


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>hello</html>", "no Messages"),
        (b"<Messages><Message/></Messages>", "no MessageId"),
        (b"x" * 9_000_000, "more than 8388608 bytes"),
    ],
)
async def test_an_answer_that_is_none_is_told(
    service: FakeMns, make_source: MakeSource, answer: bytes, words: str
) -> None:
    """A portal in between, a broken message or an endless answer: degraded, tried again, nothing deleted."""
    await service.send(*bodies(["a"]))
    service.raw_answer = answer
    async with reading(make_source()) as along:
        await until(lambda: along.source.health.state is SourceState.DEGRADED)
        assert words in along.source.health.detail
        assert along.deliveries == []
        service.raw_answer = None
        await until(lambda: service.queue.deleted)
    assert along.keys == ["a"]


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", Remedy.TELL),
        (404, "QueueNotExist", Remedy.TELL),
        (408, "TimeExpired", Remedy.TELL),
        (403, "InvalidSecurityToken", Remedy.RENEW),
        (400, "QpsLimitExceeded", Remedy.WAIT),
        (429, "", Remedy.WAIT),
        (500, "", Remedy.WAIT),
        (503, "SomethingNew", Remedy.WAIT),
        (404, "SomethingNew", Remedy.TELL),
        (301, "", Remedy.TELL),
    ],
)
def test_the_code_decides_and_the_status_where_it_is_not_known(status: int, code: str, remedy: Remedy) -> None:
    """Each refusal has one remedy, and those that need a person say what to do."""
    trouble = refused(status, Failure(code, "words", "5F"))
    assert trouble.remedy is remedy
    assert remedy is Remedy.WAIT or trouble.hint
    assert "words" in str(trouble)
    assert "5F" in str(trouble)
