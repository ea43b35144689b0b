"""What tests of the shells share: an emulator in a thread, a configuration on disk, the command as users call it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from listener.alibaba.signature import Credentials
from listener.emulator import Emulator, EmulatorSettings, parse_fault, parse_quota

KEY_ID, SECRET = "testid", "testsecret-that-nobody-may-see"
DEADLINE_SECONDS = 90.0
KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": KEY_ID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": SECRET}


def until(condition: Callable[[], Any], *, seconds: float = DEADLINE_SECONDS, what: str = "") -> Any:
    """Wait, in real time, until the condition holds; return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)
    return found


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str) -> tuple[int, str]:
    """Return status and body; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@dataclass
class Stand:
    """An origin, an emulator in front of it, and a configuration that joins the two."""

    root: Path
    emulator: Emulator
    admin_port: int
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        return self.root / "www"

    @property
    def config(self) -> Path:
        return self.root / "listener.toml"

    @property
    def state(self) -> Path:
        return self.root / "state.db"

    @property
    def edge(self) -> str:
        return self.emulator.edge_url

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def url(self, key: str) -> str:
        return f"{self.edge}/{quote(key)}"

    def write(self, key: str, text: str = "one") -> None:
        path = self.tree / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def configure(self, more: str = "", *, site: str = "", target: str = "", path: str | None = None) -> Path:
        """Write the configuration; ``more`` are further tables, ``site`` and ``target`` further keys of those."""
        return self.put(
            f"""
[store]
url = "sqlite:///{self.state}"
[coalescer]
quiet_seconds = 0.2
[verifier]
first_seconds = 0.2
interval_seconds = 0.1
[admin]
listen = "127.0.0.1:{self.admin_port}"
[sources.www]
type = "filesystem"
path = "{path or self.tree}"
stable_seconds = 0.2
[targets.cdn]
type = "alibaba-cdn"
endpoint = "{self.emulator.api_url}"
{target}
[[sites]]
source = "www"
target = "cdn"
base_urls = ["{self.edge}/"]
{site}
{more}
"""
        )

    def put(self, text: str) -> Path:
        """Put the text in the configuration's place at once, so that nobody reads half of it."""
        draft = self.config.with_suffix(".new")
        draft.write_text(text)
        return draft.replace(self.config)

    def order(self, *faults: str) -> None:
        for fault in faults:
            self.emulator.faults.order(parse_fault(fault), self.emulator.clock.now())

    def paths(self) -> list[str]:
        """Return what the emulator accepted, in order."""
        return [record.path for record in self.emulator.account.tasks.all()]

    def command(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the real command in a process of its own, away from a terminal."""
        return subprocess.Popen(
            [sys.executable, "-m", "listener", *arguments],
            cwd=self.root,
            env={**os.environ, **KEYS, "LISTENER_CONFIG": str(self.config), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Run the real command to its end; return status, stdout and stderr."""
        process = self.command(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=DEADLINE_SECONDS * 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return process.returncode, out, err

    def ready(self) -> bool:
        return fetch(f"{self.admin}/readyz")[0] == 200

    def json(self, path: str) -> dict[str, Any]:
        return dict(json.loads(fetch(self.admin + path)[1]))

    @contextmanager
    def daemon(self, **environment: str) -> Any:
        """Run the daemon, ready, for as long as the block lasts."""
        process = self.command("run", **environment)
        try:
            until(lambda: self.ready() or process.poll() is not None, what="the daemon is ready")
            assert process.poll() is None, process.communicate()[1]
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.communicate(timeout=DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@contextmanager
def a_stand(root: Path, *, quota: str = "10000,100", task_seconds: float = 0.2) -> Any:
    """Set everything up; the emulator runs in a thread with a loop of its own."""
    (root / "www").mkdir(parents=True)
    opened: list[Emulator] = []
    started, failure = threading.Event(), []

    async def serve() -> None:
        settings = EmulatorSettings(
            origin=str(root / "www"),
            credentials=Credentials(KEY_ID, SECRET),
            api_port=0,
            edge_port=0,
            task_seconds=task_seconds,
            quota=parse_quota(quota),
        )
        async with Emulator(settings) as emulator:
            opened.append(emulator)
            started.set()
            await stop.wait()

    async def main() -> None:
        nonlocal stop, loop
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        try:
            await serve()
        except BaseException as error:
            failure.append(error)
            started.set()
            raise

    stop: asyncio.Event
    loop: asyncio.AbstractEventLoop
    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(DEADLINE_SECONDS)
    assert not failure, failure
    stand = Stand(root, opened[0], free_port())
    stand.configure()
    try:
        yield stand
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_SECONDS)
