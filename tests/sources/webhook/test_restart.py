"""With a socket that somebody holds for it, the daemon is restarted without a sender being refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.keys import KEYS
from tests.sources.webhook.hooks import BEARER, TOKEN, s3_event
from tests.stand import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.looptime(False)

CONFIG = """
store = {{ url = "sqlite:///{folder}/state.db" }}
admin = {{ listen = "127.0.0.1:{admin}" }}

[sources.hook]
type = "webhook"
listen = "{listen}"

[targets.cdn]
type = "alibaba-cdn"
endpoint = "http://127.0.0.1:1"

[[sites]]
source = "hook"
target = "cdn"
base_urls = ["http://h.example/"]
"""
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="hook")
os.execv(sys.executable, [sys.executable, "-m", "listener", "run", "--config", sys.argv[2]])
"""


@asynccontextmanager
async def a_daemon(folder: Path, held: socket.socket, admin: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the daemon with the socket, as systemd would; end it in order."""
    environment = {**os.environ, **KEYS, "LISTENER_SOURCES__HOOK__TOKEN": TOKEN}
    with (folder / "log").open("ab") as log:
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AS_SYSTEMD, str(held.fileno()), str(folder / "listener.toml"),
            pass_fds=[held.fileno()], env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while True:
                with suppress(aiohttp.ClientError):
                    async with http.get(f"http://127.0.0.1:{admin}/readyz") as response:
                        if response.status == 200:
                            break
                assert daemon.returncode is None, (folder / "log").read_text()
                await asyncio.sleep(0.02)
        yield daemon
    finally:
        with suppress(ProcessLookupError):
            daemon.send_signal(signal.SIGTERM)
        await daemon.wait()


async def test_nobody_is_refused_during_a_restart(tmp_path: Path) -> None:
    """Senders, each with a new connection, find somebody all the time; what they were promised is in the file."""
    refused: list[str] = []
    sent: list[str] = []
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(1024)
        listen, admin = f"127.0.0.1:{held.getsockname()[1]}", free_port()
        (tmp_path / "listener.toml").write_text(CONFIG.format(folder=tmp_path, listen=listen, admin=admin))

        async def send(sender: int) -> None:
            timeout, connector = aiohttp.ClientTimeout(total=60), aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
                for number in range(1_000_000):
                    await report(http, f"{sender}-{number}")

        async def report(http: aiohttp.ClientSession, key: str) -> None:
            while True:
                try:
                    body = json.dumps(s3_event(key))
                    async with http.post(f"http://{listen}/", data=body, headers=BEARER) as response:
                        if response.status == 204:
                            sent.append(key)
                            return
                        if response.status != 503:
                            refused.append(f"{response.status} {await response.text()}")
                except aiohttp.ClientConnectorError as error:
                    refused.append(str(error))
                except (aiohttp.ClientError, TimeoutError):
                    pass  # it was let in and the process ended: sent again
                await asyncio.sleep(0.01)

        async with a_daemon(tmp_path, held, admin):
            senders = [asyncio.create_task(send(each)) for each in range(3)]
            await until_more(sent, senders)
        async with a_daemon(tmp_path, held, admin):
            await until_more(sent, senders)
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
    assert refused == []
    connection = sqlite3.connect(tmp_path / "state.db")
    kept = {bytes(row[0]).decode() for row in connection.execute("SELECT name FROM object")}
    connection.close()
    assert set(sent) <= kept
    assert "inherited=True" in (tmp_path / "log").read_text() or '"inherited": true' in (tmp_path / "log").read_text()


async def until_more(sent: list[str], senders: list[asyncio.Task[None]]) -> None:
    """Wait until some more were sent."""
    count = len(sent)
    async with asyncio.timeout(60):
        while len(sent) < count + 20:
            for sender in senders:
                if sender.done():
                    sender.result()
            await asyncio.sleep(0.02)
