"""What the target sends is what the vendor's client sends, and what it reads may be anything."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import boto3
import pytest
from aiohttp import web
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from listener.errors import OutcomeUnknown, Unavailable
from listener.refresh import RefreshKind
from listener.targets.cloudfront.settings import KEY_SECONDS
from listener.targets.cloudfront.wire import batch_document, read_failure, read_invalidation
from tests.targets.cloudfront.conftest import BASE, DIRECTORY, FILE, FIRST, IGNORE_PARAMS, KEY, make_target

pytestmark = pytest.mark.looptime(False)  # the vendor's client blocks a thread
NOW = datetime(2026, 11, 29, 12, 0, 0)  # noqa: DTZ001 - as botocore has it
DONE = (
    '<Invalidation xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"><Id>I1</Id><Status>Completed</Status>'
    "<CreateTime>2026-11-29T12:00:00Z</CreateTime></Invalidation>"
)
COMPARED = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token", "Content-Type")


class Recorder:
    """A server with one answer."""

    def __init__(self) -> None:
        self.url = ""
        self.answer = web.Response
        self.body, self.status = DONE, 201
        self.received: list[Any] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        headers = {name: request.headers.get(name) for name in COMPARED}
        self.received.append((request.method, request.raw_path, headers, await request.read()))  # type: ignore[attr-defined]
        return web.Response(text=self.body, status=self.status, content_type="text/xml")


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """A server that has completed everything."""
    made = Recorder()
    runner = web.ServerRunner(web.Server(made.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def their(recorder: Recorder, call: str, *, token: str | None = None, **given: Any) -> None:
    """Make a call by the vendor's client."""

    def make() -> None:
        sdk = boto3.client(
            "cloudfront",
            endpoint_url=recorder.url,
            region_name="us-east-1",
            aws_access_key_id=KEY.id,
            aws_secret_access_key=KEY.secret,
            aws_session_token=token,
            config=Config(retries={"total_max_attempts": 1}),
        )
        getattr(sdk, call)(DistributionId=FIRST.id, **given)
        sdk.close()

    await asyncio.to_thread(make)


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both sign at one moment."""
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: NOW)


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize("token", [None, "session/token+=="])
@pytest.mark.parametrize(
    ("kind", "urls", "paths"),
    [
        (FILE, ["/a", "/b%20c/d&e.html?x=1&y=<2"], ["/a", "/b%20c/d&e.html?x=1&y=<2"]),
        (FILE, ["/", "/images/im*"], ["/", "/images/im*"]),
        (DIRECTORY, ["/a/%E6%97%A5/"], ["/a/%E6%97%A5/*"]),
        (DIRECTORY, ["/"], ["/*"]),
        (IGNORE_PARAMS, ["/x.jpg"], ["/x.jpg*"]),
    ],
)
async def test_invalidations(
    recorder: Recorder, kind: RefreshKind, urls: list[str], paths: list[str], token: str | None
) -> None:
    """Path, query, body, signature and the headers that are signed are those of the vendor's client."""
    target = make_target(recorder.url, key=ReadOnlyCredentials(KEY.id, KEY.secret, token))
    await target.submit(kind, [BASE + url for url in urls], force=True, token="0" * 32)
    await target.close()
    batch = {"CallerReference": "0" * 32, "Paths": {"Quantity": len(paths), "Items": paths}}
    await their(recorder, "create_invalidation", token=token, InvalidationBatch=batch)
    ours, theirs = recorder.received
    assert ours == theirs
    assert ours[2]["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261129/us-east-1/cloudfront/")


@pytest.mark.usefixtures("stopped_clock")
async def test_other_calls(recorder: Recorder) -> None:
    """The look at an invalidation, and the first of a list."""
    recorder.status = 200
    target = make_target(recorder.url)
    await target.tasks(["I1"])
    await target.read_quota()
    await target.close()
    await their(recorder, "get_invalidation", Id="I1")
    recorder.body = recorder.body.replace("Invalidation>", "InvalidationList>").replace(
        "<Invalidation ", "<InvalidationList "
    )
    await their(recorder, "list_invalidations", MaxItems="1")
    assert recorder.received[:2] == recorder.received[2:]


async def test_the_region_is_that_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """China has one of its own."""
    china = make_target("https://cloudfront.cn-northwest-1.amazonaws.com.cn")
    assert (make_target("https://cloudfront.amazonaws.com").settings.region, china.settings.region) == (
        "us-east-1",
        "cn-northwest-1",
    )


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no XML",
        "<Invalidation>",
        DONE.replace("</Invalidation>", 20_000 * "<a/>" + "</Invalidation>"),
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        DONE.replace("<Id>I1</Id>", ""),
        DONE.replace("I1", "I1,I2"),
        DONE.replace("doc/2020-05-31", "doc/2012-01-01"),
    ],
)
async def test_answers_that_cannot_be_read(recorder: Recorder, body: str) -> None:
    """Whether it was accepted is not known; a look that shows nothing is repeated."""
    recorder.body = body
    target = make_target(recorder.url)
    with pytest.raises(OutcomeUnknown):
        await target.submit(FILE, [f"{BASE}/a"], force=True, token="0" * 32)
    assert await target.tasks(["I1"]) == []
    recorder.status = 502
    with pytest.raises(OutcomeUnknown):
        await target.submit(FILE, [f"{BASE}/a"], force=True, token="0" * 32)
    with pytest.raises(Unavailable):
        await target.tasks(["I1"])
    await target.close()


async def test_another_invalidation_says_nothing(recorder: Recorder) -> None:
    """An answer about another id is none about the one that was looked at."""
    target = make_target(recorder.url)
    assert await target.tasks(["I2"]) == []
    await target.close()


def test_errors_are_read_with_and_without_a_namespace() -> None:
    """Errors of the front end have none."""
    for space in ("", ' xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"'):
        error = "<Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error>"
        body = f"<ErrorResponse{space}>{error}</ErrorResponse>"
        assert read_failure(400, body.encode())[:3] == (400, "Throttling", "Rate exceeded")
    assert read_failure(400, b"<html>").code == ""


def test_a_document_announces_what_it_has() -> None:
    """And is one again when it is read."""
    text = batch_document("r", ["/a&b", "/é"]).decode()
    assert re.findall(r"<Quantity>(\d)</Quantity>|<Path>([^<]*)</Path>", text) == [
        ("2", ""),
        ("", "/a&amp;b"),
        ("", "/é"),
    ]
    assert read_invalidation(batch_document("r", [])) is None


async def test_a_key_that_does_not_come_is_not_waited_for(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is written within the time that is kept free before the month ends, or not at all."""
    target, never = make_target(recorder.url, key=None), threading.Event()
    assert target.pace.answer_seconds == KEY_SECONDS + target.settings.answer_seconds
    monkeypatch.setattr("listener.targets.cloudfront.client.KEY_SECONDS", 0.05)
    monkeypatch.setattr(target.client, "_read_key", never.wait)
    try:
        with pytest.raises(Unavailable, match="key"):
            await target.submit(FILE, [f"{BASE}/a"], force=True, token="t")
    finally:
        never.set()
        await target.close()
    assert recorder.received == []
