"""
How soon a change is fresh: from the end of a write until the edge serves it, with a quiet time of 0.3 s.

    python -m bench.fresh [--changes 40] [--code DIRECTORY]

One file after another of a small tree is rewritten under a running daemon, and the emulator's edge is read until it
serves the new content; its tasks take no time. What is left above the quiet time is the way through the daemon: events,
the commit, the plan, reserving, the request. ``--code`` runs the daemon of another checkout, to compare.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from pathlib import Path

from bench.start import ROOT, configured, environment
from bench.steady import wait_ready

QUIET_SECONDS = 0.3
PAUSE_SECONDS = 1.5
"""Between two changes, so that each finds the daemon asleep."""
FILES = 10
MOST_SECONDS = 30.0
SETTINGS = f"""
[coalescer]
quiet_seconds = {QUIET_SECONDS}
"""


def read(url: str) -> str:
    """Return what the edge serves."""
    with urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())


def seconds_until_fresh(path: Path, url: str, text: str) -> float:
    """Rewrite a file, and wait until the edge serves the new content."""
    path.write_text(text)
    began = time.monotonic()
    while read(url) != text:
        if time.monotonic() > began + MOST_SECONDS:
            sys.exit(f"{url} is not fresh after {MOST_SECONDS:.0f} s")
        time.sleep(0.005)
    return time.monotonic() - began


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=40)
    parser.add_argument("--code", type=Path, default=ROOT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fresh-") as name:
        folder = Path(name)
        emulator = configured(folder, "--task-seconds", "0", more=SETTINGS)
        for number in range(FILES):
            (folder / "www" / f"{number}.html").write_text("first")
        daemon = subprocess.Popen(
            [sys.executable, "-m", "listener", "run"],
            env=environment(folder, PYTHONPATH=str(options.code)),
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_ready(folder)
            (base,) = tomllib.loads((folder / "listener.toml").read_text())["sites"][0]["base_urls"]
            found = []
            for number in range(options.changes + 1):
                time.sleep(PAUSE_SECONDS)
                file = f"{number % FILES}.html"
                read(base + file)
                found.append(seconds_until_fresh(folder / "www" / file, base + file, str(number)))
        finally:
            for process in (daemon, emulator):
                process.terminate()
                process.wait()
    found = sorted(found[1:])  # the first one opens connections
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"{options.changes} changes, quiet time {QUIET_SECONDS} s; {load}")
    tenths = found[len(found) * 9 // 10]
    print(f"median {statistics.median(found):.3f} s, least {found[0]:.3f} s, nine tenths within {tenths:.3f} s")


if __name__ == "__main__":
    main()
