"""Sources that share an address, and clients that share a port: none of them keeps the others out."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import socket
import time
from contextlib import AsyncExitStack

import pytest

from listener.serving import client_of
from listener.serving.descriptors import RESERVED_FILES, SLACK, DescriptorBudget, fair_shares
from listener.serving.listening import Acceptor, try_address
from tests.sources.webhook.hooks import TOKEN, a_hook, s3_event

pytestmark = pytest.mark.looptime(False)

OTHER = "2" * 32
EVENT = json.dumps(s3_event("a")).encode()


def request_of(path: str, token: str) -> bytes:
    """Return a whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(EVENT)}\r\n\r\n"
    return head.encode() + EVENT


async def kept_open(stack: AsyncExitStack, address: tuple[str, int], sent: bytes) -> bytes:
    """Send a request, read its status line, and keep the connection open."""
    reader, writer = await asyncio.open_connection(*address)
    stack.callback(writer.close)
    writer.write(sent)
    return (await reader.read(4096))[:12]


async def test_idle_connections_of_one_credential_make_room_for_another_source() -> None:
    """A sender of source A that keeps every connection alive does not keep those of source B out."""
    address = free_address()
    listen = "{}:{}".format(*address)
    async with (
        AsyncExitStack() as stack,
        a_hook("a", listen=listen, path="/a", max_connections=32) as a,
        a_hook("b", listen=listen, path="/b", token=OTHER, max_connections=32),
    ):
        for _ in range(80):
            assert await kept_open(stack, address, request_of("/a", TOKEN)) == b"HTTP/1.1 204"
            assert a.figures.get("connections", 0) <= 40
        for _ in range(10):
            began = time.monotonic()
            assert await kept_open(stack, address, request_of("/b", OTHER)) == b"HTTP/1.1 204"
            assert time.monotonic() - began < 10  # an idle connection is kept for a minute


async def test_busy_connections_of_one_credential_leave_room_for_another_source() -> None:
    """Requests of source A that wait for their commit hold no more than its part: B is served meanwhile."""
    address = free_address()
    listen = "{}:{}".format(*address)
    async with (
        AsyncExitStack() as stack,
        a_hook("a", listen=listen, path="/a", max_connections=32, commit_seconds=60) as a,
        a_hook("b", listen=listen, path="/b", token=OTHER, max_connections=32),
    ):
        a.commits.clear()
        waiting = [asyncio.create_task(kept_open(stack, address, request_of("/a", TOKEN))) for _ in range(40)]
        await a.until(lambda: a.figures.get("in_flight") == 24, "A holds its part")
        for _ in range(12):
            assert await kept_open(stack, address, request_of("/b", OTHER)) == b"HTTP/1.1 204"
        a.commits.set()
        answers = await asyncio.gather(*waiting)
        assert answers.count(b"HTTP/1.1 204") == 24
        assert set(answers) <= {b"HTTP/1.1 204", b"HTTP/1.1 408", b"HTTP/1.1 503"}


def free_address() -> tuple[str, int]:
    """Return an address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
        return str(host), int(port)


async def test_one_client_address_leaves_room_for_others() -> None:
    """Once it holds most places without a credential, its own oldest connection makes room for its next one."""
    head = b"POST / HTTP/1.1\r\nX: "
    async with AsyncExitStack() as stack, a_hook(listen="0.0.0.0:0", max_connections=32, request_seconds=60) as hook:
        port = int(hook.source.address.rpartition(":")[2])
        other, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        stack.callback(writer.close)
        writer.write(head)
        await hook.until(lambda: hook.figures.get("connections") == 1, "another address waits")
        many = []
        for _ in range(40):
            reader, opened = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(opened.close)
            opened.write(head)
            many.append(reader)
        assert {(await reader.read(4096))[:12] for reader in many[:8]} == {b"HTTP/1.1 408"}
        writer.write(b"y\r\n" + request_of("/", TOKEN).partition(b"\r\n")[2])
        assert (await other.read(4096))[:12] == b"HTTP/1.1 204"


def test_a_client_is_an_address_or_the_net_of_one_customer() -> None:
    """IPv4 as it is, also inside of IPv6; of IPv6 the /64."""
    assert client_of("192.0.2.1") == client_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:0:1") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == "fe80::"
    assert client_of("no address") == "no address"


def test_open_files_are_divided_and_some_are_reserved() -> None:
    """Small ports get all they want, large ones share the rest, and the reserve is never given away."""
    assert fair_shares([128, 1000], 614) == [128, 486]
    assert fair_shares([1000, 1000, 10], 100) == [45, 45, 10]
    assert fair_shares([], 10) == []
    assert fair_shares([5, 5], 0) == [0, 0]
    budget = DescriptorBudget(lambda: 1024)
    admin, hook = budget.join(128), budget.join(1000)
    assert admin.connections == 128
    assert (admin.connections + hook.connections) * SLACK + RESERVED_FILES <= 1024
    budget.leave(admin)
    budget.leave(admin)
    assert 486 < hook.connections == int((1024 - RESERVED_FILES) / SLACK)
    assert DescriptorBudget(lambda: resource.RLIM_INFINITY).join(1000).connections == 1000
    assert DescriptorBudget(lambda: 65_536).join(1000).connections == 1000


async def test_accepting_rests_when_no_file_can_be_opened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A connection is closed for the next one, nothing spins, and accepting goes on by itself."""
    tried: list[float] = []

    class Exhausted(socket.socket):
        """A listening socket of a process that may open no more files, for a while."""

        def accept(self) -> tuple[socket.socket, object]:
            tried.append(time.monotonic())
            if len(tried) <= 4:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    made: list[asyncio.BaseTransport] = []

    class Held(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    rooms: list[None] = []
    listening = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    acceptor = Acceptor([listening], Held, lambda: bool(rooms.append(None)))
    acceptor.start()
    with socket.create_connection(listening.getsockname()):
        async with asyncio.timeout(20):
            while not made:
                await asyncio.sleep(0.01)
        made[0].close()
    await acceptor.close()
    assert len(rooms) == 4
    assert tried[4] - tried[0] >= 0.35
    assert capsys.readouterr().out.count("serving.accept_failed") == 4


async def test_every_address_means_both_families() -> None:
    """``[::]`` and ``*`` take IPv4 and IPv6; ``0.0.0.0`` and ``[::1]`` one of them."""
    for listen, hosts in {"[::]:0": ["::1", "127.0.0.1"], "*:0": ["::1", "127.0.0.1"], "[::1]:0": ["::1"]}.items():
        async with AsyncExitStack() as stack, a_hook(listen=listen) as hook:
            port = int(hook.source.address.rpartition(":")[2])
            for host in ("::1", "127.0.0.1"):
                if host in hosts:
                    assert await kept_open(stack, (host, port), request_of("/", TOKEN)) == b"HTTP/1.1 204"
                else:
                    with pytest.raises(OSError, match="Connect"):
                        await kept_open(stack, (host, port), b"")


async def test_without_ipv6_every_address_means_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped manifests listen on ``[::]``: a node without IPv6 serves them too."""
    monkeypatch.setattr("listener.serving.listening._has_ipv6", lambda: False)
    async with AsyncExitStack() as stack, a_hook(listen="[::]:0") as hook:
        port = int(hook.source.address.rpartition(":")[2])
        assert await kept_open(stack, ("127.0.0.1", port), request_of("/", TOKEN)) == b"HTTP/1.1 204"
    assert try_address("::", 0) is None
