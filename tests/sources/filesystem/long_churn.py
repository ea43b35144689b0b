"""
The whole daemon against a tree that churns: what is refreshed is what differs, at no more than 1.1 units a changed URL.

    python -m tests.sources.filesystem.long_churn --minutes 120 [--backend inotify] [--seed 1]

Needs the right to make a mount namespace. In rounds: a burst of random operations (files, directories, hard and
symbolic links, exchanges, renames in and out, releases switched behind links of several hops outside of the root,
directories replaced on the way there, bind mounts and file systems mounted over directories and taken away), then
rest until everything that differs from before is refreshed. The daemon and the CDN are those of the product.
Prints a line a round and a summary; exit status 1 when a round leaves something stale, or at the end costs too much.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from listener.change import key_to_bytes
from tests.sources.filesystem.churning import Churn, exchange
from tests.stand import free_port

CLI = [sys.executable, "-m", "listener"]
BURST_SECONDS = 1.5
"""Shorter than the quiet time, so that every URL needs one refresh a round."""
QUIET_SECONDS, CAP_SECONDS, STRAGGLERS_SECONDS = 3.0, 8.0, 5.0
LONGEST_SECONDS = 75.0
"""Longer than comparisons back off after many deletions, which wait for one."""
MOST_UNITS = 1.1
MOST_UNITS_OF_FEW_ROUNDS, FEW_ROUNDS = 1.5, 20
"""Names that a mount brought and took away cost a unit and are in no difference: over many rounds they even out."""
_MOST_CALLS = 400
_MOST_LOG = 60_000
_CHANGING = {
    *("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink"),
    *("shutil.rmtree", "subprocess.Popen"),
}
"""Audit events."""
State = dict[str, tuple[int, int, bytes]]


def mounted_below(top: Path) -> list[str]:
    """Return the mount points below, in the order in which they came."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if point.startswith(f"{top}/")]


class Around(Churn):
    """Operations on what is around the tree, too."""

    def __init__(self, root: Path, outside: Path, seed: int) -> None:
        """Lay out releases, with links of several hops to them, next to ``outside``."""
        super().__init__(root, outside, seed)
        self.srv = outside.parent / "srv"
        self.done: list[str] = []
        """The operations around the tree, in order."""
        self.calls: deque[str] = deque(maxlen=_MOST_CALLS)
        """The last system calls that changed something, with their times."""
        sys.addaudithook(self._note_call)
        for release in "123":
            for name in ("a.html", "b.html", "sub/c.html"):
                self._put_release(release, name)
        (self.srv / "way").mkdir()
        (self.srv / "way" / "current").symlink_to("../1")
        (self.srv / "hop").symlink_to("way/current")
        (root / "app").symlink_to(self.srv / "hop")
        (root / "page.html").symlink_to(self.srv / "hop" / "a.html")

    def directories(self) -> list[Path]:
        """Return all directories, sorted: a seed means the same operations on every file system."""
        return sorted(super().directories())

    def file(self) -> Path | None:
        """Return any file, of a sorted list."""
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        return self.random.choice(found) if found else None

    def _put_release(self, release: str, name: str) -> None:
        path = self.srv / release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.put(path)

    def _note_call(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _CHANGING or (event == "open" and arguments[1] == "w"):
            self.calls.append(f"{time.time() % 1000:.3f} {event} {arguments[: 1 + (event != 'open')]}")

    def do_exchange(self) -> None:
        """Note it: a call through ctypes is not audited."""
        found = [path for path in sorted(self.root.rglob("*")) if path.is_dir() or self.random.random() < 0.2]
        if len(found) > 1:
            pair = self.random.sample(found, 2)
            exchange(*pair)
            self._note_call("os.rename", ("exchanged", *map(str, pair)))

    def step(self) -> None:
        """Do one operation, in one of seven cases around the tree."""
        if self.random.random() < 6 / 7:
            super().step()
            return
        name = self.random.choice(["switch", "way", "release", "linked", "hard", "mount", "mount", "unmount"])
        self.done.append(name)
        try:
            getattr(self, f"do_{name}")()
        except (OSError, subprocess.CalledProcessError):
            self.done[-1] += " failed"

    def do_switch(self) -> None:
        new = self.srv / "way" / "next"
        new.symlink_to(f"../{self.random.choice('123')}")
        new.rename(self.srv / "way" / "current")

    def do_way(self) -> None:
        new = self.srv / "new"
        new.mkdir()
        (new / "current").symlink_to(f"../{self.random.choice('123')}")
        (self.srv / "way").rename(self.srv / "old")
        new.rename(self.srv / "way")
        shutil.rmtree(self.srv / "old")

    def do_release(self) -> None:
        self._put_release(self.random.choice("123"), self.random.choice(["a.html", "sub/c.html", "new.html"]))

    def do_linked(self) -> None:
        target = self.random.choice([self.srv / "hop", self.srv / "2", self.srv / "3" / "sub" / "c.html"])
        self.fresh(self.random.choice(self.directories())).symlink_to(target)

    def do_hard(self) -> None:
        name = self.srv / f"hard{self.random.randrange(3)}"
        if name.exists():
            self.put(name)
            self.shared.clear()
        else:
            self.put(name)
            os.link(name, self.fresh(self.random.choice(self.directories())))

    def do_mount(self) -> None:
        found = [path for path in self.directories()[1:] if not path.is_mount()]
        if not found or len(mounted_below(self.root)) > 3:
            return
        path = self.random.choice(found)
        release = str(self.srv / self.random.choice("123"))
        kind = self.random.choice([["--bind", release], ["-t", "tmpfs", "none"]])
        subprocess.run(["mount", *kind, str(path)], check=True, stderr=subprocess.DEVNULL)
        self.put(path / "mounted.html")

    def do_unmount(self) -> None:
        if found := mounted_below(self.root):
            subprocess.run(["umount", self.random.choice(found)], check=True, stderr=subprocess.DEVNULL)


def place_of(path: Path) -> tuple[int, int]:
    """Return device and inode: a link to a directory that is mounted above it is a loop, too."""
    status = path.stat()
    return status.st_dev, status.st_ino


def state(root: Path) -> State:
    """Return every file that a server would serve: inode, time and bytes; by a plain walk that cuts loops."""
    found: State = {}
    stack = [(os.fsencode(root), frozenset({place_of(root)}))]
    while stack:
        directory, above = stack.pop()
        for entry in os.scandir(directory):
            if Path(os.fsdecode(entry.path)).is_dir():
                place = place_of(Path(os.fsdecode(entry.path)))
                if not entry.is_symlink() or place not in above:
                    stack.append((entry.path, above | {place}))
            elif Path(os.fsdecode(entry.path)).is_file():
                status = entry.stat()
                key = os.path.relpath(entry.path, os.fsencode(root)).decode("utf-8", "surrogateescape")
                found[key] = (status.st_ino, status.st_mtime_ns, Path(os.fsdecode(entry.path)).read_bytes())
    return found


class Stand:
    """The daemon, and the CDN that it refreshes."""

    def __init__(self, base: Path, root: Path, backend: str) -> None:
        """Write the configuration and start both."""
        self.journal = base / "journal"
        self.journal.touch()
        api, edge, self.admin = (free_port() for _ in range(3))
        self.environment = {
            **os.environ, "ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret"
        }  # fmt: skip
        self.config = base / "listener.toml"
        self.config.write_text(
            f"""
[sources.www]
type = "filesystem"
path = "{root}"
backend = "{backend}"
poll_interval_seconds = 2
rescan_interval_seconds = 0
root_check_seconds = 1
max_delete_share = 1.0
[targets.cdn]
type = "alibaba-cdn"
endpoint = "http://127.0.0.1:{api}"
quota = {{ file = 9000000, directory = 90000 }}
[[sites]]
source = "www"
target = "cdn"
base_urls = ["http://127.0.0.1:{edge}/"]
min_interval_seconds = 0.0
[store]
url = "sqlite:///{base}/state.db"
[coalescer]
quiet_seconds = {QUIET_SECONDS}
cap_seconds = {CAP_SECONDS}
[admin]
listen = "127.0.0.1:{self.admin}"
"""
        )
        emulate = [
            "emulate", "--origin", str(root), "--api", f"127.0.0.1:{api}", "--edge", f"127.0.0.1:{edge}",
            "--task-seconds", "0.1", "--journal", str(self.journal), "--quota", "9000000,90000",
            "--urls-per-domain-minute", "1000000",
        ]  # fmt: skip
        self.log = (base / "log").open("w")
        self.processes = [self._start(emulate), self._start(["run", "--config", str(self.config)])]
        end = time.monotonic() + 60
        while "cdn-listener.ready" not in (base / "log").read_text() and time.monotonic() < end:
            time.sleep(0.2)
            if self._is_ready():
                break

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*CLI, *arguments], env=self.environment, stdout=self.log, stderr=self.log)

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.admin), 1) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    def sent(self, offset: int) -> Iterator[tuple[str, str]]:
        """Yield kind and key of each refreshed unit since this place in the journal."""
        with self.journal.open() as file:
            file.seek(offset)
            for line in file:
                record = json.loads(line)
                for url in record["paths"] if record["action"] == "RefreshObjectCaches" else ():
                    yield record["kind"], unquote(urlsplit(url).path, errors="surrogateescape")[1:]

    def status(self) -> str:
        """Return what the daemon says of itself."""
        done = subprocess.run(
            [*CLI, "status", "--json", "--config", str(self.config)],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        reported = json.loads(done.stdout)
        return json.dumps({name: reported[name] for name in ("pending", "deferred", "in_flight", "failed", "sources")})

    def stop(self) -> None:
        """End both."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(30)
        self.log.close()


def explained(root: Path, key: str) -> str:
    """Return what stands at each step of the way to a key."""
    path, found = root, []
    for part in Path(key).parts:
        path /= part
        kind = f"-> {path.readlink()}" if path.is_symlink() else "mount" if path.is_mount() else "there" * path.exists()
        found.append(f"{part} ({kind or 'gone'})")
    return " / ".join(found)


def uncovered(before: State, after: State, sent: list[tuple[str, str]]) -> set[str]:
    """Return the keys with other bytes than before that no refresh covers."""
    files = {key for kind, key in sent if kind != "directory"}
    directories = tuple(key for kind, key in sent if kind == "directory")
    nothing = (0, 0, b"")
    changed = {key for key in before.keys() | after.keys() if before.get(key, nothing)[2] != after.get(key, nothing)[2]}
    return {key for key in changed if key not in files and not key.startswith(directories)}


def round_of(stand: Stand, churn: Around, seconds: float) -> tuple[int, int, set[str], float]:
    """Do one round; return changed URLs, units, what stayed stale, and after how long all was refreshed."""
    before, offset = state(churn.root), stand.journal.stat().st_size
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        churn.step()
        time.sleep(churn.random.random() * 0.05)
    after, began = state(churn.root), time.monotonic()
    while (left := uncovered(before, after, list(stand.sent(offset)))) and time.monotonic() < began + LONGEST_SECONDS:
        time.sleep(0.5)
    took = time.monotonic() - began
    time.sleep(STRAGGLERS_SECONDS)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return len(changed), len(list(stand.sent(offset))), left, took


def run(base: Path, minutes: float, backend: str, seed: int) -> int:
    """Run rounds for so long; return the exit status."""
    root, outside = base / "www", base / "outside"
    root.mkdir()
    outside.mkdir()
    churn = Around(root, outside, seed)
    for _ in range(150):
        Churn.step(churn)
    churn.put(root / "stays.html")
    stand = Stand(base, root, backend)
    end, rounds, changed, units, slowest = time.monotonic() + minutes * 60, 0, 0, 0, 0.0
    try:
        while time.monotonic() < end or not rounds:
            found = round_of(stand, churn, BURST_SECONDS)
            rounds, changed, units, slowest = rounds + 1, changed + found[0], units + found[1], max(slowest, found[3])
            print(f"round {rounds}: changed {found[0]} units {found[1]} fresh after {found[3]:.1f} s", flush=True)
            if found[2]:
                print(f"STALE {backend} seed {seed}: {sorted(map(key_to_bytes, found[2]))[:10]}")
                print("\n".join(churn.calls))
                print((base / "log").read_text()[-_MOST_LOG:])
                print(f"{explained(root, sorted(found[2])[0])}\nlast: {churn.done[-150:]}\n{stand.status()}")
                return 1
    finally:
        stand.stop()
        for point in reversed(mounted_below(base)):  # some were moved out of the root with their directory
            subprocess.run(["umount", "-l", point], check=True)
    ratio = units / max(changed, 1)
    print(f"{backend}: {rounds} rounds, {changed} changed, {units} units ({ratio:.3f} each), slowest {slowest:.1f} s")
    return int(ratio > (MOST_UNITS if rounds >= FEW_ROUNDS else MOST_UNITS_OF_FEW_ROUNDS))


def main() -> int:
    """Run in a mount namespace of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--backend", default="inotify", choices=["inotify", "fanotify", "polling"])
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
        values = ["--minutes", arguments.minutes, "--backend", arguments.backend, "--seed", arguments.seed]
        command = [*unshare, sys.executable, "-m", "tests.sources.filesystem.long_churn", "--inside", *map(str, values)]
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory() as base:
        return run(Path(base), arguments.minutes, arguments.backend, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
