"""
How long the start takes: commands, and the daemon from exec to ready, compared with imports that nobody can do without.

    python -m bench.start [--runs 10]

Each run is a process of its own with the smallest configuration, on an emulator in another process; ``run`` has an
empty state, and the commands that ask a daemon have one running.
Wall time is from exec to the end, for ``run`` to the ``READY=1`` that systemd waits for; processor time is the
kernel's account of the process until then. Limits of the same run: the bare interpreter, and ``import aiohttp,
pydantic``. Runs of all kinds take turns, so that a busy moment meets each.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.keys import KEYS

ROOT = Path(__file__).parents[1]
READY_SECONDS = 60.0
CONFIGURATION = """
[store]
url = "sqlite:///{folder}/state.db"
[admin]
listen = "127.0.0.1:{port}"
[sources.www]
type = "filesystem"
path = "{folder}/www"
[targets.cdn]
type = "alibaba-cdn"
endpoint = "{api}"
[[sites]]
source = "www"
target = "cdn"
base_urls = ["{edge}/"]
"""


class Cost(NamedTuple):
    """What one start took."""

    wall_seconds: float
    processor_seconds: float


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user; byte code is kept, as that of an installed package is."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    ours = {"LISTENER_CONFIG": str(folder / "listener.toml"), "PYTHONPATH": str(ROOT)}
    return {**kept, **KEYS, **ours, "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), **more}


def to_the_end(folder: Path, *arguments: str) -> Cost:
    """Run Python with these arguments to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, *arguments], env=environment(folder), cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def used_seconds(pid: int) -> float:
    """Return the processor time of a process so far, of all its threads: to the nanosecond."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


@contextmanager
def ready_daemon(folder: Path, *, most_seconds: float = READY_SECONDS) -> Iterator[tuple[int, float]]:
    """Run the daemon; yield its process id and how long it took until it reported to be ready, as to systemd."""
    place = folder / "notify"
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reported:
        reported.bind(str(place))
        reported.settimeout(most_seconds)
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "listener", "run"],
            env=environment(folder, NOTIFY_SOCKET=str(place)),
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"READY=1" not in reported.recv(4096):
                pass
            yield process.pid, time.monotonic() - began
        finally:
            process.terminate()
            process.wait(READY_SECONDS)


def until_ready(folder: Path) -> Cost:
    """Start the daemon on an empty state, and wait until it is ready."""
    for file in folder.glob("state.db*"):
        file.unlink()
    with ready_daemon(folder) as (pid, wall_seconds):
        return Cost(wall_seconds, used_seconds(pid))


def with_a_daemon(folder: Path) -> tuple[Path, subprocess.Popen[bytes]]:
    """Start a daemon with a state of its own; return its folder."""
    own = folder / "running"
    own.mkdir()
    text = (folder / "listener.toml").read_text().replace(f"{folder}/state.db", f"{own}/state.db")
    (own / "listener.toml").write_text(re.sub("listen = .*", 'listen = ""', text))
    command = [sys.executable, "-m", "listener", "run"]
    process = subprocess.Popen(command, env=environment(own), cwd=own, stderr=subprocess.DEVNULL)
    while not (own / "state.db.sock").exists():
        time.sleep(0.1)
    return own, process


def starts(folder: Path, running: Path) -> dict[str, Callable[[], Cost]]:
    """Return everything that is measured, by the name under which it is reported."""
    listener = ("-m", "listener")
    return {
        "limit: python -c pass": lambda: to_the_end(folder, "-c", "pass"),
        "limit: import aiohttp, pydantic": lambda: to_the_end(folder, "-c", "import aiohttp, pydantic"),
        "cdn-listener --version": lambda: to_the_end(folder, *listener, "--version"),
        "status --json, no daemon": lambda: to_the_end(folder, *listener, "status", "--json"),
        "status --json, through a daemon": lambda: to_the_end(running, *listener, "status", "--json"),
        "status, through a daemon": lambda: to_the_end(running, *listener, "status"),
        "hold, through a daemon": lambda: to_the_end(running, *listener, "hold", "--for", "1s"),
        "cdn-listener run, until ready": lambda: until_ready(folder),
    }


def configured(folder: Path, *emulate: str, more: str = "") -> subprocess.Popen[str]:
    """Start the emulator, with further options of it, and write the configuration that names it, with more tables."""
    (folder / "www").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "listener", "emulate", "--origin", str(folder / "www")]
    command += ["--api", "127.0.0.1:0", "--edge", "127.0.0.1:0", *emulate]
    process = subprocess.Popen(
        command, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    _, api, _, edge = (process.stdout or sys.stdin).readline().split()
    (folder / "listener.toml").write_text(CONFIGURATION.format(folder=folder, port=port, api=api, edge=edge) + more)
    return process


def main() -> None:
    """Measure all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        emulator = configured(folder)
        try:
            running, daemon = with_a_daemon(folder)
            kinds = starts(folder, running)
            for start in kinds.values():  # byte code and files are in memory from here on
                start()
            found: dict[str, list[Cost]] = {kind: [] for kind in kinds}
            for _ in range(runs):
                for kind, start in kinds.items():
                    found[kind].append(start())
        finally:
            for process in (daemon, emulator):
                process.terminate()
                process.wait()
    limit = statistics.median(cost.processor_seconds for cost in found["limit: import aiohttp, pydantic"])
    print(f"medians of {runs}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print(f"{'':32} {'wall s':>7} {'processor s':>12} {'of imports':>11}")
    for kind, costs in found.items():
        wall, used = (statistics.median(values) for values in zip(*costs, strict=True))
        print(f"{kind:32} {wall:7.3f} {used:12.3f} {used / limit:11.2f}")


if __name__ == "__main__":
    main()
