"""
What a first scan and a rescan cost: the whole daemon, `find -printf` and `rsync --dry-run` on the same tree.

    python -m bench.scan [--files 300000] [--runs 1] [--where /dev/shm] [--memory-seconds 60]

Small files, 100 in a directory. Processor seconds (user and system) are the kernel's account of the process: of the
daemon from exec to the ``READY=1`` that systemd waits for, when all that was found is durable; of ``find`` and
``rsync`` to their end. The daemon's are printed once more without those of a start on an empty tree. Memory is resident
memory, its peak at readiness, and what is left some time later.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bench.start import configured, ready_daemon, used_seconds

FILES_IN_DIRECTORY = 100
DIRECTORIES_TOGETHER = 50
READY_SECONDS = 1_800.0
KIBIBYTES = {"VmHWM": "peak", "VmRSS": "resident", "RssAnon": "of it private"}


class Cost(NamedTuple):
    """What one process used."""

    processor_seconds: float
    wall_seconds: float
    memory: str = ""


def write_files(root: Path, directories: int, *, text: bytes) -> None:
    """Write small files, evenly, making directories as they are needed."""
    for number in range(directories):
        path = f"{root}/d{number // DIRECTORIES_TOGETHER}/s{number}"
        os.makedirs(path, exist_ok=True)
        for each in range(FILES_IN_DIRECTORY):
            handle = os.open(f"{path}/f{each}.html", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.write(handle, text)
            os.close(handle)


def listing_cost(command: list[str]) -> Cost:
    """Run a command to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def memory_of(pid: int) -> dict[str, int]:
    """Return the figures of :data:`KIBIBYTES` of a process, in MiB."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(value.split()[0]) // 1024 for name, _, value in lines if name in KIBIBYTES}


def daemon_cost(folder: Path, *, memory_seconds: float) -> Cost:
    """Run the daemon until it is ready and its memory was read twice."""
    with ready_daemon(folder, most_seconds=READY_SECONDS) as (pid, wall_seconds):
        used, at_once = used_seconds(pid), memory_of(pid)
        time.sleep(memory_seconds)
        later = memory_of(pid)
    text = f"peak {at_once['VmHWM']} MiB, after {memory_seconds:.0f} s {later['VmRSS']} MiB"
    return Cost(used, wall_seconds, f"{text} ({later['RssAnon']} private, peak {later['VmHWM']})")


def needs_in(folder: Path) -> int:
    """Return how many needs the state file holds, of whatever state."""
    with closing(sqlite3.connect(f"file:{folder}/state.db?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM need").fetchone()[0])


def state_mebibytes(folder: Path) -> int:
    """Return the size of the state file and its log."""
    return sum(file.stat().st_size for file in folder.glob("state.db*")) >> 20


def measure(files: int, *, where: str, runs: int, memory_seconds: float) -> None:
    """Print a line for each process."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=where) as tree:
        folder, root = Path(name), Path(tree) / "www"
        root.mkdir()
        emulator = configured(folder)
        configuration = folder / "listener.toml"
        configuration.write_text(configuration.read_text().replace(f'"{folder}/www"', f'"{root}"'))
        try:
            daemon_cost(folder, memory_seconds=0)  # byte code and files are in memory from here on
            start = min(daemon_cost(folder, memory_seconds=0).processor_seconds for _ in range(3))
            print(f"a start on an empty tree: cpu {start:.2f} s")
            write_files(root, files // FILES_IN_DIRECTORY, text=b"x" * 200)
            for _ in range(runs):
                measure_once(folder, root, files, start_seconds=start, memory_seconds=memory_seconds)
        finally:
            emulator.terminate()
            emulator.wait()


def measure_once(folder: Path, root: Path, files: int, *, start_seconds: float, memory_seconds: float) -> None:
    """Print a line for each process, once."""

    def print_cost(what: str, cost: Cost, *, without_seconds: float = 0.0) -> None:
        each = cost.processor_seconds / files * 1e6
        own = f" ({(cost.processor_seconds - without_seconds) / files * 1e6:5.2f} without the start)"
        print(
            f"{what:24} {each:6.2f} µs a file{own if without_seconds else '':28}"
            f" cpu {cost.processor_seconds:6.2f} s  wall {cost.wall_seconds:6.2f} s  {cost.memory}",
            flush=True,
        )

    listings = [
        ["find", str(root), "-type", "f", "-printf", "%p %s %T@ %C@ %i\\n"],
        ["rsync", "-a", "--dry-run", f"{root}/", f"{root}/"],
    ]
    print(f"{files} files; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for command in listings:
        if shutil.which(command[0]):
            print_cost(command[0], listing_cost(command))
    for file in folder.glob("state.db*"):
        file.unlink()
    for what in ("first scan", "rescan"):
        print_cost(what, daemon_cost(folder, memory_seconds=memory_seconds), without_seconds=start_seconds)
    write_files(root, files // FILES_IN_DIRECTORY // 10, text=b"y" * 200)
    print_cost("rescan, a tenth changed", daemon_cost(folder, memory_seconds=0), without_seconds=start_seconds)
    print(f"needs of changed files, before the daemon ended: {needs_in(folder)}; state {state_mebibytes(folder)} MiB")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--where", default="/dev/shm")
    parser.add_argument("--memory-seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    measure(arguments.files, where=arguments.where, runs=arguments.runs, memory_seconds=arguments.memory_seconds)


if __name__ == "__main__":
    main()
