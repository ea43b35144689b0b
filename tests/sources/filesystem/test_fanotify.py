"""fanotify as a backend: what it refuses and says, and what one mark on a whole file system brings with it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from listener.errors import ConfigurationError
from listener.sources.filesystem import FilesystemSettings, FilesystemSource, fanotify
from listener.sources.filesystem.fanotify import FanotifyWatches
from tests.sources.filesystem.test_interleavings import World
from tests.sources.filesystem.test_limits import as_nobody, failing, open_path, running
from tests.sources.harness import Reader, fanotify_needed

__all__ = ["open_path"]  # a fixture

pytestmark = pytest.mark.looptime(False)


@pytest.fixture
def marked(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a directory on a file system that can be marked."""
    fanotify_needed(request, tmp_path)
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


def test_without_the_capability_the_start_fails_and_says_what_to_do(open_path: Path) -> None:
    """As an ordinary user: the setting, the capability, and the other backend are named."""
    said = failing(open_path, *as_nobody(), backend="fanotify")
    assert "ConfigurationError" in said
    assert "sources.www.backend" in said
    assert "CAP_SYS_ADMIN" in said


def test_a_file_system_that_cannot_be_marked_is_named(open_path: Path) -> None:
    """On overlayfs, as in a container without a volume, the start fails and says where it would work."""
    mount = f"""
        cd {open_path} && mkdir lower memory merged && mount -t tmpfs none memory && mkdir memory/upper memory/work
        mount -t overlay -o lowerdir=lower,upperdir=memory/upper,workdir=memory/work overlay merged && exec "$@"
    """
    rights = () if os.geteuid() == 0 else ("-Ur",)
    said = failing(open_path / "merged", "unshare", "-m", *rights, "sh", "-ec", mount, "sh", backend="fanotify")
    assert "ConfigurationError" in said
    assert "cannot mark this file system" in said


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EPERM, "CAP_SYS_ADMIN"), (errno.EOPNOTSUPP, "ext4"), (errno.EXDEV, "btrfs"), (errno.EINVAL, "5.17")],
)
async def test_check_and_start_say_why_fanotify_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Whatever the kernel refuses: a failed line with the remedy in ``check``, the same words at the start."""

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("listener.sources.filesystem.fanotify.Fanotify", refuse)
    source = FilesystemSource("www", FilesystemSettings(path=tmp_path, backend="fanotify"))
    (failed,) = [check for check in await source.check() if check.state == "failed"]
    assert failed.subject == "sources.www.backend"
    assert words in failed.message + failed.hint
    with pytest.raises(ConfigurationError) as raised:
        await anext(source.deliveries(None))  # type: ignore[arg-type]
    assert words in f"{raised.value} {raised.value.hint}"


async def test_check_says_that_it_can(marked: Path) -> None:
    """Where a mark is allowed, and that it was tried."""
    checks = await FilesystemSource("www", FilesystemSettings(path=marked, backend="fanotify")).check()
    assert any(check.message == "fanotify can mark the file system" for check in checks)
    assert not [check for check in checks if check.state == "failed"]


async def test_other_trees_on_the_file_system_are_not_watched(marked: Path, tmp_path: Path) -> None:
    """The mark receives them all; what is not ours makes neither names nor wake-ups."""
    async with Reader(marked, backend="fanotify") as reader:
        watches = reader.source.watcher()
        assert watches is not None
        (tmp_path / "other").mkdir()
        before = watches.events
        for number in range(200):
            (tmp_path / "other" / f"{number}").write_text("x")
        (marked / "mark").write_text("")
        await reader.until_reported("mark")
        assert watches.events >= before + 200
        assert {change.key for change in reader.changes} == {"mark"}
        assert watches.count == 1


def test_a_file_system_mounted_below_is_marked_too(marked: Path, tmp_path: Path) -> None:
    """A mount inside the tree is another file system: a scan comes by, marks it, and it is watched."""
    script = f'mkdir {marked}/sub && mount -t tmpfs none {marked}/sub && exec "$@"'
    with running(marked, tmp_path / "out", "unshare", "-m", "sh", "-c", script, "sh", backend="fanotify") as source:
        source.until(lambda: source.health["ready"], "ready")
        write = f"mkdir {marked}/sub/d && echo x > {marked}/sub/d/f"
        subprocess.run(["nsenter", "-t", str(source.process.pid), "-m", "sh", "-c", write], check=True)
        source.until(lambda: source.keys() >= {"sub/d/f"}, "what is written on the mount is told")
        assert source.health["rescans"] == 0


def test_merged_events_end_as_the_tree_is(marked: Path, tmp_path: Path) -> None:
    """Renames to and fro become two events for three; made and removed one: only the tree reports which came last."""
    world = World(tmp_path / "world", 0, steps=0, kind=FanotifyWatches)
    world.scan_all()
    root = world.root
    (root / "a").mkdir()
    (root / "a" / "f").write_text("x")
    world.calm()
    for here, there in (("a", "b"), ("b", "a"), ("a", "b")):
        (root / here).rename(root / there)
    (root / "c").mkdir()
    (root / "c").rmdir()
    (root / "c").mkdir()
    (root / "c" / "g").write_text("x")
    (root / "d").mkdir()
    (root / "d").rmdir()
    world.read()
    world.calm()
    assert world.index.keys() == {"b/f", "c/g"}
    assert not world.differences()
    (root / "b" / "later").write_text("x")
    world.calm()
    assert "b/later" in world.index
    world.watches.close()


def test_what_check_opens_it_closes(marked: Path) -> None:
    """Marks are given back: so many groups are opened and closed one after the other as would exceed the limit."""
    limit = int(Path("/proc/sys/fs/fanotify/max_user_groups").read_text())
    for _ in range(limit + 1):
        assert fanotify.refusal(marked) is None
