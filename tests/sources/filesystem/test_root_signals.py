"""What happens to the root itself is noticed by a signal of the kernel; while there is none it is rarely checked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from listener.sources.filesystem.path_watch import PathSignal
from listener.sources.filesystem.watcher import RootIdentity
from listener.sources.filesystem.watches import Watches
from tests.sources.harness import Reader, fanotify_needed
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)

NEVER_SECONDS = 600
"""A check so rare counts for nothing here."""


@pytest.fixture(params=["inotify", "fanotify"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each that reads events."""
    if request.param == "fanotify":
        fanotify_needed(request, tmp_path)
    return str(request.param)


def tree(path: Path, *names: str) -> Path:
    """Make a tree of files that hold their names."""
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text(name)
    return path


async def test_a_root_that_moves_with_a_directory_above_is_noticed(tmp_path: Path, backend: str) -> None:
    """Nothing happens to the root's own directory."""
    root = tree(tmp_path / "site" / "releases" / "www", "index.html")
    async with Reader(root, backend=backend, root_check_seconds=NEVER_SECONDS) as reader:
        (tmp_path / "site").rename(tmp_path / "away")
        await reader.until(lambda: reader.source.health.state == "degraded", "its end is noticed")


@pytest.mark.parametrize("hop", ["current", "site"])
async def test_a_link_that_is_switched_is_noticed(tmp_path: Path, backend: str, hop: str) -> None:
    """At any hop: ``current`` is the path itself, ``site`` is on the way that it leads."""
    tree(tmp_path / "one", "index.html", "old.html")
    tree(tmp_path / "two", "index.html", "new.html")
    (tmp_path / "site").symlink_to("one")
    (tmp_path / "current").symlink_to("site")
    async with Reader(tmp_path / "current", backend=backend, root_check_seconds=NEVER_SECONDS) as reader:
        for target in ("two", "one", "two"):
            (tmp_path / "next").symlink_to(target)
            (tmp_path / "next").rename(tmp_path / hop)
            await reader.until_in_sync(tmp_path / "current")


async def test_a_root_that_is_removed_while_it_is_open_is_noticed(tmp_path: Path, backend: str) -> None:
    """Whoever stands in it keeps the kernel from reporting the directory's own end: that of a file in it is enough."""
    root = tree(tmp_path / "site" / "www", "index.html")
    standing = os.open(root, os.O_RDONLY)
    try:
        async with Reader(root, backend=backend, root_check_seconds=1) as reader:
            (root / "index.html").unlink()
            root.rmdir()
            await reader.until(lambda: reader.source.health.state == "degraded", "its end is noticed")
    finally:
        os.close(standing)


async def test_a_root_at_rest_is_rarely_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen times as rarely as is set; as often where the path cannot be watched, or the tree is polled."""
    root = tree(tmp_path / "www", "index.html")
    checks: list[bool] = []
    real = RootIdentity.holds

    def holds(self: RootIdentity) -> bool:
        checks.append(real(self))
        return checks[-1]

    monkeypatch.setattr(RootIdentity, "holds", holds)

    async def count(**settings: Any) -> int:
        async with Reader(root, root_check_seconds=0.1, **settings) as reader:
            await reader.until_compared()
            await asyncio.sleep(0.3)
            checks.clear()
            await asyncio.sleep(1.0)
            return len(checks)

    assert await count(backend="inotify") <= 2
    assert await count(backend="polling", poll_interval_seconds=600) >= 4
    monkeypatch.setattr("listener.sources.filesystem.path_watch._watch", refused)
    assert await count(backend="inotify") >= 4


def refused(*_: object) -> None:
    """Watch nothing, as where every instance or watch is in use."""
    raise OSError(24, "Too many open files")


async def test_what_happens_in_and_next_to_a_path_is_no_signal(tmp_path: Path) -> None:
    """Neither files of the tree, nor siblings of a directory on the way, however many."""
    root, signals = tree(tmp_path / "site" / "www", "index.html"), []
    signal = PathSignal(os.fsencode(root) + b"/", lambda: signals.append(1))
    await signal.follow()
    assert signal.reports_all
    tree(tmp_path / "site" / "other", "x").rename(tmp_path / "site" / "others")
    (root / "new.html").write_text("x")
    (root / "new.html").unlink()
    await asyncio.sleep(0.1)
    assert not signals
    root.rename(tmp_path / "site" / "away")
    await until(lambda: signals)
    assert not signal.reports_all
    signal.close()


async def test_threads_sleep_while_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing works events through that did not come; half of a rename, whose other half never comes, is ended."""
    root, settled = tree(tmp_path / "www", "index.html"), []
    (root / "a").mkdir()
    real = Watches.settle

    def settle(self: Watches, should_keep_running: Callable[[], bool]) -> None:
        settled.append(1)
        real(self, should_keep_running)

    monkeypatch.setattr(Watches, "settle", settle)
    async with Reader(root) as reader:
        await reader.until_compared()
        await asyncio.sleep(0.5)
        settled.clear()
        await asyncio.sleep(1.5)
        assert not settled
        (root / "a").rename(tmp_path / "out")
        watches = reader.source.watcher()
        assert isinstance(watches, Watches)
        await until(lambda: settled and not watches._moved, seconds=10.0)
