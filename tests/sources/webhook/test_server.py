"""One server for each address: shared, started and ended cleanly, with TLS, with sockets that systemd holds."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
import pytest

from listener.contracts import SourceState
from listener.errors import ConfigurationError, SourceUnavailable
from listener.formats import decode
from listener.serving import inherited_socket, listening
from listener.sources.webhook import WebhookSettings, WebhookSource
from tests.sources.webhook.hooks import TOKEN, TOPIC, a_hook, s3_event, write_tls

pytestmark = pytest.mark.looptime(False)


def free_address() -> str:
    """Return an address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def start(source: WebhookSource) -> None:
    """Start a source up to where it fails or waits for requests."""
    async with asyncio.timeout(30):
        await anext(source.deliveries(None))  # type: ignore[arg-type]


async def test_sources_share_an_address_by_path() -> None:
    """Each gets what is sent to its own path, with its own token; when one ends the other goes on; it can come back."""
    listen = free_address()
    async with a_hook("one", listen=listen, path="/one") as one:
        async with a_hook("two", listen=listen, path="/two", token="2" * 32) as two:
            assert (await one.post(s3_event("a")))[0] == 204
            assert (await two.post(s3_event("b"), {"Authorization": f"Bearer {'2' * 32}"}))[0] == 204
            assert (await two.post(s3_event("c")))[0] == 403
            assert ([c.root for c in one.changes], one.keys) == (["one"], ["a"])
            assert ([c.root for c in two.changes], two.keys) == (["two"], ["b"])
        assert (await one.post(s3_event("d"), url=one.base + "/two"))[0] == 503
        assert (await one.post(s3_event("d"), url=one.base + "/three"))[0] == 404
        assert (await one.post(s3_event("d")))[0] == 204
        async with a_hook("two", listen=listen, path="/two") as again:
            assert (await again.post(s3_event("e")))[0] == 204
    with socket.socket() as again:
        host, _, port = listen.rpartition(":")
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((host, int(port)))


async def test_a_path_twice_and_differing_servers_are_refused() -> None:
    """The second of two sources with one path is a mistake of the configuration, and so are two sets of limits."""
    listen = free_address()
    async with a_hook("one", listen=listen, path="/one") as one:
        for wrong in ({"path": "/one"}, {"path": "/two", "max_connections": 17}):
            source = WebhookSource("two", WebhookSettings(listen=listen, token=TOKEN, **wrong))
            with pytest.raises(ConfigurationError) as raised:
                await start(source)
            assert "two" in str(raised.value)
            assert source.health.state is SourceState.FAILED
        assert (await one.post(s3_event("a")))[0] == 204


async def test_a_taken_address_fails_cleanly_and_can_be_tried_again() -> None:
    """A start that fails leaves nothing behind; once the address is free the same settings work."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        before = set(asyncio.all_tasks())
        with pytest.raises(SourceUnavailable, match="cannot listen"):
            await start(WebhookSource("hook", WebhookSettings(listen=listen, token=TOKEN)))
        assert set(asyncio.all_tasks()) == before
    async with a_hook(listen=listen) as hook:
        assert (await hook.post(s3_event("a")))[0] == 204


async def test_nothing_to_prove_oneself_by_is_refused_unless_meant() -> None:
    """Without token, secret or signed senders it does not start; ``anonymous`` says that this is meant."""
    source = WebhookSource("my-hook", WebhookSettings(listen="127.0.0.1:0"))
    with pytest.raises(ConfigurationError) as raised:
        await start(source)
    assert "LISTENER_SOURCES__MY_HOOK__TOKEN" in raised.value.hint
    async with a_hook(anonymous=True) as hook:
        assert (await hook.post(s3_event("a"), {}))[0] == 204


async def test_a_stop_answers_what_is_being_committed_and_refuses_the_rest() -> None:
    """A request whose commit comes during the stop gets its 204; one that nobody took gets 503."""
    async with a_hook() as hook:
        hook.commits.clear()
        taken = asyncio.create_task(hook.post(s3_event("a")))
        await hook.until(lambda: hook.deliveries, "taken")
        (delivery,), url = hook.deliveries, hook.url
        waiting = asyncio.create_task(hook.post(s3_event("b")))
        await hook.until(lambda: hook.figures.get("in_flight") == 2, "both wait")
        assert hook.task is not None
        hook.cancel()
        assert (await waiting)[0] == 503
        status, _ = await hook.post(s3_event("c"), url=url)
        assert status == 503
        await delivery.ack()
        assert (await taken)[0] == 204
        with suppress(asyncio.CancelledError):
            await hook.task
        with pytest.raises(aiohttp.ClientConnectionError):
            await hook.post(s3_event("d"), url=url)


async def test_the_last_moment_of_a_stop_is_no_404(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as anybody answers, the answer is to come again: a sender that reads 404 gives its event up."""
    statuses: list[int] = []
    async with a_hook() as hook:
        server, url = hook.source._server, hook.url
        assert server is not None
        close = server.close

        async def close_late() -> None:
            statuses.append((await hook.post(s3_event("a"), url=url))[0])
            await close()

        monkeypatch.setattr(server, "close", close_late)
        await hook.stop()
    assert statuses == [503]


async def test_a_successor_waits_for_what_still_ends() -> None:
    """A source that starts while its predecessor answers its last requests is refused, tries again, and is served."""
    listen = free_address()
    async with a_hook(listen=listen) as hook:
        hook.commits.clear()
        taken = asyncio.create_task(hook.post(s3_event("a")))
        await hook.until(lambda: hook.deliveries, "taken")
        assert hook.task is not None
        hook.cancel()
        await hook.until(lambda: hook.source.health.state is SourceState.STOPPED, "it ends")
        with pytest.raises(SourceUnavailable, match="still ending"):
            await start(WebhookSource("hook", WebhookSettings(listen=listen, token=TOKEN)))
        await hook.deliveries[0].ack()
        assert (await taken)[0] == 204
        await hook.until(lambda: not hook.source.address, "it has ended")
    async with a_hook(listen=listen) as successor:
        assert (await successor.post(s3_event("b")))[0] == 204


async def test_nothing_is_left_after_a_stop() -> None:
    """No task, no socket: also while a client holds its connection."""
    before = set(asyncio.all_tasks())
    async with a_hook() as hook:
        reader, writer = await asyncio.open_connection(*hook.source.address.rsplit(":", 1))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n")
        assert (await hook.post(s3_event("a")))[0] == 204
        await hook.stop()
        assert await reader.read() in (b"", raw_503())
        writer.close()
    await asyncio.sleep(0)
    assert set(asyncio.all_tasks()) == before


def raw_503() -> bytes:
    """Return what a connection without a request gets at the end."""
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nServer: cdn-listener\r\nRetry-After: 5\r\n"
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    )


async def test_tls_serves_https_and_a_bad_handshake_disturbs_nobody(tmp_path: Path) -> None:
    """A certificate makes it https; plain HTTP and half handshakes end without a trace."""
    certificate, key = write_tls(tmp_path)
    async with a_hook(tls_certificate=certificate, tls_key=key, request_seconds=1.0) as hook:
        address = hook.source.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        silent_reader, silent_writer = await asyncio.open_connection(*address)
        context = ssl.create_default_context(cafile=certificate)
        url = hook.url.replace("127.0.0.1", "localhost")
        assert (await hook.post(s3_event("a"), url=url, ssl=context))[0] == 204
        assert (await hook.post(b"x" * 200_000, url=url, ssl=context))[0] == 202
        assert (await hook.post(s3_event("a"), {}, url=url, ssl=context))[0] == 401
        assert await silent_reader.read() == b""
        silent_writer.close()
        slow_reader, slow_writer = await asyncio.open_connection(
            "localhost", int(address[1]), ssl=context, server_hostname="localhost", family=socket.AF_INET
        )
        slow_writer.write(b"POST /")
        assert (await slow_reader.read()).startswith(b"HTTP/1.1 408 ")
        slow_writer.close()


async def test_wrong_tls_files_are_reported(tmp_path: Path) -> None:
    """Files that are missing, or do not belong together, are refused, also by ``check``; a missing one may come."""
    certificate, _ = write_tls(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, key = write_tls(other)
    for wrong, expected in (
        ({"tls_certificate": certificate, "tls_key": key}, ConfigurationError),
        ({"tls_certificate": tmp_path / "no", "tls_key": key}, SourceUnavailable),
    ):
        source = WebhookSource("hook", WebhookSettings(listen="127.0.0.1:0", token=TOKEN, **wrong))
        with pytest.raises(expected, match="tls_"):
            await start(source)
        assert "failed" in {check.state for check in await source.check() if "tls" in check.subject}


# --- sockets that somebody holds --------------------------------------------------------------------

CHILD = """
import json, os, runpy, sys
os.dup2(int(sys.argv[3]), 3)
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[5]))
found = runpy.run_path(sys.argv[4])["inherited_socket"](sys.argv[1], int(sys.argv[2]))
print(json.dumps(None if found is None else found.getsockname()[1]))
"""


def ask_child(held: socket.socket, host: str, port: int, *, meant_for: int = 0) -> object:
    """Hand a socket to a process as systemd does, as descriptor 3; return what it finds for an address."""
    command = [
        sys.executable,
        "-c",
        CHILD,
        host,
        str(port),
        str(held.fileno()),
        str(listening.__file__),
        str(meant_for),
    ]
    environment = {**os.environ, "LISTEN_FDS": "1"}
    done = subprocess.run(
        command, pass_fds=[held.fileno()], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    return json.loads(done.stdout)


def test_a_socket_is_taken_over_where_its_address_is_ours() -> None:
    """By port and host, any host where it listens on all; never one of another port, or one that does not listen."""
    with socket.socket() as held, socket.socket() as idle, socket.socket() as everywhere:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert ask_child(held, "127.0.0.1", port) == port
        assert ask_child(held, "localhost", port) == port
        assert ask_child(held, "127.0.0.2", port) is None
        assert ask_child(held, "127.0.0.1", port, meant_for=1) is None
        assert ask_child(held, "127.0.0.1", port + 1) is None
        idle.bind(("127.0.0.1", 0))
        assert ask_child(idle, "127.0.0.1", idle.getsockname()[1]) is None
        everywhere.bind(("0.0.0.0", 0))
        everywhere.listen()
        port = everywhere.getsockname()[1]
        assert ask_child(everywhere, "127.0.0.1", port) == port


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    """``LISTEN_PID`` names whom they are for; whatever cannot be read means none."""
    for environ in ({}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}):
        assert inherited_socket("127.0.0.1", 1, environ) is None
    mine = {"LISTEN_PID": str(os.getpid())}
    for count in ("", "x", "-1", "0"):
        assert inherited_socket("127.0.0.1", 1, {**mine, "LISTEN_FDS": count}) is None


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that somebody holds for this process."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(64)

        def copy(host: str, port: int) -> socket.socket:
            shared = held.dup()
            shared.setblocking(False)
            return shared

        monkeypatch.setattr("listener.sources.webhook.server.inherited_socket", copy)
        yield held


@pytest.mark.parametrize("turns", range(10))
async def test_who_comes_in_the_last_moment_is_answered(held: socket.socket, turns: int) -> None:
    """However far a connection has come when the source stops: an answer, by this owner of the socket or the next."""
    listen = f"127.0.0.1:{held.getsockname()[1]}"
    loop, body = asyncio.get_running_loop(), json.dumps(s3_event("a"))
    request = f"POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    with ExitStack() as sockets:
        async with a_hook(listen=listen) as hook:
            clients = [sockets.enter_context(socket.create_connection(held.getsockname())) for _ in range(5)]
            for client in clients:
                client.sendall((request + body).encode())
                client.setblocking(False)
            for _ in range(turns):
                await asyncio.sleep(0)
            await hook.stop()
        async with a_hook(listen=listen), asyncio.timeout(30):
            answers = [await loop.sock_recv(client, 1000) for client in clients]
    assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 204", b"HTTP/1.1 503"}


def queue_length(listening: socket.socket) -> int:
    """Return how many may wait for a listening socket: Linux has it as ``tcpi_sacked`` of ``tcp_info``."""
    return int(struct.unpack_from("=I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)[0])


async def test_the_length_of_the_queue_is_its_holders(held: socket.socket) -> None:
    """Listening on it again must not shorten what was set for those who wait during a restart."""
    assert queue_length(held) == 64
    async with a_hook(listen=f"127.0.0.1:{held.getsockname()[1]}"):
        assert queue_length(held) == 64


async def test_check_and_setup_say_what_is_there_and_what_to_paste() -> None:
    """A free address, ours and somebody else's; a short token; what to paste, without the token."""
    listen = free_address()
    source = WebhookSource("hook", WebhookSettings(listen=listen, token="short", path="/hook", buckets=["site"]))
    found = {check.subject: check for check in await source.check()}
    assert found["sources.hook.listen"].message.endswith("is free")
    assert found["sources.hook.token"].state == "warning"
    twin = WebhookSource("twin", WebhookSettings(listen=listen, token=TOKEN, path="/hook"))
    assert {check.subject: check.state for check in await twin.check()}["sources.twin.path"] == "failed"
    assert {check.subject: check.state for check in await source.check()}["sources.hook.path"] == "failed"
    del twin
    assert {check.subject: check.state for check in await source.check()}["sources.hook.path"] == "ok"
    async with a_hook(listen=listen, path="/hook"):
        ours = {check.subject: check for check in await source.check()}
        assert "served by the daemon" in ours["sources.hook.listen"].message
        command = [sys.executable, "-c", ASK, listen]
        asked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=True)
        assert "served by the daemon" in asked.stdout
    with socket.socket() as taken:
        host, _, port = listen.rpartition(":")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, int(port)))
        taken.listen()
        assert {check.subject: check.state for check in await source.check()}["sources.hook.listen"] == "failed"
    text = source.setup()
    for word in ("mc event add", "[notification.webhook]", "create-api-destination", f"http://{listen}/hook", "/site/"):
        assert word in text
    assert "short" not in text


ASK = """
import asyncio, sys
from listener.sources.webhook import WebhookSettings, WebhookSource
source = WebhookSource("hook", WebhookSettings(listen=sys.argv[1], token="t" * 32))
for check in asyncio.run(source.check()):
    print(check.state.value, check.message)
"""


async def test_check_warns_of_what_is_weak() -> None:
    """A signature without a time can be replayed; without a credential anybody is trusted."""
    listen = free_address()
    for settings, subject, words in (
        ({"secret": "s" * 32}, "sources.hook.timestamp_header", "can be sent again"),
        ({"anonymous": True}, "sources.hook", "any client that can reach this port is trusted"),
    ):
        found = await WebhookSource("hook", WebhookSettings(listen=listen, **settings)).check()
        (warning,) = [check for check in found if check.state == "warning" and check.subject == subject]
        assert words in warning.message
    timed = WebhookSettings(listen=listen, secret="s" * 32, timestamp_header="X-Time")
    assert not [check for check in await WebhookSource("hook", timed).check() if "replay" in check.message]


async def test_check_without_any_credential_fails_with_the_line_that_makes_one() -> None:
    """An operator who forgot the token learns its variable."""
    source = WebhookSource("hook", WebhookSettings(listen=free_address()))
    (failed,) = [check for check in await source.check() if check.state == "failed"]
    assert "LISTENER_SOURCES__HOOK__TOKEN" in failed.hint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"token": TOKEN, "opaque_data": True}, ["create-topic", '"persistent": "true"', "OpaqueData"]),
        ({"secret": "s", "timestamp_header": "X-Time"}, ["openssl dgst", "X-Time"]),
        ({"sns_topics": "arn:aws:sns:eu-central-1:111122223333:site"}, ["aws sns subscribe", "SignatureVersion"]),
        ({"eventbridge_accounts": "1234", "public_url": "https://h.example/x"}, ["acs.oss", "https://h.example/x"]),
        (
            {"token": TOKEN, "listen": "0.0.0.0:9000", "credential_header": "X-Api-Key"},
            ["http://<host>:9000/", "X-Api-Key"],
        ),
    ],
)
def test_each_way_in_has_its_own_instructions(settings: dict[str, object], words: list[str]) -> None:
    """What to paste fits how the source is set up."""
    text = WebhookSource("hook", WebhookSettings(**settings)).setup()  # type: ignore[arg-type]
    assert all(word in text for word in words), text
    assert TOKEN not in text
    assert all(block.startswith("# ") for block in text.strip().split("\n\n"))


async def test_the_request_that_is_printed_for_a_script_is_understood() -> None:
    """Its body is decoded into the two changes that it names, for the first of the buckets."""
    text = WebhookSource("hook", WebhookSettings(token=TOKEN, buckets=["shop"])).setup()
    (line,) = [one for one in text.splitlines() if one.startswith("curl ")]
    words = shlex.split(line)
    assert "Authorization: Bearer <token>" in words
    decoded = decode(words[words.index("--data-binary") + 1].encode(), roots={"shop"})
    assert [one.key for one in decoded.changes] == ["shop/a b.html", "shop/old.html"]
    assert not decoded.unreadable


def test_secrets_stay_out_of_what_settings_show() -> None:
    """Neither ``repr`` nor a dump of the settings holds token or secret."""
    for secret in ({"token": TOKEN}, {"secret": TOKEN}):
        settings = WebhookSettings(**secret)
        assert TOKEN not in repr(settings) + str(settings.model_dump(mode="json")) + settings.model_dump_json()


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": "a", "secret": "b"}, {"token": ""}, {"anonymous": True, "token": "a"}, {"path": "x"},
        {"anonymous": True, "credential_header": "X-Token"}, {"anonymous": True, "sns_topics": TOPIC},
        {"anonymous": True, "opaque_data": True}, {"public_url": "hooks.example"},
        {"path": "/a b"},
        {"path": "/a?b"}, {"listen": "9181"}, {"listen": "x:99999"}, {"sns_topics": "site"}, {"mns_topics": "1/oss"},
        {"tls_key": "k"}, {"certificate_hosts": "https://x/"}, {"signature_header": "a b"}, {"unknown": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    """Two credentials, half of TLS, paths and names in no form: refused when the file is read."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WebhookSettings(**wrong)  # type: ignore[arg-type]
