"""Hostile clients: slow, large, many, malformed. Each is refused with its status, memory stays, service goes on."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from listener.serving import Bodies, BodySpace, HTTPRejection
from tests import ROOT
from tests.sources.webhook.hooks import BEARER, TOKEN, a_hook, s3_event, write_tls

pytestmark = pytest.mark.looptime(False)

MEGABYTE = 1024 * 1024
HEAD = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
EVENT = json.dumps(s3_event("a")).encode()


class Running:
    """A source in a process of its own, whose memory can be looked at."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        """Keep the process and where it listens."""
        self.process, self.address = process, address

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def peak_bytes(self) -> int:
        """Return the most memory that it ever held."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024

    def ask(self) -> dict[str, float]:
        """Return its figures."""
        assert self.process.stdin
        assert self.process.stdout
        print(file=self.process.stdin, flush=True)
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """Run a source elsewhere."""
    given = {"listen": "127.0.0.1:0", **({} if "secret" in settings else {"token": TOKEN}), **settings}
    command = [sys.executable, "-m", "tests.sources.webhook.runner", json.dumps(given)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout
            yield Running(process, process.stdout.readline().strip())
        finally:
            process.kill()


async def connect(address: tuple[str, int], first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send the first bytes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(first)
    return reader, writer


async def status_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Return the status that a connection gets in the end; 0 where it ends without one."""
    answer = b""
    with suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(4096), 60)
    writer.close()
    return int(answer.split(b" ", 2)[1]) if answer else 0


async def exchange(address: tuple[str, int], sent: bytes) -> int:
    """Send bytes, return the status."""
    return await status_of(*await connect(address, sent))


@asynccontextmanager
async def serving(
    source: Running, headers: dict[str, str] | None = None, *, scheme: str = "http"
) -> AsyncIterator[list[int]]:
    """Send a good event now and then while the block runs, each on a connection of its own; yield the statuses."""
    statuses: list[int] = []

    async def send() -> None:
        connector = aiohttp.TCPConnector(force_close=True, ssl=False)
        async with aiohttp.ClientSession(connector=connector) as http:
            while True:
                url = f"{scheme}://{source.address}/"
                try:
                    async with http.post(url, data=EVENT, headers=headers or BEARER) as response:
                        statuses.append(response.status)
                except aiohttp.ClientError:
                    statuses.append(0)
                await asyncio.sleep(0.02)

    sending = asyncio.create_task(send())
    try:
        yield statuses
        count = len(statuses)
        end = time.monotonic() + 60
        while len(statuses) < count + 5 or statuses[-5:] != [204] * 5:
            if sending.done():
                sending.result()
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending


def assert_served(statuses: list[int], *, least_share: float = 0.9) -> None:
    """Check that good events were taken all the while; in the thickest crowd a few may be asked to retry."""
    assert set(statuses) <= {0, 204, 408, 503}
    assert statuses.count(204) >= least_share * len(statuses), Counter(statuses)


def files_for(count: int) -> int:
    """Return how many connections this process may open of ``count``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 512 <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + 512, hard))
        soft = count + 512
    return min(count, soft - 512)


@pytest.mark.parametrize(
    ("count", "places", "most_megabytes"),
    [(1_000, 200, 24), pytest.param(10_000, 1_000, 48, marks=pytest.mark.soak)],
)
async def test_slow_connections_are_turned_out_and_disturb_nobody(count: int, places: int, most_megabytes: int) -> None:
    """Every one gets 408, good events sent meanwhile are all taken, and memory does not grow with their number."""
    count = files_for(count)
    with running(max_connections=places, request_seconds=2.0) as source:
        for _ in range(50):
            assert await exchange(source.host_and_port, HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n") == 204
        before = source.peak_bytes()
        async with serving(source) as statuses:
            slow = [await connect(source.host_and_port, b"POST / HTTP/1.1\r\nX: ") for _ in range(count)]
            found = Counter(await asyncio.gather(*(status_of(*one) for one in slow)))
        assert_served(statuses)
        assert found == {408: count}
        async with asyncio.timeout(30):
            while source.ask().get("turned_away_408", 0) < count:  # figures are reported by the second
                await asyncio.sleep(0.1)
        grown = (source.peak_bytes() - before) / MEGABYTE
        print(f"{count} slow connections, {places} places: {grown:.1f} MB, {len(statuses)} good ones taken")
        assert grown < most_megabytes


async def test_slow_bodies_are_turned_out_and_disturb_nobody() -> None:
    """Clients that pass at the head and then dawdle lose their place to those that do not."""
    digest = hmac.new(b"s" * 32, EVENT, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={digest}"}
    slow_head = f"POST / HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: {digest}\r\nContent-Length: 1000\r\n\r\nx".encode()
    with running(secret="s" * 32, max_connections=100, request_seconds=3.0) as source:
        async with serving(source, headers) as statuses:
            slow = [await connect(source.host_and_port, slow_head) for _ in range(300)]
            found = Counter(await asyncio.gather(*(status_of(*one) for one in slow)))
        assert_served(statuses, least_share=0.5)
        assert set(found) <= {408, 503}
        assert found[408] >= 100


async def test_handshakes_that_do_not_end_are_turned_out(tmp_path: Path) -> None:
    """TLS costs a large buffer for each connection: only so many handshakes are let begin, the oldest makes room."""
    certificate, key = write_tls(tmp_path)
    given = {"tls_certificate": str(certificate), "tls_key": str(key), "request_seconds": 3.0}
    with running(**given) as source:
        async with serving(source, scheme="https") as statuses:
            while len(statuses) < 3:
                await asyncio.sleep(0.02)
            before = source.peak_bytes()
            slow = [await connect(source.host_and_port, b"\x16\x03\x01") for _ in range(500)]
            assert set(await asyncio.gather(*(status_of(*one) for one in slow))) == {0}
        assert_served(statuses, least_share=0.3)
        grown = (source.peak_bytes() - before) / MEGABYTE
        print(f"500 handshakes that do not end: {grown:.1f} MB")
        assert grown < 96


async def drip(address: tuple[str, int], head: bytes, piece: bytes, most_bytes: int) -> tuple[int, int]:
    """Send pieces until an answer comes; return its status and how many bytes went out."""
    reader, writer = await connect(address, head)
    sent = 0
    answer = asyncio.create_task(reader.read(4096))
    with suppress(ConnectionError):
        while sent < most_bytes and not answer.done():
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
    status = 0
    with suppress(ConnectionError):
        status = int((await asyncio.wait_for(answer, 60)).split(b" ", 2)[1])
    writer.close()
    return status, sent


async def test_a_body_of_a_gigabyte_is_refused_and_never_held() -> None:
    """Reported by its length it is refused at once; in chunks as soon as it is over; eight at a time cost no memory."""
    piece = b"x" * 65536
    reported = HEAD + b"Content-Length: 1073741824\r\n\r\n"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with running() as source:
        await exchange(source.host_and_port, HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        before = source.peak_bytes()
        async with serving(source) as statuses:
            for head, unit in ((reported, piece), (chunked, b"10000\r\n" + piece + b"\r\n")):
                ended = await asyncio.gather(
                    *(drip(source.host_and_port, head, unit, 1024 * MEGABYTE) for _ in range(8))
                )
                assert {status for status, _ in ended} == {413}
                assert all(sent < 256 * MEGABYTE for _, sent in ended)
        assert_served(statuses)
        grown = (source.peak_bytes() - before) / MEGABYTE
        print(f"bodies of 1 GiB, eight at a time: {grown:.1f} MB")
        assert grown < 48


async def test_floods_of_headers_are_refused() -> None:
    """One endless header, too many small ones, an endless first line: 431, and memory does not grow."""
    floods = {
        "one header": (b"POST / HTTP/1.1\r\nX: ", b"x" * 65536),
        "many headers": (b"POST / HTTP/1.1\r\n", b"X: y\r\n" * 10_000),
        "first line": (b"POST /", b"x" * 65536),
    }
    with running() as source:
        await exchange(source.host_and_port, HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        before = source.peak_bytes()
        async with serving(source) as statuses:
            for head, piece in floods.values():
                ended = await asyncio.gather(
                    *(drip(source.host_and_port, head, piece, 64 * MEGABYTE) for _ in range(8))
                )
                assert {status for status, _ in ended} == {431}
            many = b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n"
            assert await exchange(source.host_and_port, many) == 431
        assert_served(statuses)
        grown = (source.peak_bytes() - before) / MEGABYTE
        print(f"floods of headers: {grown:.1f} MB")
        assert grown < 16


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_400(sent: bytes) -> None:
    """Malformed heads, and lengths that say two things, are refused by the parser; nothing is delivered or logged."""
    async with a_hook() as hook:
        host, _, port = hook.source.address.rpartition(":")
        assert await exchange((host, int(port)), sent) == 400
        assert (await hook.post(EVENT))[0] == 204
        assert hook.keys == ["a"]
        assert not hook.unreadable


async def test_a_client_that_leaves_in_the_middle_disturbs_nobody() -> None:
    """Gone in the head, in the body, or while its event is committed: the next one is served, and the event kept."""
    async with a_hook() as hook:
        host, _, port = hook.source.address.rpartition(":")
        for sent in (b"", b"POST", HEAD + b"Content-Length: 1000\r\n\r\nabc"):
            _, writer = await connect((host, int(port)), sent)
            await writer.drain()
            writer.close()
        hook.commits.clear()
        _, writer = await connect((host, int(port)), HEAD + f"Content-Length: {len(EVENT)}\r\n\r\n".encode() + EVENT)
        await hook.until(lambda: hook.deliveries, "delivered")
        writer.close()
        hook.commits.set()
        assert (await hook.post(s3_event("b")))[0] == 204
        assert hook.keys == ["a", "b"]
        assert not hook.unreadable


async def test_full_places_are_503_with_a_time_to_come_again() -> None:
    """When all places are taken by requests that wait for their commit, a new connection gets its answer at once."""
    async with a_hook(max_connections=16, commit_seconds=60) as hook:
        hook.commits.clear()
        sent = [asyncio.create_task(hook.post(s3_event(f"k{number}"))) for number in range(16)]
        await hook.until(lambda: hook.figures.get("in_flight") == 16, "all places are taken")
        host, _, port = hook.source.address.rpartition(":")
        for _ in range(5):
            reader, writer = await connect((host, int(port)), b"")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: " in answer
            writer.close()
        hook.commits.set()
        assert {status for status, _ in await asyncio.gather(*sent)} == {204}


async def test_all_bodies_together_are_bounded() -> None:
    """What one server holds at once has a limit of its own; beyond it senders are asked to retry."""
    bodies = Bodies(most_bytes=1000)
    with BodySpace(bodies) as one, BodySpace(bodies) as two:
        one.grow(600, 1000)
        with pytest.raises(HTTPRejection) as refused:
            two.grow(600, 1000)
        assert refused.value.status == 503
        two.grow(400, 1000)
    with BodySpace(bodies) as one:
        one.grow(1000, 1000)
        with pytest.raises(HTTPRejection) as refused:
            one.grow(1, 1000)
        assert refused.value.status == 413
