"""
What waiting costs while much waits: 10,000 stale URLs without quota and 100 requests in flight; next to an idle daemon.

    python -m bench.idle_waiting [--seconds 300] [--waiting 10000] [--flying 100] [--paused]

Both daemons run at the same time, with an emulator each. One has a quota of so many URLs, whose tasks take an hour, and
the rest waits for the next day; with ``--paused`` it waits for a person instead. It should wake only for due times and
polls: of tasks, of the live quota every five minutes. Counted as in :mod:`bench.idle`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from bench.idle import resident_mebibytes, spent
from bench.start import configured, environment
from bench.steady import make_tree, path_of, wait_ready

SETTLE_SECONDS = 60.0
SETTINGS = """
[planner]
reserve = 0.0
"""


def start(folder: Path, quota: int, files: int) -> list[subprocess.Popen[str]]:
    """Start an emulator, write so many files, and start a daemon in a folder; return both, the daemon last."""
    emulator = configured(folder, "--quota", f"{quota},0", "--task-seconds", "3600", more=SETTINGS)
    make_tree(folder / "www", files)
    daemon = subprocess.Popen(
        [sys.executable, "-m", "listener", "run"],
        env=environment(folder),
        cwd=folder,
        stderr=(folder / "log").open("w"),
        text=True,
    )
    return [emulator, daemon]


def url_of(folder: Path, number: int) -> str:
    """Return the URL of a file of the tree."""
    (base,) = tomllib.loads((folder / "listener.toml").read_text())["sites"][0]["base_urls"]
    return f"{base}{path_of(folder / 'www', number).relative_to(folder / 'www')}"


def command(folder: Path, *words: str) -> str:
    """Run a command of ours and return what it prints."""
    return subprocess.run(
        [sys.executable, "-m", "listener", *words],
        env=environment(folder),
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--flying", type=int, default=100)
    parser.add_argument("--paused", action="store_true")
    options = parser.parse_args()
    files = options.waiting + options.flying
    running: dict[str, list[subprocess.Popen[str]]] = {}
    with tempfile.TemporaryDirectory(prefix="waiting-") as name:
        try:
            for kind in ("much waits", "nothing waits"):
                folder = Path(name) / kind.split()[0]
                folder.mkdir()
                running[kind] = start(folder, options.flying, files)
            folder = Path(name) / "much"
            for kind in running:
                wait_ready(Path(name) / kind.split()[0])
            time.sleep(5)
            # Requested, since changes alone spend a small quota only bit by bit.
            command(folder, "refresh", *(url_of(folder, number) for number in range(options.flying)))
            time.sleep(10)
            if options.paused:
                command(folder, "pause", "--reason", "bench")
            for number in range(options.flying, files):
                path_of(folder / "www", number).write_text("later")
            time.sleep(SETTLE_SECONDS)
            counts = json.loads(command(folder, "status", "--json"))
            print({name: counts[name] for name in ("pending", "deferred", "in_flight")}, flush=True)
            before = {kind: spent(daemon.pid) for kind, (_, daemon) in running.items()}
            time.sleep(options.seconds)
            print(f"{options.seconds:.0f} s; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
            print(f"{'':26} {'wake-ups a second':>18} {'of a processor':>15} {'resident MiB':>13}")
            for kind, (_, daemon) in running.items():
                wake_ups, _, used = (now - then for now, then in zip(spent(daemon.pid), before[kind], strict=True))
                print(
                    f"{kind:26} {wake_ups / options.seconds:18.1f} {used / options.seconds:15.3%}"
                    f" {resident_mebibytes(daemon.pid):13.0f}"
                )
        finally:
            for processes in running.values():
                for process in reversed(processes):
                    process.terminate()
                    process.wait()


if __name__ == "__main__":
    main()
