"""Nothing is handed to the network once this process may not send any more: in the very step, whatever came before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from listener.alibaba import session as session_module
from listener.contracts import ChecksDeadline
from listener.errors import SendingEnded
from listener.refresh import RefreshKind
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.targets.alibaba_cdn.recording_api import Api

MakeTarget = Callable[..., AlibabaCdn]
URL = "https://www.example.com/a.txt"
KINDS = [RefreshKind.FILE, RefreshKind.PREFETCH]  # one carries its URLs in the body, the other has no body


class Left:
    """What is left, by number of the question."""

    def __init__(self, *answers: float) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self) -> float:
        """Return the next answer, the last one for ever."""
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_byte_is_sent_after_the_deadline(make_target: MakeTarget, kind: RefreshKind) -> None:
    """Neither head nor body: the server sees a connection, and nothing on it."""
    bytes_of: list[bytes] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bytes_of.append(await reader.read())
        writer.close()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        target = make_target(endpoint=f"http://{host}:{port}")
        assert isinstance(target, ChecksDeadline)
        target.send_while(Left(0.0))
        with pytest.raises(SendingEnded):
            await target.submit(kind, [URL], force=False)
        await ended.wait()
    assert bytes_of == [b""]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_is_sent_before_the_deadline(api: Api, target: AlibabaCdn, kind: RefreshKind) -> None:
    """With time left a request goes out as ever, one with an empty body, too."""
    target.send_while(lambda: 0.1)
    await target.submit(kind, [URL], force=False)
    assert len(api.received) == 1


async def test_the_time_is_looked_at_after_the_connection_is_made(
    api: Api, target: AlibabaCdn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name look-up, a proxy or TLS may take the rest of the time: the look comes with the bytes."""
    left = Left(1.0)
    target.send_while(left)
    connected = asyncio.Event()
    made = session_module.open_session

    def open_session(*arguments: object, **options: object) -> object:
        session = made(*arguments, **options)  # type: ignore[arg-type]
        connect = session.connector.connect  # type: ignore[union-attr]

        async def slowly(*these: object, **more: object) -> object:
            connection = await connect(*these, **more)  # type: ignore[arg-type]
            left.answers = [0.0]
            connected.set()
            return connection

        monkeypatch.setattr(session.connector, "connect", slowly)
        return session

    monkeypatch.setattr(session_module, "open_session", open_session)
    with pytest.raises(SendingEnded):
        await target.submit(RefreshKind.FILE, [URL], force=False)
    assert connected.is_set()
    assert api.received == []


async def test_a_body_that_is_cut_short_is_no_request(api: Api, target: AlibabaCdn) -> None:
    """Where the deadline passes between two pieces, the server never has the whole request."""
    left = Left(1.0, 0.0)
    target.send_while(left)
    urls = [f"{URL}?{'x' * 900}={number}" for number in range(200)]
    with pytest.raises(SendingEnded):
        await target.submit(RefreshKind.FILE, urls, force=False)
    assert left.asked == 2
    assert api.received == []


async def test_reading_goes_on_after_the_deadline(api: Api, target: AlibabaCdn) -> None:
    """What changes nothing may be asked at any time."""
    target.send_while(Left(0.0))
    await target.tasks(["17"])
    assert api.received
