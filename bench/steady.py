"""
A steady stream of changes for minutes: what a change costs the daemon in the first minute, and in the last.

    python -m bench.steady [--minutes 10] [--changes 200] [--files 100000] [--quota 10000,100]

So many files a second, chosen at random from the whole tree, are rewritten by another process. The daemon sends to the
emulator in a third one, whose quota is used up on the way unless ``--quota`` is ample. Counted for each minute: the
kernel's account of the daemon's processor time, divided by the changes; its memory and state file at the end. A bare
watchdog observer counts the events of the same tree in the same run.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.idle import WATCHDOG, resident_mebibytes
from bench.start import configured, environment, used_seconds

PER_DIRECTORY = 100
READY_SECONDS = 600.0
SETTLE_SECONDS = 10.0
MINUTE_SECONDS = 60.0
WARM_UP_SECONDS = 15.0
"""Of changes that are not counted: first imports, first statements, first pages of the file."""


def path_of(root: Path, number: int) -> Path:
    """Return the path of a file of the tree."""
    folder = number // PER_DIRECTORY
    return root / f"{folder // 100}" / f"{folder % 100}" / f"{number}.html"


def make_tree(root: Path, files: int) -> None:
    """Write the tree."""
    for number in range(files):
        path = path_of(root, number)
        if number % PER_DIRECTORY == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def change(root: Path, files: int, per_second: int) -> None:
    """Rewrite so many files a second, for ever."""
    chance, began, done = random.Random(7), time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * per_second)
        for _ in range(due - done):
            path_of(root, chance.randrange(files)).write_text(str(done))
            done += 1
        time.sleep(0.02)


def wait_ready(folder: Path) -> None:
    """Wait until the first scan is over."""
    listen = next(line for line in (folder / "listener.toml").read_text().splitlines() if line.startswith("listen"))
    url, deadline = f"http://{listen.split(chr(34))[1]}/readyz", time.monotonic() + READY_SECONDS
    while True:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if time.monotonic() > deadline:
            sys.exit("the daemon did not become ready")
        time.sleep(0.5)


class Minute(NamedTuple):
    """What one minute came to."""

    changes: int
    ours_milliseconds: float
    """Of a processor, for each change."""
    peer_milliseconds: float
    resident_mebibytes: float
    state_mebibytes: float


def measure(ours: int, peer: int, state: Path, per_second: int) -> Minute:
    """Count for a minute."""
    began, before = time.monotonic(), (used_seconds(ours), used_seconds(peer))
    time.sleep(MINUTE_SECONDS)
    changes = round(per_second * (time.monotonic() - began))
    mine, its = (1000 * (used_seconds(pid) - used) / changes for pid, used in zip((ours, peer), before, strict=True))
    size = sum(path.stat().st_size for path in state.parent.glob(f"{state.name}*")) / 2**20
    return Minute(changes, mine, its, resident_mebibytes(ours), size)


def run(folder: Path, options: argparse.Namespace) -> None:
    """Run all processes and print a line for each minute."""
    root = folder / "www"
    running = [configured(folder, "--quota", options.quota)]
    make_tree(root, options.files)

    def start(*command: str) -> int:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment(folder), cwd=folder, stderr=subprocess.DEVNULL
        )
        running.append(process)
        return process.pid

    try:
        ours, peer = start("-m", "listener", "run"), start("-c", WATCHDOG, str(root))
        wait_ready(folder)
        time.sleep(SETTLE_SECONDS)
        start("-m", "bench.steady", "--write", str(root), f"--files={options.files}", f"--changes={options.changes}")
        time.sleep(WARM_UP_SECONDS)
        print(
            f"{'minute':>6} {'changes':>8} {'ms a change':>12} {'watchdog':>9} {'ratio':>6}"
            f" {'MiB':>6} {'state MiB':>10}",
            flush=True,
        )
        minutes = []
        for number in range(1, options.minutes + 1):
            minutes.append(found := measure(ours, peer, folder / "state.db", options.changes))
            print(
                f"{number:6} {found.changes:8} {found.ours_milliseconds:12.3f} {found.peer_milliseconds:9.3f}"
                f" {found.ours_milliseconds / found.peer_milliseconds:6.1f} {found.resident_mebibytes:6.0f}"
                f" {found.state_mebibytes:10.1f}",
                flush=True,
            )
        growth = minutes[-1].ours_milliseconds / minutes[0].ours_milliseconds
        print(
            f"last minute to first: {growth:.2f}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
        )
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


def main() -> None:
    """Run as the bench, or as the process that writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--changes", type=int, default=200, help="a second")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--quota", default="10000,100", help="of the emulator, files and directories a day")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        change(options.write, options.files, options.changes)
        return
    with tempfile.TemporaryDirectory(prefix="steady-") as name:
        run(Path(name), options)


if __name__ == "__main__":
    main()
