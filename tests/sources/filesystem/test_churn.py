"""Convergence: after random churn, what was reported covers exactly what changed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind
from tests.sources.filesystem import churning
from tests.sources.filesystem.churning import Churn, out_of_sight
from tests.sources.harness import Reader, fanotify_needed

pytestmark = pytest.mark.looptime(False)

SEEDS = [int(seed) for seed in os.environ.get("CHURN_SEEDS", "1,2,3").split(",")]
BACKENDS = ["inotify", "fanotify", "polling"]
SETTINGS = {
    "poll_interval_seconds": 0.5,
    "rescan_interval_seconds": 0,
    "max_delete_share": 1.0,
    "follow_symlinks": False,
}


def state(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file that a server would serve: its inode and its bytes."""
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


def missing(
    before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]], reported: list[Change]
) -> set[str]:
    """Return the keys with other bytes than before that were reported neither themselves nor by a directory."""
    keys = {each.key for each in reported if each.kind is not ChangeKind.SUBTREE_DELETED and each.finished}
    prefixes = tuple(each.key for each in reported if each.kind is ChangeKind.SUBTREE_DELETED)
    true = {key for key in before.keys() | after.keys() if before.get(key, (0, b""))[1] != after.get(key, (0, b""))[1]}
    return {key for key in true if key not in keys and not key.startswith(prefixes)}


def stale(root: Path, after: dict[str, tuple[int, bytes]], reader: Reader) -> set[str]:
    """Return the keys for which the index holds something else than what is there."""
    rows = reader.index.rows
    return {
        key
        for key in after.keys() | rows.keys()
        if key not in after or key not in rows or not is_known(root, key, reader)
    }


def is_known(root: Path, key: str, reader: Reader) -> bool:
    """Return whether the index holds the file as it is now."""
    status, known = (root / key).stat(), reader.index.rows[key][0]
    return (status.st_size, status.st_mtime_ns, status.st_ino) == (known.size_bytes, known.mtime_ns, known.inode)


async def churned(root: Path, outside: Path, seed: int, seconds: float, reader: Reader) -> set[str]:
    """Churn the tree in another process and wait for all reports; return what no event could report."""
    command = [sys.executable, churning.__file__, str(root), str(outside), str(seed), str(seconds)]
    before = state(root)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    after = state(root)
    shared = out_of_sight(json.loads(output))
    blind = {key for key, (inode, _) in after.items() if inode in shared}
    end = time.monotonic() + 40
    while time.monotonic() < end:
        untold, wrong = missing(before, after, reader.changes), stale(root, after, reader)
        if not (untold | wrong) - blind and not reader.source.unfinished():
            return untold | wrong
        await asyncio.sleep(0.1)
    assert not untold - blind, f"{len(untold)} never told, such as {sorted(untold)[:4]}"
    raise AssertionError(f"index and tree differ: {[explain(root, key, reader) for key in sorted(wrong - blind)[:4]]}")


def explain(root: Path, key: str, reader: Reader) -> str:
    """Return what is there, what the index holds and what was reported last of a key."""
    path = root / key
    link = f"(a link to {path.readlink()}) " if path.is_symlink() else ""
    there = path.stat() if path.exists() else None
    return f"{key} {link}there {there} known {reader.index.rows.get(key)} told {reader.of(key)[-3:]}"


async def assert_watches_are_true(root: Path, reader: Reader) -> None:
    """Write a file into every directory: each is reported under its true name, and as many are watched as there are."""
    directories = [path for path in root.rglob("*") if path.is_dir() and not path.is_symlink()]
    watches = reader.source.watcher()
    assert watches is not None
    await reader.until(lambda: watches.count == len(directories) + 1, f"{watches.count} of {len(directories) + 1}", 40)
    reader.clear()
    expected = {str((path / "probe").relative_to(root)) for path in directories}
    for path in directories:
        (path / "probe").write_text("x")
    await reader.until(lambda: expected <= {each.key for each in reader.changes}, "every directory is heard", 40)


async def converges(tmp_path: Path, seed: int, backend: str, seconds: float) -> None:
    """Make a tree, follow it, churn it, and compare."""
    root, outside = tmp_path / "www", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    churn = Churn(root, outside, seed)
    for _ in range(200):
        churn.step()
    churn.put(root / "stays")
    async with Reader(root, backend=backend, **SETTINGS) as reader:
        left = await churned(root, outside, seed, seconds, reader)
        assert reader.source.health.figures.get("overflows", 0) == 0
        if left:
            # Written to through a name that was gone before anybody could look: scans are there for that.
            reader.source.rescan("a test")
            await reader.until(lambda: not stale(root, state(root), reader), "a scan finds what no event told", 40)
        if backend != "polling":
            await assert_watches_are_true(root, reader)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", SEEDS)
async def test_after_churn_what_was_reported_is_what_changed(
    tmp_path: Path, seed: int, backend: str, request: pytest.FixtureRequest
) -> None:
    """Every difference between before and after is reported by events, and the index ends as the tree is."""
    if backend == "fanotify":
        fanotify_needed(request, tmp_path)
    await converges(tmp_path, seed, backend, float(os.environ.get("CHURN_SECONDS", "1.5")))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", [seed + 100 for seed in SEEDS])
async def test_after_a_minute_of_churn_what_was_reported_is_what_changed(
    tmp_path: Path, seed: int, backend: str, request: pytest.FixtureRequest
) -> None:
    """The same for a minute each."""
    if backend == "fanotify":
        fanotify_needed(request, tmp_path)
    await converges(tmp_path, seed, backend, 60.0)
