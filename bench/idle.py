"""
What waiting costs: the daemon and a bare watchdog observer, each on the same three files, with nothing to do.

    python -m bench.idle [--seconds 300]

Both run at the same time. Counted over the span, for all threads of a process: voluntary context switches, which are
wake-ups; those that other processes enforced, which grow with the load of the machine; and the kernel's account of
processor time. At its end, resident memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.start import configured, environment, until_ready, used_seconds

SETTLE_SECONDS = 15.0
WATCHDOG = """
import sys, time
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer
observer = Observer()
observer.schedule(FileSystemEventHandler(), sys.argv[1], recursive=True)
observer.start()
time.sleep(1e6)
"""
LIBRARIES = """
import asyncio, sqlite3, sys
from aiohttp import ClientSession, web
from pydantic import BaseModel

class Settings(BaseModel):
    host: str = "127.0.0.1"

async def answer(request):
    return web.Response(text="ok")

async def main():
    database = sqlite3.connect(sys.argv[1], check_same_thread=False)
    for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE t(x)", "INSERT INTO t VALUES (1)", "COMMIT"):
        await asyncio.to_thread(database.execute, statement)
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, Settings.model_validate({}).host, 0).start()
    async with ClientSession() as session, session.get("http://%s:%d/" % runner.addresses[0]) as response:
        await response.read()
    await asyncio.sleep(1e6)

asyncio.run(main())
"""
"""The floor of memory: the libraries alone, each in use; a port, a client, a checked setting, a database, a thread."""


class Spent(NamedTuple):
    """What a process used so far."""

    wake_ups: int
    preemptions: int
    processor_seconds: float


def spent(pid: int) -> Spent:
    """Return what all threads of a process used so far."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    wake_ups, preemptions = (
        sum(int(line.split()[1]) for line in lines if line.startswith(kind)) for kind in ("voluntary", "nonvoluntary")
    )
    return Spent(wake_ups, preemptions, used_seconds(pid))


def resident_mebibytes(pid: int) -> float:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        emulator = configured(folder)
        for key in ("a", "b", "c"):
            (folder / "www" / f"{key}.html").write_text(key)
        until_ready(folder)  # byte code exists from here on: what compiling takes stays resident
        commands = {
            "cdn-listener run": ["-m", "listener", "run"],
            "limit: the libraries alone": ["-c", LIBRARIES, str(folder / "libraries.db")],
            "a bare watchdog observer": ["-c", WATCHDOG, str(folder / "www")],
        }
        running = {
            kind: subprocess.Popen(
                [sys.executable, *command], env=environment(folder), cwd=folder, stderr=subprocess.DEVNULL
            )
            for kind, command in commands.items()
        }
        try:
            time.sleep(SETTLE_SECONDS)
            before = {kind: spent(process.pid) for kind, process in running.items()}
            time.sleep(seconds)
            print(f"{seconds:.0f} s; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
            heads = ("wake-ups a second", "preemptions a second", "of a processor", "resident MiB")
            print(f"{'':26} {heads[0]:>18} {heads[1]:>21} {heads[2]:>15} {heads[3]:>13}")
            for kind, process in running.items():
                wake_ups, preemptions, used = (
                    now - then for now, then in zip(spent(process.pid), before[kind], strict=True)
                )
                memory = resident_mebibytes(process.pid)
                switches = f"{wake_ups / seconds:18.1f} {preemptions / seconds:21.1f}"
                print(f"{kind:26} {switches} {used / seconds:15.2%} {memory:13.0f}")
        finally:
            for process in (*running.values(), emulator):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
