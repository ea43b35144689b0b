"""What clouds sign: SNS, MNS, EventBridge; what is altered, old, replayed or signed by a stranger is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
import tracemalloc
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes

from listener.contracts import SourceState
from listener.serving import HTTPRejection
from listener.sources.webhook.authentication import RequestHead
from listener.sources.webhook.authentication.certificates import (
    MAX_BYTES,
    SENDER_A_MINUTE,
    SENDER_AT_ONCE,
    FetchFailed,
    FetchLimits,
    fetcher,
)
from listener.sources.webhook.authentication.shared_secrets import OpaqueToken
from listener.sources.webhook.authentication.signatures import read_message
from listener.sources.webhook.receiver import Replays
from tests.sources.webhook.hooks import (
    CERTIFICATE_URL,
    TOPIC,
    AheadClock,
    Hook,
    Signer,
    a_hook,
    s3_event,
    sns_time,
    write_tls,
)

pytestmark = pytest.mark.looptime(False)
EVENTBRIDGE_URL = "https://cn-hangzhou-eventbridge.oss-accelerate.aliyuncs.com/x509_public_certificate_1.pem"


async def send(hook: Hook, envelope: dict[str, Any], **headers: str) -> int:
    """Send a message as SNS does."""
    own = {"x_amz_sns_message_type": envelope["Type"], "x_amz_sns_topic_arn": envelope["TopicArn"], **headers}
    sent = {name.replace("_", "-"): value for name, value in own.items()}
    return (await hook.post(json.dumps(envelope), {"Content-Type": "text/plain; charset=UTF-8", **sent}))[0]


@pytest.mark.parametrize("version", ["1", "2"])
async def test_a_signed_message_of_an_expected_topic_is_taken(version: str) -> None:
    """Both forms of signature are verified; the certificate is fetched once for many messages."""
    signer = Signer()
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        messages = [signer.sns(json.dumps(s3_event(f"k{number}")), version=version) for number in range(10)]
        messages.append(signer.sns(json.dumps(s3_event("with-subject")), version=version, Subject="Amazon S3"))
        assert set(await asyncio.gather(*(send(hook, one) for one in messages))) == {204}
        assert len(hook.keys) == 11
        assert signer.fetched == [CERTIFICATE_URL]


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("field", ["Message", "MessageId", "Subject", "Timestamp", "Signature"])
async def test_an_altered_message_is_refused(version: str, field: str) -> None:
    """Each signed field counts, and so does the signature; nothing is parked."""
    signer = Signer()
    message = signer.sns(json.dumps(s3_event("a")), version=version, Subject="one")
    altered = {
        "Message": json.dumps(s3_event("b")), "MessageId": "other", "Subject": "two", "Timestamp": sns_time(-1),
        "Signature": base64.b64encode(bytes(256)).decode(),
    }  # fmt: skip
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        assert await send(hook, {**message, field: altered[field]}) == 403
        assert await send(hook, {name: value for name, value in message.items() if name != field}) == 403
        assert await send(hook, message) == 204
        assert hook.keys == ["a"]
        assert not hook.unreadable


async def test_another_key_topic_form_or_hash_is_refused() -> None:
    """A right signature by somebody else, for another topic, in no form, or of the wrong form is worth nothing."""
    signer, other = Signer(), Signer()
    body = json.dumps(s3_event("a"))
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        assert await send(hook, other.sns(body)) == 403
        assert await send(hook, signer.sns(body, TopicArn=TOPIC + "2")) == 403
        assert await send(hook, signer.sns(body, TopicArn=TOPIC + "2"), x_amz_sns_topic_arn=TOPIC) == 403
        assert await send(hook, {**signer.sns(body, version="1"), "SignatureVersion": "2"}) == 403
        assert await send(hook, {**signer.sns(body), "SignatureVersion": "3"}) == 403
        headers = {"x-amz-sns-message-type": "Notification"}
        for nothing in (b"{}", b"[]", b"\xff", b'{"Type": []}', b"[" * 50_000, b'{"Type": "Notification"}'):
            assert (await hook.post(nothing, headers))[0] == 403
        raw = {**headers, "x-amz-sns-rawdelivery": "true", "x-amz-sns-topic-arn": TOPIC}
        assert (await hook.post(body, raw))[0] == 401
        assert not hook.changes
        assert not hook.unreadable


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com.evil.example/SimpleNotificationService-0123456789abcdef.pem",
        "https://evil.example/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com@evil.example/SimpleNotificationService-0123456789abcdef.pem",
        "https://evil.example\\@sns.eu-central-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com:8443/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com/other.pem",
        "https://sns.eu-central-1.amazonaws.com/?Action=x#/SimpleNotificationService-0123456789abcdef.pem",
        "https://sns.eu-central-1.amazonaws.com/a/../SimpleNotificationService-0123456789abcdef.pem",
        "https://s3.eu-central-1.amazonaws.com/evil/SimpleNotificationService-0123456789abcdef.pem",
        "https://169.254.169.254/SimpleNotificationService-0123456789abcdef.pem",
        "file:///etc/passwd",
        "",
        "https://[",
    ],
)
async def test_a_certificate_elsewhere_is_never_fetched(url: str) -> None:
    """The address in a message is as hostile as the message: only SNS's own host in the topic's region is asked."""
    signer = Signer()
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        assert await send(hook, signer.sns(json.dumps(s3_event("a")), SigningCertURL=url)) == 403
        assert signer.fetched == []


async def test_old_messages_are_refused_and_repeated_ones_recorded_once() -> None:
    """A replay within the window is answered, since it is durable, and records nothing; beyond it is refused."""
    signer = Signer()
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch, sns_replay_seconds=3600) as hook:
        body = json.dumps(s3_event("a"))
        assert await send(hook, signer.sns(body, Timestamp=sns_time(-3700))) == 403
        assert await send(hook, signer.sns(body, Timestamp=sns_time(3700))) == 403
        assert await send(hook, signer.sns(body, Timestamp="yesterday")) == 403
        message = signer.sns(body)
        assert [await send(hook, message) for _ in range(3)] == [204, 204, 204]
        assert hook.keys == ["a"]
        assert hook.figures["repeated"] == 2


async def test_a_message_that_was_not_made_durable_is_no_replay() -> None:
    """What was answered 503 is recorded when it comes again."""
    signer = Signer()
    message = signer.sns(json.dumps(s3_event("a")))
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch, commit_seconds=0.5) as hook:
        hook.commits.clear()
        first = asyncio.create_task(send(hook, signer.sns(json.dumps(s3_event("first")))))
        await hook.until(lambda: hook.deliveries, "the first is taken, and held")
        assert await send(hook, message) == 503
        assert await first == 503
        hook.commits.set()
        assert await send(hook, message) == 204
        assert sorted(hook.keys) == ["a", "first"]


async def test_a_subscription_is_confirmed_by_an_address_of_our_own() -> None:
    """The topic must be expected and the request signed; SubscribeURL is not followed."""
    signer = Signer()
    handshake = {"Token": "to ken&", "SubscribeURL": "https://evil.example/"}
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        assert await send(hook, signer.sns("hello", kind="SubscriptionConfirmation", **handshake)) == 204
        confirm = f"https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=to+ken%26"
        assert signer.fetched == [CERTIFICATE_URL, confirm.replace(":", "%3A").replace("https%3A", "https:")]
        unsigned = {**signer.sns("hello", kind="SubscriptionConfirmation", **handshake), "Token": "other"}
        assert await send(hook, unsigned) == 403
        other = signer.sns("hello", kind="SubscriptionConfirmation", **handshake, TopicArn=TOPIC + "2")
        assert await send(hook, other) == 403
        assert len(signer.fetched) == 2
        assert hook.figures["handshakes"] == 1
        assert not hook.deliveries


async def test_a_confirmation_that_fails_is_asked_for_again() -> None:
    """Neither a certificate that cannot be had nor a confirmation that fails turns into a final no."""
    signer, clock = Signer(), AheadClock()
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch, clock=clock) as hook:
        signer.is_down = True
        message = signer.sns(json.dumps(s3_event("a")))
        assert await send(hook, message) == 503
        signer.is_down = False
        clock.ahead_seconds += 2
        assert await send(hook, message) == 204
        signer.is_down = True
        handshake = signer.sns("x", kind="SubscriptionConfirmation", Token="t", SubscribeURL="u")
        assert await send(hook, handshake) == 503
        signer.is_down = False
        assert await send(hook, handshake) == 204


async def test_the_end_of_a_subscription_is_reported_until_it_is_back() -> None:
    """Nothing is wrong with this end, and yet changes are missed: health says so."""
    signer = Signer()
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        end = signer.sns("bye", kind="UnsubscribeConfirmation", Token="t", SubscribeURL="u")
        assert await send(hook, end) == 204
        health = hook.source.health
        assert health.state is SourceState.DEGRADED
        assert TOPIC in health.detail
        assert await send(hook, signer.sns(json.dumps(s3_event("a")))) == 204
        assert (health.state, health.detail) == (SourceState.LISTENING, "")


@pytest.mark.parametrize("days", [(-10, -1), (1, 10)])
async def test_a_certificate_out_of_its_time_signs_nothing(days: tuple[float, float]) -> None:
    """Expired, or not valid yet."""
    signer = Signer(days=days)
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        assert await send(hook, signer.sns(json.dumps(s3_event("a")))) == 403


async def none(url: str) -> bytes:
    """Stand in for a host that has no such certificate."""
    raise FetchFailed("404", is_final=True)


def forged(signer: Signer, number: int) -> dict[str, Any]:
    """Return an unsigned message that names a certificate of its own."""
    url = CERTIFICATE_URL.replace("0123456789abcdef0123", f"{number:020x}")
    return {**signer.sns("x", SigningCertURL=url), "Signature": base64.b64encode(bytes(256)).decode()}


async def test_forged_messages_never_delay_a_genuine_one() -> None:
    """Twenty a second for a minute, each with a certificate that is absent: the first signed message is taken at once,
    the later ones too, and its certificate is fetched once.
    """
    signer, clock = Signer(), AheadClock()

    async def fetch(url: str) -> bytes:
        return await (signer.fetch(url) if url == CERTIFICATE_URL else none(url))

    async with a_hook(sns_topics=[TOPIC], fetch=fetch, clock=clock) as hook:
        for second in range(60):
            batch = [send(hook, forged(signer, second * 20 + number)) for number in range(20)]
            assert set(await asyncio.gather(*batch)) == {403}
            if second % 20 == 10:
                assert await send(hook, signer.sns(json.dumps(s3_event(f"k{second}")))) == 204
            clock.ahead_seconds += 1
        assert hook.keys == ["k10", "k30", "k50"]
        assert signer.fetched == [CERTIFICATE_URL]


async def test_slow_fetches_for_forged_messages_leave_room_for_a_genuine_one() -> None:
    """Where each absent certificate takes the whole time of a fetch, a signed message still gets its own fetch."""
    signer, forever = Signer(), asyncio.Event()

    async def fetch(url: str) -> bytes:
        if url != CERTIFICATE_URL:
            await forever.wait()
        return await signer.fetch(url)

    async with a_hook(sns_topics=[TOPIC], fetch=fetch, http={"connector": aiohttp.TCPConnector(limit=0)}) as hook:
        waiting = [asyncio.create_task(send(hook, forged(signer, number))) for number in range(60)]
        await hook.until(lambda: hook.figures.get("connections", 0) >= 60, "all wait")
        assert await send(hook, signer.sns(json.dumps(s3_event("a")))) == 204
        assert not any(task.done() for task in waiting)
        forever.set()
        assert set(await asyncio.gather(*waiting)) == {403}


async def test_fetches_are_bounded_for_each_sender_and_address() -> None:
    """A sender beyond its part gets 503 and another one is served; an absent certificate is asked for once a minute."""
    limits = FetchLimits()
    for _ in range(SENDER_A_MINUTE):
        limits.begin("192.0.2.1", 0.0)
        limits.end("192.0.2.1")
    with pytest.raises(HTTPRejection) as rejected:
        limits.begin("192.0.2.1", 59.0)
    assert rejected.value.status == 503
    limits.begin("192.0.2.2", 59.0)
    limits.begin("192.0.2.1", 61.0)
    for _ in range(SENDER_AT_ONCE - 1):
        limits.begin("192.0.2.1", 200.0)
    with pytest.raises(HTTPRejection):
        limits.begin("192.0.2.1", 400.0)
    asked: list[str] = []

    async def count(url: str) -> bytes:
        asked.append(url)
        return await none(url)

    signer, clock = Signer(), AheadClock()
    async with a_hook(sns_topics=[TOPIC], fetch=count, clock=clock) as hook:
        assert {await send(hook, forged(signer, 1)) for _ in range(5)} == {403}
        assert len(asked) == 1
        clock.ahead_seconds += 61
        assert await send(hook, forged(signer, 1)) == 403
        assert len(asked) == 2


@pytest.mark.parametrize("source_format", ["auto", "sns", "s3"])
async def test_only_what_was_signed_is_decoded(source_format: str) -> None:
    """Fields of another type with the same text, and fields that no signature covers, let nothing through."""
    signer = Signer()
    smuggled = s3_event("smuggled")
    genuine = signer.sns(json.dumps(s3_event("a")))
    number = signer.sns("5")
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch, format=source_format) as hook:
        assert await send(hook, {**number, "Message": 5, **smuggled}) == 403
        assert await send(hook, {**number, "Message": [], **smuggled}) == 403
        for field in ("MessageId", "Timestamp", "Type", "TopicArn"):
            own = {"x_amz_sns_message_type": "Notification", "x_amz_sns_topic_arn": TOPIC}
            assert await send(hook, {**genuine, field: [genuine[field]], **smuggled}, **own) == 403
        assert await send(hook, {**genuine, **smuggled, "events": [], "TopicName": "x"}) == 204
        assert hook.keys == ["a"]
        assert await send(hook, {**number, **smuggled}) == 202
        assert hook.keys == ["a"]
        assert [one.body for one in hook.unreadable] == [b"5"]


async def test_a_recorded_confirmation_causes_one_call() -> None:
    """However often it is sent again, at once or later; a service that does not answer is asked a few times."""
    signer = Signer()
    handshake = {"Token": "t", "SubscribeURL": "u"}
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        message = signer.sns("hello", kind="SubscriptionConfirmation", **handshake)
        assert set(await asyncio.gather(*(send(hook, message) for _ in range(20)))) == {204}
        assert await send(hook, message) == 204
        assert sum("Action=" in url for url in signer.fetched) == 1
        signer.is_down = True
        other = signer.sns("hello", kind="SubscriptionConfirmation", **{**handshake, "Token": "other"})
        assert [await send(hook, other) for _ in range(5)] == [503, 503, 503, 204, 204]
        assert sum("Token=other" in url for url in signer.fetched) == 3


async def test_what_is_fetched_is_no_certificate() -> None:
    """Garbage, and a certificate whose key is of another kind, verify nothing."""
    signer = Signer()
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch) as hook:
        signer.certificate = type("No", (), {"public_bytes": lambda self, _: b"garbage"})()
        assert await send(hook, signer.sns("x")) == 403


# --- MNS ------------------------------------------------------------------------------------------


def oss_event(key: str) -> dict[str, Any]:
    """Return a notification of OSS."""
    bucket = {"name": "site", "arn": "acs:oss:cn-hangzhou:1234:site", "ownerIdentity": "1234"}
    return {
        "events": [
            {
                "eventName": "ObjectCreated:PutObject", "eventSource": "acs:oss", "eventVersion": "1.0",
                "eventTime": "2026-11-22T07:13:00.000Z", "region": "cn-hangzhou",
                "oss": {"bucket": bucket, "object": {"key": key, "size": 1, "eTag": "A"}, "ossSchemaVersion": "1.0"},
            }
        ]
    }  # fmt: skip


async def test_a_push_of_mns_is_taken_by_a_secret_path() -> None:
    """SIMPLIFIED, JSON and XML: what remains of pushes, whose signature proves nothing."""
    inner = base64.b64encode(json.dumps(oss_event("a")).encode())
    as_json = json.dumps({"TopicOwner": "1234", "TopicName": "oss", "Message": inner.decode()}).encode()
    as_xml = b"<Notification><TopicName>oss</TopicName><Message>" + inner + b"</Message></Notification>"
    async with a_hook(anonymous=True, path="/secret") as hook:
        for body in (inner, as_json, as_xml):
            assert (await hook.post(body, {}))[0] == 204
        assert hook.keys == ["a", "a", "a"]


# --- Alibaba Cloud EventBridge ----------------------------------------------------------------------


def eventbridge(signer: Signer, url: str, body: bytes, *, tail: bytes = b"", at: float = 0.0, **more: str) -> Any:
    """Return the headers of an event, put together from the vendor's description."""
    headers = {
        "x-eventbridge-signature-timestamp": f"{(time.time() + at) * 1000:.0f}", "x-eventbridge-hash-method": "SHA256",
        "x-eventbridge-signature-version": "1.0", "x-eventbridge-signature-url": EVENTBRIDGE_URL,
        "x-eventbridge-signature-token": "t", **more,
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\n" for name, value in headers.items())
    text = f"{url}\n{lines}".encode() + body + tail
    return {**headers, "x-eventbridge-signature-v2": signer.sign(text, hashes.SHA256())}


def cloud_event(key: str, *, account: str = "1234", event_id: str = "e") -> bytes:
    """Return an event of OSS as EventBridge sends it."""
    (event,) = oss_event(key)["events"]
    event_type = "oss:ObjectCreated:PutObject"
    envelope = {"id": event_id, "source": "acs.oss", "specversion": "1.0", "type": event_type, "data": event}
    return json.dumps({**envelope, "aliyunaccountid": account, "time": "2026-11-22T07:13:00.149Z"}).encode()


PUBLIC = "https://hooks.example/x"
ON_EVENTBRIDGE = {"eventbridge_accounts": ["1234"], "token": "t", "public_url": PUBLIC}


async def test_an_event_of_eventbridge_is_taken_and_an_altered_one_is_not() -> None:
    """The URL, the headers, the body and the account count; both ways to end the signed text are known."""
    signer, other = Signer(), Signer()
    async with a_hook(**ON_EVENTBRIDGE, fetch=signer.fetch) as hook:
        body = cloud_event("a")
        assert (await hook.post(body, eventbridge(signer, PUBLIC, body)))[0] == 204
        again = cloud_event("b", event_id="f")
        assert (await hook.post(again, eventbridge(signer, PUBLIC, again, tail=b"\n")))[0] == 204
        assert (await hook.post(body, eventbridge(signer, PUBLIC, body)))[0] == 204
        assert hook.keys == ["a", "b"]
        assert hook.figures["repeated"] == 1
        refused = [
            eventbridge(signer, PUBLIC, again),
            eventbridge(other, PUBLIC, body),
            eventbridge(signer, hook.url, body),
            eventbridge(signer, "https://elsewhere.example/", body),
            eventbridge(signer, PUBLIC, body, at=-400),
            eventbridge(signer, PUBLIC, body, at=400),
            {**eventbridge(signer, PUBLIC, body), "x-eventbridge-hash-method": "SHA1"},
        ]
        for headers in refused:
            assert (await hook.post(body, headers))[0] == 403
        fetched = list(signer.fetched)
        for host in ("evil-eventbridge.oss-accelerate.aliyuncs.com", "cn-evil-eventbridge.oss-accelerate.aliyuncs.com"):
            url = f"https://{host}/x509_public_certificate_1.pem"
            headers = eventbridge(signer, PUBLIC, body, **{"x-eventbridge-signature-url": url})
            assert (await hook.post(body, headers))[0] == 403
        assert signer.fetched == fetched
        foreign = cloud_event("c", account="9", event_id="g")
        assert (await hook.post(foreign, eventbridge(signer, PUBLIC, foreign)))[0] == 403
        assert hook.keys == ["a", "b"]


async def test_another_account_of_eventbridge_cannot_pass_for_an_expected_one() -> None:
    """Its events are signed by the same service and may name any account and, by the Host header, any URL: only the
    token of the target counts, in the signed header or as a bearer.
    """
    signer = Signer()
    async with a_hook(**ON_EVENTBRIDGE, fetch=signer.fetch) as hook:
        body = cloud_event("a")
        for more in ({"x-eventbridge-signature-token": "u"}, {"x-eventbridge-signature-token": ""}):
            headers = eventbridge(signer, PUBLIC, body, **more)
            assert (await hook.post(body, headers))[0] == 403
            assert (await hook.post(body, {**headers, "Host": "hooks.example"}))[0] == 403
        assert signer.fetched == []
        headers = eventbridge(signer, PUBLIC, body, **{"x-eventbridge-signature-token": "another"})
        assert (await hook.post(body, {**headers, "Authorization": "Bearer wrong"}))[0] == 403
        assert not hook.changes
        assert (await hook.post(body, {**headers, "Authorization": "Bearer t"}))[0] == 204


@pytest.mark.parametrize("missing", ["token", "public_url"])
async def test_eventbridge_without_token_or_url_is_refused_and_check_says_what_to_set(missing: str) -> None:
    """Neither the account in the body nor the client's Host header proves anything."""
    signer, body = Signer(), cloud_event("a")
    given = {name: value for name, value in ON_EVENTBRIDGE.items() if name != missing}
    async with a_hook(**given, fetch=signer.fetch) as hook:
        for url in (PUBLIC, hook.url):
            headers = {**eventbridge(signer, url, body), "Host": "hooks.example"}
            assert (await hook.post(body, headers))[0] == 403
        (failed,) = [check for check in await hook.source.check() if check.state == "failed"]
        assert failed.subject == f"sources.hook.{missing}"
        assert f"sources.hook.{missing}" in failed.hint


# --- the fetcher ------------------------------------------------------------------------------------


async def test_the_fetcher_is_bounded_and_follows_nothing(tmp_path: Path) -> None:
    """https with a certificate that is trusted, no redirects, a few kilobytes, and a word on whether to ask again."""
    certificate, key = write_tls(tmp_path)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate, key)
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        match request.path:
            case "/good":
                return web.Response(body=b"pem")
            case "/moved":
                raise web.HTTPFound("/good")
            case "/large":
                return web.Response(body=b"x" * (MAX_BYTES + 1))
            case "/broken":
                return web.Response(status=503)
        return web.Response(status=404)

    application = web.Application()
    application.router.add_get("/{any}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context).start()
    base = f"https://localhost:{runner.addresses[0][1]}"
    try:
        fetch = fetcher(ssl.create_default_context(cafile=certificate))
        assert await fetch(base + "/good") == b"pem"
        for path, is_final in {"/moved": True, "/large": True, "/none": True, "/broken": False}.items():
            with pytest.raises(FetchFailed) as failed:
                await fetch(base + path)
            assert failed.value.is_final is is_final
        assert asked == ["/good", "/moved", "/large", "/none", "/broken"]
        with pytest.raises(FetchFailed):
            await fetcher()(base + "/good")
    finally:
        await runner.cleanup()


async def test_a_host_of_our_own_may_hold_certificates() -> None:
    """``certificate_hosts`` adds to the vendors' own, by https still."""
    signer = Signer()
    url = "https://localhost:4566/cert.pem"
    async with a_hook(sns_topics=[TOPIC], fetch=signer.fetch, certificate_hosts=["localhost:4566"]) as hook:
        assert await send(hook, signer.sns(json.dumps(s3_event("a")), SigningCertURL=url)) == 204
        assert await send(hook, signer.sns("x", SigningCertURL="http" + url[5:])) == 403
        assert signer.fetched == [url]


@pytest.mark.parametrize("guard", ["sns", "opaque"])
async def test_what_is_only_brackets_is_not_parsed(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of empty lists by an unauthenticated client is rejected before it costs fifty times its size."""
    given = b"[" + b"[]," * 340_000 + b"[]]"
    parsed: list[object] = []
    monkeypatch.setattr("listener.formats.reading.json.loads", parsed.append)
    if guard == "sns":
        with pytest.raises(HTTPRejection):
            read_message(given)
    else:
        with pytest.raises(HTTPRejection):
            await OpaqueToken("a token").check(RequestHead("POST", "/", {}), given)
    assert parsed == []


def test_addresses_of_one_customer_are_one_sender() -> None:
    """Whoever has a /64 of IPv6 has one sender's part of the fetches."""
    limits = FetchLimits()
    for number in range(SENDER_AT_ONCE):
        limits.begin(f"2001:db8::{number:x}", 0.0)
    with pytest.raises(HTTPRejection):
        limits.begin("2001:db8::ffff", 0.0)
    limits.begin("2001:db8:0:1::1", 0.0)
    for number in range(SENDER_AT_ONCE):
        limits.end(f"2001:db8::{number:x}")
    limits.begin("2001:db8::ffff", 0.0)


def test_long_names_of_messages_cost_little() -> None:
    """An event may name itself by a megabyte: it is remembered all the same, by its digest."""
    replays = Replays()
    tracemalloc.start()
    try:
        for number in range(200):
            replays.note(f"{number}" + "x" * 100_000, 2.0)
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert replays.is_known("199" + "x" * 100_000, 1.0)
    assert not replays.is_known("199" + "x" * 99_999, 1.0)
