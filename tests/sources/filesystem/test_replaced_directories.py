"""A directory whose name is given to another one is compared with it, not taken for deleted and made."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind
from listener.sources.filesystem.known import Acks
from tests.sources.harness import Reader

pytestmark = pytest.mark.looptime(False)


def exchange(one: Path, other: Path) -> None:
    """Let two names change places in one system call."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0, os.strerror(ctypes.get_errno())


def exchange_and_remove(current: Path, new: Path) -> None:
    """Switch a release as a deploy tool does that has RENAME_EXCHANGE."""
    exchange(current, new)
    shutil.rmtree(new)


def rename_twice(current: Path, new: Path) -> None:
    """Switch a release as most scripts do."""
    current.rename(current.parent.parent / "previous")
    new.rename(current)


@pytest.mark.parametrize("switch", [rename_twice, exchange_and_remove])
@pytest.mark.parametrize("staged", ["inside", "outside"])
@pytest.mark.parametrize("stable_seconds", [0.0, 0.3], ids=["staged long ago", "staged just now"])
async def test_a_directory_that_is_replaced_costs_what_differs(
    tmp_path: Path, stable_seconds: float, staged: str, switch: Callable[[Path, Path], None]
) -> None:
    """A release that is switched by renames of directories, below the root, is compared by its bytes."""
    root = tmp_path / "root"
    (root / "current" / "deep").mkdir(parents=True)
    new = (root if staged == "inside" else tmp_path) / "new"
    for number in range(60):
        (root / "current" / f"{number}.html").write_text(f"page {number}")
        (root / "current" / "deep" / f"{number}.html").write_text(f"page {number}")
    shutil.copytree(root / "current", new, copy_function=shutil.copy2)
    (new / "3.html").write_text("changed")
    (new / "deep" / "4.html").unlink()
    (new / "deep" / "added.html").write_text("added")
    differing = {"current/3.html", "current/deep/4.html", "current/deep/added.html"}
    async with Reader(root, stable_seconds=stable_seconds) as reader:
        await reader.until_compared()
        reader.clear()
        await asyncio.to_thread(switch, root / "current", new)
        await reader.until(lambda: differing <= {each.key for each in reader.changes}, "reported")
        await reader.until_in_sync(root)
        reported = {each.key for each in reader.changes if each.key.startswith("current/")}
        assert reported == differing


async def test_a_deletion_under_way_counts_for_all_below() -> None:
    """Until the end of a directory is in the index, what the index holds of files below proves nothing."""
    acks = Acks(on_ack=lambda: None)
    delivery = acks.deliver([Change("www", "a/", ChangeKind.SUBTREE_DELETED), Change("www", "c", ChangeKind.DELETED)])
    assert acks.keys_under_way(["a/b/x", "ab", "c"]) == {"a/b/x", "c"}
    await delivery.ack()
    assert not acks.keys_under_way(["a/b/x", "c"])
