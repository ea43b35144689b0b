"""The example plugin is installed as a third party's package, and works from the outside."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import pytest
from aiohttp import web

from tests import ROOT
from tests.stand import fetch, free_port, until


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with the example's wheel, built and installed without a network."""
    folder = tmp_path_factory.mktemp("third-party")
    quiet = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT / "examples/plugin")]
    subprocess.run(build, check=True, timeout=50)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=50)
    python = folder / "venv/bin/python"
    # Of cdn-listener, of what it needs and of pytest nothing has to be installed again.
    packages = next((folder / "venv/lib").glob("*/site-packages"))
    known = [f"import site; site.addsitedir({entry!r})\n" for entry in sys.path if entry.endswith("-packages")]
    packages.joinpath("known.pth").write_text("".join(known))
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", *quiet, str(wheel)], check=True, timeout=50)
    return python


def environment() -> dict[str, str]:
    """Return the environment of a process that finds no configuration of this machine."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LISTENER_", "PYTEST_"))}


class Caching:
    """A cache in a thread: it keeps what the origin, a folder, answered, until it is purged."""

    def __init__(self, origin: Path, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.purges: list[str] = []
        self.keys: set[str] = set()
        self._origin, self._port = origin, port
        self._kept: dict[str, str] = {}
        self._stop = lambda: None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(10)

    async def _serve(self) -> None:
        runner = web.ServerRunner(web.Server(self._answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        self._started.set()
        await stopping.wait()
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        self.keys.add(request.headers.get("Authorization", ""))
        if request.method == "PURGE":
            self.purges.append(path)
            self._kept.pop(path, None)
        elif path not in self._kept:
            file = self._origin / unquote(path.lstrip("/"))
            if not file.is_file():
                return web.Response(status=404)
            self._kept[path] = file.read_text()
        return web.Response(text=self._kept.get(path, ""))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Caching]:
    """A cache in front of a folder."""
    (tmp_path / "www").mkdir()
    with Caching(tmp_path / "www", free_port()) as made:
        yield made


def configure(folder: Path, cache: str) -> Path:
    """Write a configuration with the source and the target of the example."""
    (folder / "changes.log").touch()
    path = folder / "listener.toml"
    path.write_text(
        f"""
[store]
url = "sqlite:///{folder}/state.db"
[coalescer]
quiet_seconds = 0.1
[admin]
listen = "127.0.0.1:{free_port()}"
[sources.log]
type = "json-log"
path = "{folder}/changes.log"
poll_seconds = 0.05
[targets.cache]
type = "http-cache"
caches = ["{cache}"]
[[sites]]
source = "log"
target = "cache"
base_urls = ["{cache}/"]
"""
    )
    return path


@contextmanager
def daemon(config: Path, installed: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon, and stop it in order."""
    process = subprocess.Popen([installed, "-m", "listener", "run", "--config", config], env=environment())
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0


def append(folder: Path, **entry: object) -> None:
    """Let the publishing system report a change."""
    with (folder / "changes.log").open("a") as log:
        log.write(json.dumps(entry) + "\n")


def run(installed: Path, *command: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    chosen = environment() | more
    return subprocess.run(
        [str(part) for part in (installed, "-m", *command)],
        check=False,
        env=chosen,
        capture_output=True,
        text=True,
        timeout=110,
    )


def status(config: Path, installed: Path) -> str:
    """Return what the status command prints."""
    return run(installed, "listener", "status", "--config", config).stdout


def test_the_installed_example_passes_the_conformance_suites(installed: Path) -> None:
    """As its README says, with nothing but pytest: no plugin, no configuration of this project."""
    options = ["-q", "-p", "no:cacheprovider", ROOT / "examples/plugin/tests"]
    found = run(installed, "pytest", *options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout and "skipped" not in found.stdout


def test_the_installed_example_is_found_and_checked(installed: Path, tmp_path: Path, cache: Caching) -> None:
    """By its entry points: a good configuration passes, a misspelt key is named."""
    config = configure(tmp_path, cache.address)
    good = run(installed, "listener", "check", "--config", config)
    assert good.returncode == 0, good.stdout + good.stderr
    assert f"{cache.address} answers" in " ".join(good.stdout.split())
    config.write_text(config.read_text().replace("caches =", "cahces ="))
    wrong = run(installed, "listener", "check", "--config", config)
    assert wrong.returncode == 2
    assert "targets.cache.cahces" in wrong.stdout + wrong.stderr


def test_init_prompts_for_what_the_example_declares(installed: Path, tmp_path: Path, cache: Caching) -> None:
    """The token goes into a file that the configuration reads, also where systemd loads it."""
    config, token = tmp_path / "listener.toml", "purge-secret"
    given = ["--source", tmp_path / "www", "--base-url", cache.address, "--cdn", "http-cache", "--yes"]
    made = run(
        installed, "listener", "init", "--config", config, "--endpoint", cache.address, *given,
        LISTENER_TARGETS__CDN__TOKEN=token,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert token not in config.read_text()
    assert (tmp_path / "credentials/targets.cdn.token").read_text() == f"{token}\n"
    cache.keys.clear()
    good = run(installed, "listener", "check", "--config", config)
    assert good.returncode == 0, good.stdout + good.stderr
    assert cache.keys == {f"Bearer {token}"}


def test_a_change_in_the_log_makes_the_cache_fresh(installed: Path, tmp_path: Path, cache: Caching) -> None:
    """From the log to the cache by the real daemon: each URL is purged once, and then nothing is stale."""
    config = configure(tmp_path, cache.address)
    page = tmp_path / "www/a b.html"
    page.write_text("old")
    url = f"{cache.address}/a%20b.html"
    assert fetch(url) == (200, "old")
    page.write_text("new")
    assert fetch(url) == (200, "old")
    with daemon(config, installed):
        append(tmp_path, key="a b.html")
        until(lambda: fetch(url) == (200, "new"), what="the cache is fresh")
        page.unlink()
        append(tmp_path, key="a b.html", deleted=True)
        until(lambda: fetch(url)[0] == 404, what="the cache has dropped what was deleted")
        until(lambda: "Everything is fresh" in status(config, installed), what="nothing is stale")
    assert cache.purges == ["/a%20b.html"] * 2


def test_changes_while_the_daemon_is_stopped_are_not_lost(installed: Path, tmp_path: Path, cache: Caching) -> None:
    """The position in the log is kept with the acknowledgement, so that nothing is read twice either."""
    config = configure(tmp_path, cache.address)
    append(tmp_path, key="one.html")
    with daemon(config, installed):
        until(lambda: "/one.html" in cache.purges)
    append(tmp_path, key="two.html")
    with daemon(config, installed):
        until(lambda: "/two.html" in cache.purges)
    assert cache.purges == ["/one.html", "/two.html"]


def test_a_change_waits_while_the_cache_is_stopped(installed: Path, tmp_path: Path) -> None:
    """The status says what is wrong, and the URL is purged when the cache is back."""
    port = free_port()
    config = configure(tmp_path, f"http://127.0.0.1:{port}")
    with daemon(config, installed):
        append(tmp_path, key="late.html")
        until(lambda: "cannot connect to" in status(config, installed), what="the status names the cache")
        with Caching(tmp_path, port) as cache:
            until(lambda: cache.purges == ["/late.html"])
