"""
What file watchers capture of a burst, and what it costs them: ours, stock watchdog, watchfiles, inotifywait.

    python -m bench.watch [--files 50000] [--directories 500] [--runs 1] [--where /dev/shm]
    python -m bench.watch --start 100000            # time until so many directories are listened to
    python -m bench.watch --scan 1000000            # first scan and rescan by the daemon, memory: see bench/scan.py

Each watcher runs in a process of its own and is measured from readiness to the end by the
kernel's account of that process (user and system time). Bursts: files written into directories
that exist, into directories made while it goes, and by a real ``rsync -a``. ``captured`` counts
the distinct final names that were reported. Watchers that are not installed are named and left
out; ``pip install --group bench`` installs watchfiles, ``--watchfiles-python`` names another interpreter that has it.
``ours, fanotify`` needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
QUIET_SECONDS = 4
EVENTS = "close_write,create,moved_to,moved_from,delete,modify"


# --- the watchers, each in a process of its own -------------------------------------------------


def at_end(root: str, count: Callable[[], str]) -> None:
    """Write the count down when the bench requests it: counting must not be measured."""

    def write(*_: object) -> None:
        Path(f"{root}.count").write_text(count())
        os._exit(0)

    signal.signal(signal.SIGUSR1, write)


def watch_ours(root: str, backend: str = "inotify") -> None:
    """Run the whole source: emitter, looks, changes with fingerprints, deliveries; the index is a dictionary."""
    from listener.cli.common import importing  # noqa: PLC0415

    with importing():  # as the daemon does
        from listener.change import ChangeKind  # noqa: PLC0415
        from listener.sources.filesystem import FilesystemSettings, FilesystemSource  # noqa: PLC0415
        from listener.testing import MemoryIndex  # noqa: PLC0415

    began = time.monotonic()

    async def run() -> None:
        source = FilesystemSource("www", FilesystemSettings(path=Path(root), backend=backend))
        index, seen = MemoryIndex(), set()
        at_end(root, lambda: f"{len(seen)} rescans {source.health.rescans}")
        asyncio.get_running_loop().call_later(0, ready_when, source)

        async for delivery in source.deliveries(index):
            if delivery.seed:
                index.apply(delivery)
            else:
                seen.update(change.key for change in delivery.changes if change.kind is ChangeKind.CONTENT)
            await delivery.ack()

    def ready_when(source: FilesystemSource) -> None:
        if source.health.ready:
            print(f"ready {time.monotonic() - began:.2f}", flush=True)
        else:
            asyncio.get_running_loop().call_later(0.002, ready_when, source)

    asyncio.run(run())


def watch_emitter(root: str) -> None:
    """Run our emitter behind watchdog's observer, and take names without looking at them."""
    from listener.sources.filesystem.names import Ignore  # noqa: PLC0415
    from listener.sources.filesystem.walker import Walker  # noqa: PLC0415
    from listener.sources.filesystem.watches import Watches  # noqa: PLC0415

    ignore, seen = Ignore(), set()
    path = os.fsencode(root) + b"/"

    def on_event() -> None:
        while watches.pending:
            batch = watches.take(1 << 30)
            if not any(batch):
                break
            for prefix, names in batch.names:
                text = os.fsdecode(prefix)
                for raw in names:
                    name = os.fsdecode(raw.rstrip(b"\0"))
                    if not ignore.file(text, name):
                        seen.add(text + name)

    at_end(root, lambda: str(len(seen)))
    watches = Watches(path, ignore, bound=1_000_000)
    watches.start(on_event)
    walker = Walker(path, ignore, enter=watches.enter)
    began = time.monotonic()
    while walker.step(5000):
        pass
    print(f"ready {time.monotonic() - began:.2f}", flush=True)
    signal.pause()


def watch_watchdog(root: str) -> None:
    """Run stock watchdog with the narrowest filter that misses nothing by design."""
    from watchdog.events import (  # noqa: PLC0415
        DirCreatedEvent,
        DirDeletedEvent,
        DirMovedEvent,
        FileClosedEvent,
        FileCreatedEvent,
        FileDeletedEvent,
        FileMovedEvent,
        FileSystemEvent,
        FileSystemEventHandler,
    )
    from watchdog.observers.inotify import InotifyObserver  # noqa: PLC0415

    seen: set[str] = set()

    class Handler(FileSystemEventHandler):
        def dispatch(self, event: FileSystemEvent) -> None:
            if not event.is_directory:
                seen.add(str(event.dest_path or event.src_path))

    kinds = [FileClosedEvent, FileCreatedEvent, FileMovedEvent, FileDeletedEvent]
    observer = InotifyObserver()
    observer.schedule(
        Handler(), root, recursive=True, event_filter=[*kinds, DirCreatedEvent, DirMovedEvent, DirDeletedEvent]
    )
    observer.start()
    at_end(root, lambda: str(sum(not os.path.basename(name).startswith(".") for name in seen)))
    print("ready", flush=True)
    while True:
        signal.pause()


def watch_watchfiles(root: str) -> None:
    """Run watchfiles as it comes."""
    from watchfiles import watch  # noqa: PLC0415

    seen: set[str] = set()
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    print("ready", flush=True)
    with suppress(KeyboardInterrupt):
        for changes in watch(root, watch_filter=None):
            seen.update(path for _, path in changes)
    names = [name for name in seen if not os.path.basename(name).startswith(".") and not os.path.isdir(name)]
    Path(f"{root}.count").write_text(str(len(names)))


WATCHERS: dict[str, Callable[[str], None]] = {
    "ours": watch_ours,
    "ours, fanotify": functools.partial(watch_ours, backend="fanotify"),
    "ours, emitter only": watch_emitter,
    "watchdog": watch_watchdog,
    "watchfiles": watch_watchfiles,
}


# --- measuring ----------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Return what a process has used so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Watcher:
    """One running watcher."""

    def __init__(self, name: str, root: Path, python: str) -> None:
        self.name, self.root = name, root
        self._out = None
        self.without_imports = ""
        began = time.monotonic()
        if name == "inotifywait":
            self._out = open(f"{root}.out", "wb")  # noqa: SIM115 - closed by stop
            self.process = subprocess.Popen(
                ["inotifywait", "-m", "-r", "-e", EVENTS, "--format", "%w%f", str(root)],
                stdout=self._out,
                stderr=subprocess.PIPE,
            )
            assert self.process.stderr is not None
            while b"established" not in self.process.stderr.readline():
                pass
        else:
            self.process = subprocess.Popen(
                [python, __file__, "--child", name, str(root)], stdout=subprocess.PIPE, start_new_session=True
            )
            assert self.process.stdout is not None
            while not (line := self.process.stdout.readline()).startswith(b"ready"):
                assert line, f"{name} ended"
            self.without_imports = line.decode().partition(" ")[2].strip()
        if name == "watchfiles":
            time.sleep(2)  # it says nothing when it listens
        self.start_seconds = time.monotonic() - began
        self._at_start = cpu_seconds(self.process.pid)

    @property
    def cpu(self) -> float:
        """CPU seconds since it was ready."""
        return cpu_seconds(self.process.pid) - self._at_start

    def wait_quiet(self) -> None:
        """Wait until it has used no CPU worth mentioning for a while: found files are held for a second or two."""
        used, since = self.cpu, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            time.sleep(0.25)
            if self.cpu > used + 0.03:
                used, since = self.cpu, time.monotonic()

    def captured(self) -> str:
        """Return how many distinct names it reported."""
        if self.name == "inotifywait":
            with open(f"{self.root}.out", "rb") as file:
                names = {line for line in file if b"/." not in line}
            return str(sum(not Path(os.fsdecode(name.rstrip())).is_dir() for name in names))
        self.process.send_signal(signal.SIGUSR1)
        self.process.wait()
        try:
            return Path(f"{self.root}.count").read_text()
        except FileNotFoundError:
            return "0"

    def stop(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self._out:
            self._out.close()


def write_files(root: Path, directories: int, files: int, *, text: bytes = b"x" * 200) -> None:
    """Write small files, evenly, making directories as they are needed."""
    for number in range(directories):
        path = f"{root}/d{number // 50}/s{number}"
        os.makedirs(path, exist_ok=True)
        for each in range(files // directories):
            handle = os.open(f"{path}/f{each}.html", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.write(handle, text)
            os.close(handle)


def burst(kind: str, root: Path, source: Path, directories: int, files: int) -> float:
    """Do one burst in another process; return how long it took."""
    began = time.monotonic()
    if kind == "rsync":
        subprocess.run(["rsync", "-a", f"{source}/", str(root)], check=True)
    else:
        subprocess.run([sys.executable, __file__, "--write", str(root), str(directories), str(files)], check=True)
    return time.monotonic() - began


def measure(kind: str, names: list[str], arguments: argparse.Namespace) -> None:
    """Run every watcher on one kind of burst and print a line each."""
    for run in range(arguments.runs):
        for name in names:
            with tempfile.TemporaryDirectory(dir=arguments.where) as parent:
                root, source = Path(parent) / "www", Path(parent) / "source"
                root.mkdir()
                if kind == "rsync":
                    write_files(source, arguments.directories, arguments.files)
                if kind == "existing":
                    for number in range(arguments.directories):
                        (root / f"d{number // 50}" / f"s{number}").mkdir(parents=True)
                python = arguments.watchfiles_python if name == "watchfiles" else sys.executable
                watcher = Watcher(name, root, python)
                try:
                    seconds = burst(kind, root, source, arguments.directories, arguments.files)
                    watcher.wait_quiet()
                    used, captured = watcher.cpu, watcher.captured()
                finally:
                    watcher.stop()
                print(
                    f"{kind:9} {run:3} {name:20} captured {captured:18} cpu {used:6.2f} s  burst {seconds:6.2f} s",
                    flush=True,
                )


def measure_start(directories: int, names: list[str], arguments: argparse.Namespace) -> None:
    """Print how long each watcher takes until it listens to so many directories."""
    with tempfile.TemporaryDirectory(dir=arguments.where) as parent:
        root = Path(parent) / "www"
        for number in range(directories // 100):
            for each in range(99):
                (root / str(number) / str(each)).mkdir(parents=True)
        for run in range(arguments.runs):
            for name in names:
                python = arguments.watchfiles_python if name == "watchfiles" else sys.executable
                watcher = Watcher(name, root, python)
                print(
                    f"start {run:3} {name:20} {watcher.start_seconds:6.2f} s  cpu {watcher._at_start:6.2f} s"
                    f"  without imports {watcher.without_imports or '-'}",
                    flush=True,
                )
                watcher.stop()


def installed(arguments: argparse.Namespace) -> list[str]:
    """Return the watchers that can run here, and name the others."""
    names = [name for name in WATCHERS if name != "ours, fanotify" or os.geteuid() == 0]
    probe = subprocess.run([arguments.watchfiles_python, "-c", "import watchfiles"], capture_output=True, check=False)
    if probe.returncode:
        names.remove("watchfiles")
        print("watchfiles is not installed: left out")
    if shutil.which("inotifywait"):
        names.append("inotifywait")
    else:
        print("inotifywait is not installed: left out")
    return [name for name in names if not arguments.only or name in arguments.only]


def main() -> None:
    """Run as a bench, a watcher or a writer."""
    if sys.argv[1:2] == ["--child"]:
        WATCHERS[sys.argv[2]](sys.argv[3])
        return
    if sys.argv[1:2] == ["--write"]:
        write_files(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a watcher is never left behind
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--directories", type=int, default=500)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--scan", type=int, default=0)
    parser.add_argument("--where", default="/dev/shm")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--watchfiles-python", default=sys.executable)
    arguments = parser.parse_args()
    if arguments.scan:
        from bench import scan  # noqa: PLC0415 - a child process is a script by itself

        scan.measure(arguments.scan, where=arguments.where, runs=arguments.runs, memory_seconds=60.0)
        return
    names = installed(arguments)
    if arguments.start:
        measure_start(arguments.start, names, arguments)
        return
    for kind in arguments.kind or ["existing", "new", *(["rsync"] if shutil.which("rsync") else [])]:
        measure(kind, names, arguments)


if __name__ == "__main__":
    main()
