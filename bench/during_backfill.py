"""
Live changes next to a backfill on one state file: how soon each is fresh at the edge, and what the backfill took.

The real daemon and the real command against the emulator in this process, at the vendor's usual limits (10,000 files
a day, 1,000 URLs a domain and minute). Alone first, then next to backfills with several shares, on a day of its own.

    python -m bench.during_backfill --files 100000
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

from tests.stand import Stand, a_stand, fetch

CHANGES = 12
EVERY_SECONDS = 4.0
GIVE_UP_SECONDS = 120.0


def fresh_after(stand: Stand, key: str, text: str) -> float:
    """Change a file that the edge holds; return how long the edge served the old copy, in seconds."""
    url = stand.url(key)
    fetch(url)
    stand.write(key, text)
    began = time.monotonic()
    while fetch(url)[1] != text:
        if time.monotonic() - began > GIVE_UP_SECONDS:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - began


def latencies(stand: Stand, what: str) -> list[float]:
    """Return the seconds of several changes, one after another."""
    found = []
    for number in range(CHANGES):
        began = time.monotonic()
        found.append(fresh_after(stand, f"live/{number}.html", f"{what} {number}"))
        time.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - began)))
    return found


def spent(stand: Stand) -> tuple[int, int]:
    """Return the files that were paid for today, and how many of these a backfill asked for."""
    connection = sqlite3.connect(stand.state)
    try:
        row = connection.execute("SELECT count(*), coalesce(sum(priority > 0), 0) FROM attempt WHERE state <> 'held'")
        files, backfill = row.fetchone()
        return int(files), int(backfill)
    finally:
        connection.close()


def measure(files: int, share: float | None) -> None:
    """Measure once, and print a row of the table."""
    with tempfile.TemporaryDirectory() as folder, a_stand(Path(folder) / "stand", quota="10000,100") as stand:
        for number in range(files):
            stand.write(f"{number % 1000}/{number}.html")
        for number in range(CHANGES):
            stand.write(f"live/{number}.html", "before")
        with stand.daemon():
            backfill: subprocess.Popen[str] | None = None
            if share is not None:
                backfill = stand.command("backfill", "--yes", "--quota-share", str(share))
                while not spent(stand)[1] and backfill.poll() is None:
                    time.sleep(0.1)
            found = sorted(latencies(stand, str(share)))
            paid, of_backfill = spent(stand)
            if backfill is not None:
                if backfill.poll() is None:
                    backfill.terminate()
                backfill.communicate()
    print(
        f"{'alone' if share is None else share!s:>8} {statistics.median(found):10.2f} {found[-1]:10.2f}"
        f" {paid:8} {of_backfill:8}",
        flush=True,
    )


def main() -> None:
    """Measure alone, and next to each share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.3, 0.5, 1.0])
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; {options.files} files")
    print(f"{'share':>8} {'median s':>10} {'longest s':>10} {'paid':>8} {'backfill':>8}", flush=True)
    for share in [None, *options.shares]:
        measure(options.files, share)


if __name__ == "__main__":
    main()
