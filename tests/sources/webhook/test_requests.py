"""One request and its answer: a 2xx means durable, whatever else is refused with the right status."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import time
from email.utils import parsedate_to_datetime

import pytest

from listener.change import ChangeKind
from tests.sources.webhook.hooks import BEARER, TOKEN, AheadClock, a_hook, s3_event

pytestmark = pytest.mark.looptime(False)


async def test_an_event_is_answered_once_it_is_durable() -> None:
    """Nothing is answered before the acknowledgement; then 204, and the change is of the source's root."""
    async with a_hook() as hook:
        hook.commits.clear()
        sent = asyncio.create_task(hook.post(s3_event("a/b.html")))
        await hook.until(lambda: hook.deliveries, "delivered")
        done, _ = await asyncio.wait([sent], timeout=0.2)
        assert not done
        hook.commits.set()
        assert (await sent)[0] == 204
        (change,) = hook.changes
        assert (change.root, change.key) == ("hook", "a/b.html")
        assert change.event_time is not None
        assert hook.figures["accepted"] == 1
        assert hook.figures["lag_seconds"] > 0


async def test_requests_that_come_together_are_one_delivery() -> None:
    """What arrives while a commit is under way is committed together, and every sender is answered."""
    async with a_hook() as hook:
        hook.commits.clear()
        sent = [asyncio.create_task(hook.post(s3_event(f"k{number}"))) for number in range(50)]
        await hook.until(lambda: hook.figures.get("in_flight") == 50, "all wait")
        hook.commits.set()
        assert {status for status, _ in await asyncio.gather(*sent)} == {204}
        assert sorted(hook.keys) == sorted(f"k{number}" for number in range(50))
        assert len(hook.deliveries) < 25


async def test_a_store_that_cannot_commit_is_503_with_a_time_to_come_again() -> None:
    """After ``commit_seconds`` the sender is asked to retry; the commit that succeeds later does no harm."""
    async with a_hook(commit_seconds=0.2) as hook:
        hook.commits.clear()
        async with hook.http.post(hook.url, json=s3_event("a"), headers=BEARER) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
        assert (await hook.post(s3_event("b")))[0] == 503
        hook.commits.set()
        assert (await hook.post(s3_event("c")))[0] == 204
        assert {"a", "c"} <= set(hook.keys)
        assert hook.figures["refused_503"] == 2


async def test_what_nobody_can_read_is_set_aside_and_answered() -> None:
    """Garbage is delivered as unreadable with its whole body, and answered 2xx only once that is durable."""
    async with a_hook() as hook:
        hook.commits.clear()
        sent = asyncio.create_task(hook.post(b"\xff{garbage"))
        await hook.until(lambda: hook.deliveries, "delivered")
        done, _ = await asyncio.wait([sent], timeout=0.2)
        assert not done
        hook.commits.set()
        status, text = await sent
        assert status == 202
        assert "kept as a dead letter: unreadable notification: not JSON" in text
        assert [one.body for one in hook.unreadable] == [b"\xff{garbage"]
        assert hook.unreadable[0].reason
        assert not hook.changes


async def test_a_script_names_keys() -> None:
    """As they are, with or without a slash before them; several at once, and what is gone."""
    async with a_hook() as hook:
        body = json.dumps({"keys": ["a b.html", "/50%.html", "日本.jpg"], "deleted": ["old.html"]}).encode()
        assert (await hook.post(body))[0] == 204
        assert [(change.key, change.kind) for change in hook.changes] == [
            ("a b.html", ChangeKind.CONTENT),
            ("50%.html", ChangeKind.CONTENT),
            ("日本.jpg", ChangeKind.CONTENT),
            ("old.html", ChangeKind.DELETED),
        ]


@pytest.mark.parametrize(
    ("body", "words", "keys"),
    [
        ({"keys": "a.html"}, "keys is no list", []),
        ({"keys": ["a.html", 5]}, "keys[1] is no text", ["a.html"]),
        ({"keys": ["a.html", ""]}, "keys[1] is an empty key", ["a.html"]),
        ({"keys": ["a.html"], "delete": ["b.html"]}, "'delete', 'keys'", []),
        ({"deleted": {"a": 1}}, "deleted is no list", []),
    ],
)
async def test_a_script_learns_what_is_wrong(body: object, words: str, keys: list[str]) -> None:
    """422 with the reason, so that curl --fail ends with an error; what is readable is recorded, the body is kept."""
    async with a_hook() as hook:
        status, text = await hook.post(json.dumps(body).encode())
        assert (status, words in text) == (422, True), text
        assert "kept as a dead letter" in text
        assert hook.keys == keys
        assert len(hook.unreadable) == 1


async def test_a_script_names_a_bucket_where_there_are_several() -> None:
    """With one bucket it need not; of several it says which."""
    async with a_hook(buckets=["one"], bucket_prefix=True) as hook:
        assert (await hook.post(b'{"keys": ["a"]}'))[0] == 204
        assert hook.keys == ["one/a"]
    async with a_hook(buckets=["one", "two"], bucket_prefix=True) as hook:
        assert (await hook.post(b'{"keys": ["a"]}'))[0] == 422
        assert (await hook.post(b'{"keys": ["a"], "bucket": "two"}'))[0] == 204
        assert hook.keys == ["two/a"]
    async with a_hook(bucket_prefix=True) as hook:
        assert (await hook.post(b'{"keys": ["a"]}'))[0] == 204
        assert hook.keys == ["a"]


async def test_what_means_nothing_to_a_cache_is_answered_without_a_commit() -> None:
    """Test events and other buckets' events are counted and answered although nothing can be committed."""
    async with a_hook(buckets=["site"]) as hook:
        hook.commits.clear()
        test_event = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "site"}
        assert (await hook.post(test_event))[0] == 204
        assert (await hook.post(s3_event("a", bucket="other")))[0] == 204
        assert hook.figures["ignored"] == 2
        assert not hook.deliveries


async def test_buckets_become_prefixes_where_asked() -> None:
    """With ``bucket_prefix`` sites tell buckets apart by the first part of the key."""
    async with a_hook(bucket_prefix=True) as hook:
        await hook.post(s3_event("a", bucket="one"))
        await hook.post(s3_event("a", bucket="two"))
        assert hook.keys == ["one/a", "two/a"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (BEARER, 204),
        ({"Authorization": f"bearer {TOKEN}"}, 204),
        ({"Authorization": TOKEN}, 204),
        ({"Authorization": "Basic " + base64.b64encode(f"hook:{TOKEN}".encode()).decode()}, 204),
        ({}, 401),
        ({"Authorization": ""}, 403),
        ({"Authorization": "Bearer"}, 403),
        ({"Authorization": f"Bearer {TOKEN}x"}, 403),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 403),
        ({"Authorization": "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode()}, 403),
        ({"Authorization": "Basic %%%"}, 403),
        ({"X-Api-Key": TOKEN}, 401),
    ],
)
async def test_a_token_opens_and_nothing_else_does(headers: dict[str, str], status: int) -> None:
    """A missing credential is 401, a wrong one 403; neither leaves anything behind."""
    async with a_hook() as hook:
        assert (await hook.post(s3_event("a"), headers))[0] == status
        accepted = status == 204
        assert (await hook.post(b"garbage", headers))[0] == (202 if accepted else status)
        assert (bool(hook.changes), bool(hook.unreadable)) == (accepted, accepted)


async def test_a_token_may_stand_in_a_header_of_its_own() -> None:
    """API destinations of EventBridge send a key in a header that one names."""
    async with a_hook(token=TOKEN, credential_header="X-Api-Key") as hook:
        assert (await hook.post(s3_event("a"), {"X-Api-Key": TOKEN}))[0] == 204
        assert (await hook.post(s3_event("a"), BEARER))[0] == 401


async def test_a_token_may_stand_in_the_records() -> None:
    """Ceph repeats its topic's OpaqueData in each record: all of them must hold the token."""
    async with a_hook(token=TOKEN, opaque_data=True) as hook:
        good = s3_event("a", opaqueData=TOKEN, eventSource="ceph:s3")
        bad = s3_event("b", opaqueData="x", eventSource="ceph:s3")
        both = {"Records": good["Records"] + bad["Records"]}
        assert (await hook.post(good, {}))[0] == 204
        assert (await hook.post(bad, {}))[0] == 403
        assert (await hook.post(both, {}))[0] == 403
        for nothing in (b"{}", b"[]", b'{"Records": []}', b'{"Records": [1]}', b"\xff", b"[" * 100_000):
            assert (await hook.post(nothing, BEARER))[0] == 401
        assert hook.keys == ["a"]
        assert not hook.unreadable


def signed(body: bytes, secret: str = "s3cret", *, at: float | None = None) -> dict[str, str]:
    """Return the headers of a signed request."""
    stamp = f"{at:.0f}" if at is not None else ""
    text = stamp.encode() + b"." + body if stamp else body
    headers = {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()}
    return {**headers, "X-Time": stamp} if stamp else headers


async def test_an_hmac_opens_and_an_altered_body_does_not() -> None:
    """The signature is over every byte; hexadecimal digits and Base64 are both read."""
    body = json.dumps(s3_event("a")).encode()
    async with a_hook(secret="s3cret") as hook:
        assert (await hook.post(body, signed(body)))[0] == 204
        other = body.replace(b'"a"', b'"b"')
        digest = hmac.new(b"s3cret", other, hashlib.sha256).digest()
        assert (await hook.post(other, {"X-Hub-Signature-256": base64.b64encode(digest).decode()}))[0] == 204
        assert (await hook.post(body + b" ", signed(body)))[0] == 403
        assert (await hook.post(body, signed(body, "other")))[0] == 403
        assert (await hook.post(body, {"X-Hub-Signature-256": "sha256="}))[0] == 403
        assert (await hook.post(body, BEARER))[0] == 401
        assert hook.keys == ["a", "b"]


async def test_a_signed_body_is_recorded_once_within_the_replay_time() -> None:
    """A recorded request sent again is answered and spends nothing; after the time it counts as another event."""
    body, clock = json.dumps(s3_event("a")).encode(), AheadClock()
    async with a_hook(secret="s3cret", replay_seconds=60, clock=clock) as hook:
        assert [(await hook.post(body, signed(body)))[0] for _ in range(3)] == [204, 204, 204]
        assert hook.keys == ["a"]
        assert hook.figures["repeated"] == 2
        clock.ahead_seconds += 61
        assert (await hook.post(body, signed(body)))[0] == 204
        assert hook.keys == ["a", "a"]


async def test_a_body_that_names_no_moment_is_never_taken_for_a_repetition() -> None:
    """The same body twice may be two changes where its records say neither when nor in which order."""
    event = s3_event("a", eventTime=None)
    del event["Records"][0]["s3"]["object"]["sequencer"]
    body = json.dumps(event).encode()
    async with a_hook(secret="s3cret") as hook:
        assert [(await hook.post(body, signed(body)))[0] for _ in range(2)] == [204, 204]
        assert hook.keys == ["a", "a"]


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b"[]", b"null"])
async def test_a_ping_is_answered_counted_and_not_kept(body: bytes) -> None:
    """Old MinIO servers send an empty body at each start; a wrong token is refused all the same."""
    async with a_hook() as hook:
        hook.commits.clear()
        assert (await hook.post(body))[0] == 204
        assert (await hook.post(body, {}))[0] == 401
        assert (await hook.post(body, {"Authorization": "Bearer no"}))[0] == 403
        assert hook.figures["pings"] == 1
        assert not hook.deliveries
    async with a_hook(secret="s3cret") as hook:
        assert (await hook.post(body, signed(body)))[0] == 204
        assert not hook.deliveries


async def test_a_signed_time_bounds_replays() -> None:
    """With a timestamp header the time is signed too; what is old, from the future, or has no time is refused."""
    body = json.dumps(s3_event("a")).encode()
    async with a_hook(secret="s3cret", timestamp_header="X-Time", replay_seconds=60) as hook:
        now = time.time()
        assert (await hook.post(body, signed(body, at=now)))[0] == 204
        assert (await hook.post(body, signed(body, at=now - 120)))[0] == 403
        assert (await hook.post(body, signed(body, at=now + 120)))[0] == 403
        assert (await hook.post(body, signed(body)))[0] == 403
        later = {**signed(body, at=now - 120), "X-Time": f"{now:.0f}"}
        assert (await hook.post(body, later))[0] == 403
        assert hook.keys == ["a"]


async def test_other_paths_methods_and_encodings_are_refused() -> None:
    """404, 405 with what is allowed, 415; and nothing is delivered."""
    async with a_hook(path="/in") as hook:
        assert (await hook.post(s3_event("a"), url=hook.base + "/other"))[0] == 404
        assert (await hook.post(s3_event("a"), url=hook.base + "/in/"))[0] == 404
        assert (await hook.post(s3_event("a"), url=hook.base + "/in?x=1"))[0] == 204
        async with hook.http.get(hook.url, headers=BEARER) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
        packed = gzip.compress(json.dumps(s3_event("b")).encode())
        assert (await hook.post(packed, {**BEARER, "Content-Encoding": "gzip"}))[0] == 415
        assert hook.keys == ["a"]


async def test_a_large_body_is_413_with_and_without_a_stated_length() -> None:
    """A body over the limit is refused at its Content-Length, and without one as soon as it is over."""

    async def pieces() -> object:
        for _ in range(8):
            yield b"x" * 1024

    async with a_hook(max_body_bytes=4096) as hook:
        assert (await hook.post(b"x" * 4096))[0] == 202
        assert (await hook.post(b"x" * 4097))[0] == 413
        assert (await hook.post(pieces()))[0] == 413
        assert [len(one.body) for one in hook.unreadable] == [4096]


async def test_a_sender_that_waits_for_100_continue_is_let_on() -> None:
    """curl asks before it sends a large body; a wrong credential is refused before it does."""
    body = json.dumps(s3_event("a")).encode() + b" " * 50_000
    async with a_hook() as hook:
        assert (await hook.post(body, expect100=True))[0] == 204
        assert (await hook.post(body, {"Authorization": "Bearer no"}, expect100=True))[0] == 403


@pytest.mark.parametrize(
    ("version", "connection", "stays_open"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True)],
)
async def test_an_accepted_request_is_answered_in_its_clients_format(
    version: str, connection: str, stays_open: bool
) -> None:
    """Status, name and date for every client; the connection stays open only for one that keeps it."""
    async with a_hook() as hook:
        host, _, port = hook.source.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(s3_event("a")).encode()
        head = f"POST / HTTP/{version}\r\nHost: h\r\nAuthorization: {BEARER['Authorization']}\r\n"
        head += f"Content-Length: {len(body)}\r\n" + (f"Connection: {connection}\r\n" if connection else "")
        for _ in range(2 if stays_open else 1):
            writer.write(head.encode() + b"\r\n" + body)
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            assert status.split()[:2] == [f"HTTP/{version}", "204"]
            assert headers["server"] == "cdn-listener"
            assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 60
        if not stays_open:
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_pipelined_requests_are_all_answered() -> None:
    """Whether the answer before has left the buffer or not."""
    async with a_hook() as hook:
        host, _, port = hook.source.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        one = f"POST / HTTP/1.1\r\nHost: h\r\nAuthorization: {BEARER['Authorization']}\r\nContent-Length: 2\r\n\r\n{{}}"
        writer.write(one.encode() * 200)
        for _ in range(200):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
        writer.close()
        await writer.wait_closed()
