"""
Random operations on a tree.

As a program it prints JSON: ``python -m tests.sources.filesystem.churning TREE OUTSIDE SEED SECONDS``.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_HERE, _EXCHANGE = -100, 2


def exchange(first: Path, second: Path) -> None:
    """Let two paths change places in one system call. Raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(first))


class Churn:
    """Random operations on a tree; knows every path that it touched."""

    def __init__(self, root: Path, outside: Path, seed: int) -> None:
        """Work below ``root``; ``outside`` is where things are moved out to."""
        self.root, self.outside = root, outside
        self.random = random.Random(seed)
        self.number = 0
        self.shared: list[tuple[int, str]] = []
        """Inode and path of each write to a file that had several names."""

    def directories(self) -> list[Path]:
        """Return all directories, the root first."""
        return [self.root, *(path for path in self.root.rglob("*") if path.is_dir() and not path.is_symlink())]

    def file(self) -> Path | None:
        """Return any file."""
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return self.random.choice(found) if found else None

    def fresh(self, parent: Path) -> Path:
        """Return a path in the parent; names are few, so that they come again."""
        return parent / f"n{self.random.randrange(12)}"

    def step(self) -> None:
        """Do one operation."""
        name = self.random.choices(
            [
                "create",
                "write",
                "rename",
                "link",
                "symlink",
                "rmtree",
                "out",
                "back",
                "chmod",
                "mkdir",
                "tree",
                "dir",
                "exchange",
            ],
            [20, 10, 10, 4, 4, 4, 3, 3, 3, 10, 4, 8, 6],
        )[0]
        try:
            getattr(self, f"do_{name}")()
        except OSError:
            return

    def put(self, path: Path) -> None:
        """Write a file with bytes never seen before."""
        self.number += 1
        path.write_text(f"{self.number} " + "x" * self.random.randrange(50))
        status = path.stat()
        if status.st_nlink > 1:
            self.shared.append((status.st_ino, str(path.resolve())))

    def do_create(self) -> None:
        self.put(self.fresh(self.random.choice(self.directories())))

    def do_write(self) -> None:
        if path := self.file():
            self.put(path)

    def do_rename(self) -> None:
        if path := self.file():
            path.rename(self.fresh(self.random.choice(self.directories())))

    def do_link(self) -> None:
        if path := self.file():
            os.link(path, self.fresh(self.random.choice(self.directories())), follow_symlinks=False)

    def do_symlink(self) -> None:
        if (path := self.file()) and not path.is_symlink():
            self.fresh(path.parent).symlink_to(path.name)

    def do_rmtree(self) -> None:
        if len(found := self.directories()) > 3:
            shutil.rmtree(self.random.choice(found[1:]), ignore_errors=True)

    def do_out(self) -> None:
        if len(found := self.directories()) > 3:
            self.number += 1
            self.random.choice(found[1:]).rename(self.outside / f"o{self.number}")

    def do_back(self) -> None:
        if found := list(self.outside.iterdir()):
            self.random.choice(found).rename(self.fresh(self.random.choice(self.directories())))

    def do_chmod(self) -> None:
        if path := self.file():
            path.chmod(self.random.choice([0o600, 0o644]))

    def do_mkdir(self) -> None:
        self.fresh(self.random.choice(self.directories())).mkdir()

    def do_tree(self) -> None:
        path = self.fresh(self.random.choice(self.directories())) / "k" / "l"
        path.mkdir(parents=True)
        for name in ("1", "2"):
            self.put(path / name)

    def do_dir(self) -> None:
        found = self.directories()
        if len(found) > 2:
            self.random.choice(found[1:]).rename(self.fresh(self.random.choice(found)))

    def do_exchange(self) -> None:
        found = [path for path in self.root.rglob("*") if path.is_dir() or self.random.random() < 0.2]
        if len(found) > 1:
            exchange(*self.random.sample(found, 2))


def out_of_sight(shared: Iterable[tuple[int, str]]) -> set[int]:
    """
    Return the files of which no event can tell every write.

    Those that had several names and were written to through one that is gone, or is another
    file's, by now: it may have gone before anybody could look at it, and with it the only event.
    """
    return {inode for inode, path in shared if not Path(path).exists() or Path(path).stat().st_ino != inode}


if __name__ == "__main__":
    churning = Churn(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) + 1000)
    churning.number = 1_000_000
    until = time.monotonic() + float(sys.argv[4])
    while time.monotonic() < until:
        churning.step()
    print(json.dumps(churning.shared))
