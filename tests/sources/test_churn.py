"""Convergence: after random churn, what was told covers exactly what changed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import time
from pathlib import Path

import pytest
from source_harness import Reader

from listener.change import ChangeKind

pytestmark = [pytest.mark.looptime(False), pytest.mark.soak]

SECONDS = float(os.environ.get("CHURN_SECONDS", "8"))
SEEDS = [int(seed) for seed in os.environ.get("CHURN_SEEDS", "1,2,3").split(",")]


class Churn:
    """Random operations on a tree; knows every path that it touched."""

    def __init__(self, root: Path, outside: Path, seed: int) -> None:
        """Work below ``root``; ``outside`` is where things are moved out to."""
        self.root, self.outside = root, outside
        self.random = random.Random(seed)
        self.number = 0

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
            ["create", "write", "rename", "link", "symlink", "rmtree", "out", "back", "chmod", "mkdir", "tree", "dir"],
            [20, 10, 10, 4, 4, 4, 3, 3, 3, 10, 4, 8],
        )[0]
        try:
            getattr(self, f"do_{name}")()
        except OSError:
            return

    def put(self, path: Path) -> None:
        """Write a file with bytes never seen before."""
        self.number += 1
        path.write_text(f"{self.number} " + "x" * self.random.randrange(50))

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


def state(root: Path) -> dict[str, bytes]:
    """Return every file that a server would serve, with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def covered(changes: list[object]) -> tuple[set[str], tuple[str, ...]]:
    """Return keys told as finished, and prefixes told as gone."""
    keys = {each.key for each in changes if each.kind is not ChangeKind.SUBTREE_DELETED and each.finished}  # type: ignore[attr-defined]
    return keys, tuple(each.key for each in changes if each.kind is ChangeKind.SUBTREE_DELETED)  # type: ignore[attr-defined]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("backend", ["inotify", "polling"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_after_churn_what_was_told_is_what_changed(tmp_path: Path, seed: int, backend: str) -> None:
    """Every difference between before and after is covered, the index ends as the tree is, and no scan was needed."""
    root, outside = tmp_path / "www", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    churn = Churn(root, outside, seed)
    for _ in range(200):
        churn.step()
    churn.put(root / "stays")
    before = state(root)
    settings = {
        "backend": backend,
        "poll_interval_seconds": 0.5,
        "rescan_interval_seconds": 0,
        "max_delete_share": 1.0,
        "follow_symlinks": False,
    }
    async with Reader(root, **settings) as reader:
        child = [sys.executable, __file__, str(root), str(outside), str(seed), str(SECONDS)]
        process = await asyncio.create_subprocess_exec(*child)
        assert await process.wait() == 0
        end = time.monotonic() + 20
        while time.monotonic() < end:
            after = state(root)
            keys, prefixes = covered(reader.changes)  # type: ignore[arg-type]
            true = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            missing = {key for key in true if key not in keys and not key.startswith(prefixes)}
            stale = {
                key
                for key in after.keys() | reader.index.rows.keys()
                if key not in after or key not in reader.index.rows or not is_known(root, key, reader)
            }
            if not missing and not stale and not reader.source.unfinished():
                break
            await asyncio.sleep(0.2)
        assert not missing, f"seed {seed}: {len(missing)} of {len(true)} never told"
        assert not stale, (
            f"seed {seed}: index and tree differ: {[explain(root, key, reader) for key in sorted(stale)[:4]]}"
        )
        if backend == "inotify":
            assert reader.source.health.figures["overflows"] == 0
            await assert_watches_are_true(root, reader)


def explain(root: Path, key: str, reader: Reader) -> str:
    """Return what is there, what the index holds and what was told last of a key."""
    path = root / key
    link = f"-> {path.readlink()} " if path.is_symlink() else ""
    there = path.stat() if path.exists() else None
    return f"{key} {link}there {there} known {reader.index.rows.get(key)} told {reader.of(key)[-3:]}"


def is_known(root: Path, key: str, reader: Reader) -> bool:
    """Tell whether the index holds the file as it is now."""
    status, known = (root / key).stat(), reader.index.rows[key][0]
    return (status.st_size, status.st_mtime_ns, status.st_ino) == (known.size_bytes, known.mtime_ns, known.inode)


async def assert_watches_are_true(root: Path, reader: Reader) -> None:
    """Write a file into every directory: each is told under its true name, and as many are watched as there are."""
    directories = [path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()]
    watches = reader.source.watches()
    assert watches is not None
    await reader.until(lambda: watches.count == len(directories) + 1, f"{watches.count} of {len(directories) + 1}")
    reader.clear()
    expected = {str((path / "probe").relative_to(root)) for path in directories}
    for path in directories:
        (path / "probe").write_text("x")
    await reader.until(lambda: expected <= {each.key for each in reader.changes}, "every directory is heard")


if __name__ == "__main__":
    churning = Churn(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) + 1000)
    churning.number = 1_000_000
    until = time.monotonic() + float(sys.argv[4])
    while time.monotonic() < until:
        churning.step()
