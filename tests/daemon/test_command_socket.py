"""The command socket while the daemon reloads or ends: no request is carried out by parts that are closed."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from listener.daemon import command_socket
from listener.daemon.command_socket import CommandSocket
from listener.daemon.state import DaemonState

pytestmark = pytest.mark.looptime(False)


class Served:
    """A command socket whose only command waits until it may end."""

    def __init__(self, path: Path) -> None:
        parts = SimpleNamespace(
            settings=SimpleNamespace(origin=SimpleNamespace(fingerprints=("one", "two"))), targets={}
        )
        self.state = DaemonState("running", cast("Any", parts), cast("Any", object()), cast("Any", object()))
        self.socket = CommandSocket(self.state)
        self.path = path
        self.begun, self.may_end, self.ended = asyncio.Event(), asyncio.Event(), False

    async def handle(self, _: object) -> str:
        self.begun.set()
        await self.may_end.wait()
        self.ended = True
        return "done"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection whose handshake is over."""
        reader, writer = await asyncio.open_unix_connection(f"{self.path}.sock")
        assert json.loads(await reader.readline())["accepts"] == ["one", "two"]
        return reader, writer


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """Listen, as a daemon that runs."""
    found = Served(tmp_path / "state.db")
    monkeypatch.setattr(command_socket, "HANDLERS", {"status": found.handle})
    monkeypatch.setattr(command_socket.Known, "to", lambda _: command_socket.Known())
    monkeypatch.setattr(command_socket, "why_not_ready", lambda _: [])
    await found.socket.listen(f"sqlite:///{found.path}")
    yield found
    await found.socket.close()


REQUEST = json.dumps({"command": "status", "arguments": {}}).encode() + b"\n"


@pytest.mark.parametrize("phase", ["reloading", "stopping"])
async def test_a_request_that_comes_after_the_end_was_ordered_is_declined(served: Served, phase: str) -> None:
    """Its targets may be closed already, and what they open again nobody would close."""
    reader, writer = await served.connect()
    served.state.phase = phase
    writer.write(REQUEST)
    assert json.loads(await reader.readline()) == {"declined": True}
    writer.close()


async def test_a_request_under_way_is_finished_before_the_parts_are_closed(served: Served) -> None:
    """Its command gets the result."""
    reader, writer = await served.connect()
    writer.write(REQUEST)
    await served.begun.wait()
    finishing = asyncio.create_task(served.socket.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    served.may_end.set()
    await finishing
    assert served.ended
    assert json.loads(await reader.readline()) == {"result": "done"}
    writer.close()


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[" * 100_000,
        b"7",
        b"[]",
        b"{}",
        b'{"command": "status"}',
        b'{"command": "status", "arguments": []}',
        b'{"command": "format_disk", "arguments": {}}',
        b'{"command": ["status"], "arguments": {}}',
    ],
)
async def test_a_line_that_is_no_request_ends_its_connection(
    served: Served, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    """However deep it is nested; nothing is logged as a defect, and the next command is served."""
    reader, writer = await served.connect()
    writer.write(line + b"\n")
    assert await reader.readline() == b""
    writer.close()
    assert not caplog.records
    served.may_end.set()
    reader, writer = await served.connect()
    writer.write(REQUEST)
    assert json.loads(await reader.readline()) == {"result": "done"}
    writer.close()


async def test_one_that_takes_long_is_ended(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end of the daemon does not wait for a CDN that does not respond."""
    monkeypatch.setattr(command_socket, "FINISH_SECONDS", 0.01)
    reader, writer = await served.connect()
    writer.write(REQUEST)
    await served.begun.wait()
    await served.socket.finish()
    assert await reader.readline() == b""
    assert not served.ended
    writer.close()


async def test_the_socket_for_the_group_is_next_to_the_admin_socket(served: Served, tmp_path: Path) -> None:
    """It is open to the group; the one next to the state file is not. Both are removed at the end."""
    admin = tmp_path / "run" / "admin.sock"
    admin.parent.mkdir()
    await served.socket.listen(f"sqlite:///{served.path}", str(admin))
    own, group = Path(f"{served.path}.sock"), Path(f"{admin}.commands")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (own, group)] == [0o600, 0o660]
    reader, writer = await asyncio.open_unix_connection(str(group))
    assert json.loads(await reader.readline())["accepts"] == ["one", "two"]
    writer.close()
    await served.socket.listen("postgresql://db/listener", str(admin))
    assert (own.exists(), group.exists()) == (False, True)
    await served.socket.close()
    assert not group.exists()
