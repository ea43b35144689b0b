"""Mounts that come and go below a root, and mounts whose directory was replaced elsewhere, each in a namespace."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from listener.sources.filesystem.mounts import Remounted, Surroundings
from tests.sources.filesystem.test_limits import Running, running
from tests.sources.harness import Reader, fanotify_needed

BACKENDS = ["inotify", "fanotify", "polling"]
AS_ROOT = os.geteuid() == 0
UNSHARED = ("unshare", "-m") if AS_ROOT else ("unshare", "-Urm")


class Apart(Running):
    """A source in a mount namespace of its own, and commands in there."""

    def inside(self, *command: object) -> None:
        """Run a command in the source's namespace."""
        enter = ["nsenter", "-t", str(self.process.pid), "-m"]
        enter += [] if AS_ROOT else ["-U", "--preserve-credentials"]
        subprocess.run([*enter, *map(str, command)], check=True)


@contextmanager
def apart(root: Path, out: Path, before: str = "true", **settings: object) -> Iterator[Apart]:
    """Run a source in a namespace, after the shell commands ``before``, and wait until it is ready."""
    command = (*UNSHARED, "sh", "-ec", f'{before}; exec "$@"', "sh")
    settings = {"root_check_seconds": 0.2, "poll_interval_seconds": 600, **settings}
    with running(root, out, *command, **settings) as source:
        source.until(lambda: source.health["ready"], "ready")
        yield Apart(source.process, source.out)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return each way to watch."""
    if request.param == "fanotify":
        fanotify_needed(request, tmp_path)
    return str(request.param)


def write(path: Path, text: str) -> Path:
    """Write a file, with all directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def fresh(source: Running) -> Callable[[], set[str]]:
    """Return a function for the keys whose content is reported from now on."""
    since = len(source.lines())
    return lambda: source.keys(since=since)


def test_what_is_mounted_over_a_directory_is_compared(tmp_path: Path, backend: str) -> None:
    """A mount that comes or goes is a comparison of that directory, at any depth; what is written in it is reported."""
    root, new = tmp_path / "www", tmp_path / "new"
    write(root / "a" / "docs" / "index.html", "one")
    write(root / "other.html", "one")
    write(new / "index.html", "two!")
    write(new / "sub" / "more.html", "1")
    with apart(root, tmp_path / "out", backend=backend) as source:
        listed = fresh(source)
        source.inside("mount", "--bind", new, root / "a" / "docs")
        expected = {"a/docs/index.html", "a/docs/sub/more.html"}
        source.until(lambda: listed() >= expected, "what is mounted is reported", 20)
        if backend != "polling":
            listed = fresh(source)
            write(new / "sub" / "more.html", "written in the mount")
            source.until(lambda: listed() == {"a/docs/sub/more.html"}, "what is written in it is reported", 20)
        listed = fresh(source)
        source.inside("umount", root / "a" / "docs")
        source.until(lambda: listed() == {"a/docs/index.html"}, "what was below is reported", 20)
        source.until(lambda: "a/docs/sub/more.html" in source.keys("deleted"), "what was mounted is gone", 20)
        listed = fresh(source)
        source.inside("mount", "-t", "tmpfs", "none", root / "a" / "docs")
        source.inside("sh", "-c", f"echo fresh > {root}/a/docs/index.html")
        source.until(lambda: listed() == {"a/docs/index.html"}, "a file system of its own is reported", 20)


def test_a_mount_is_noticed_as_soon_as_it_comes_or_goes(tmp_path: Path, backend: str) -> None:
    """The kernel's signal counts, not the next look: between two looks a mount can come, be scanned, and go."""
    root, new = tmp_path / "www", tmp_path / "new"
    write(root / "docs" / "index.html", "one")
    write(root / "other.html", "one")
    write(new / "index.html", "two!")
    with apart(root, tmp_path / "out", backend=backend, root_check_seconds=600) as source:
        for command in (["mount", "--bind", new], ["umount"], ["mount", "--bind", new], ["umount"]):
            reported = fresh(source)
            source.inside(*command, root / "docs")
            source.until(lambda reported=reported: reported() == {"docs/index.html"}, f"{command[0]} is noticed", 20)


def test_a_mount_that_goes_after_its_directory_was_renamed_is_compared(tmp_path: Path, backend: str) -> None:
    """The kernel reports the rename of a mount point to nobody: between two looks, it is taken away elsewhere."""
    root, new = tmp_path / "www", tmp_path / "new"
    write(root / "a" / "docs" / "index.html", "one")
    write(root / "other.html", "one")
    write(new / "more.html", "1")
    with apart(root, tmp_path / "out", backend=backend, root_check_seconds=2) as source:
        source.inside("mount", "--bind", new, root / "a" / "docs")
        source.until(lambda: source.keys() >= {"a/docs/more.html"}, "what is mounted is reported", 20)
        source.inside("sh", "-c", f"mv {root}/a {root}/b && sleep 0.5 && umount {root}/b/docs")
        source.until(lambda: source.keys() >= {"b/docs/index.html"}, "what was below is reported", 20)
        if backend != "polling":
            source.until(lambda: "b/docs/more.html" in source.keys("deleted"), "what was mounted is gone", 20)


def test_a_mount_that_came_with_its_directory_and_goes_is_compared(tmp_path: Path, backend: str) -> None:
    """A directory with a mount in it is moved into the tree: the table knew the mount at its old place only."""
    root, new, outside = tmp_path / "www", tmp_path / "new", tmp_path / "outside"
    write(root / "other.html", "one")
    write(outside / "a" / "docs" / "index.html", "one")
    write(new / "more.html", "1")
    before = f"mount --bind {new} {outside}/a/docs"
    settings = {"backend": backend, "root_check_seconds": 600, "poll_interval_seconds": 1}
    with apart(root, tmp_path / "out", before, **settings) as source:
        source.inside("mv", outside / "a", root / "b")
        source.until(lambda: source.keys() >= {"b/docs/more.html"}, "what is mounted is reported", 20)
        source.inside("umount", root / "b" / "docs")
        source.until(lambda: source.keys() >= {"b/docs/index.html"}, "what was below is reported", 20)
        source.until(lambda: "b/docs/more.html" in source.keys("deleted"), "what was mounted is gone", 20)


def test_a_file_with_the_inode_of_a_file_on_another_mount_is_not_taken_for_it(tmp_path: Path) -> None:
    """Inodes are unique in one file system only: the other name of a hard link is searched for on its own mount."""
    root = tmp_path / "www"
    write(root / "other.html", "one")
    a, b = root / "a", root / "b"
    mounts = [f"mkdir {path}; mount -t tmpfs none {path}; echo 1 > {path}/one.html" for path in (a, b)]
    before = "; ".join([*mounts, f"ln {a}/one.html {a}/two.html"])
    with apart(root, tmp_path / "out", before, backend="inotify") as source:
        source.inside("sh", "-c", f'[ "$(stat -c %i {a}/one.html)" = "$(stat -c %i {b}/one.html)" ]')
        source.inside("ln", b / "one.html", b / "two.html")
        source.until(lambda: source.keys() >= {"b/two.html"}, "the new name is reported", 20)
        time.sleep(2.0)
        written = fresh(source)
        source.inside("sh", "-c", f"echo 2 > {b}/two.html")
        source.until(lambda: written() == {"b/one.html", "b/two.html"}, "it is reported under both names", 20)


def test_what_is_mounted_over_a_file_is_looked_at(tmp_path: Path, backend: str) -> None:
    """A file too can be mounted over; a mount over what is ignored, or elsewhere, is nobody's business."""
    root = tmp_path / "www"
    write(root / "conf.json", "one")
    write(root / "cache" / "x", "one")
    write(tmp_path / "elsewhere" / "x", "one")
    write(tmp_path / "new.json", "two!")
    with apart(root, tmp_path / "out", backend=backend, ignore=["cache/"]) as source:
        listed = fresh(source)
        source.inside("mount", "-t", "tmpfs", "none", tmp_path / "elsewhere")
        source.inside("mount", "-t", "tmpfs", "none", root / "cache")
        source.inside("sh", "-c", f"echo x > {root}/cache/x")
        source.inside("mount", "--bind", tmp_path / "new.json", root / "conf.json")
        source.until(lambda: listed() == {"conf.json"}, "the mounted file is reported", 20)
        source.inside("umount", root / "conf.json")
        source.until(lambda: source.out.read_text().count("conf.json") == 2, "and the one below", 20)
        assert source.keys() == {"conf.json"}


@pytest.mark.parametrize("where", ["", "public"], ids=["the root", "above the root"])
def test_a_root_whose_mount_was_replaced_elsewhere_is_degraded(tmp_path: Path, backend: str, where: str) -> None:
    """Renamed or removed outside, the old directory is still shown: said with the remedy, and nothing is deleted."""
    site, seen = tmp_path / "site", tmp_path / "seen"
    for number in range(10):
        write(site / where / f"{number}.html", "one")
    seen.mkdir()
    settings = {"backend": backend, "min_delete_count": 3}
    with apart(seen / where, tmp_path / "out", f"mount --bind {site} {seen}", **settings) as source:
        site.rename(tmp_path / "old")
        write(site / where / "0.html", "another")
        source.until(lambda: "was renamed" in source.health["detail"], "it is said", 20)
        assert "mount the parent directory" in source.health["detail"]
        assert source.health["state"] == "degraded"
        assert not source.health["ready"]
        (tmp_path / "old" / where / "0.html").unlink()
        time.sleep(1.5)
        assert source.keys("deleted") == set()
        for number in range(1, 10):
            (tmp_path / "old" / where / f"{number}.html").unlink()
        for path in (tmp_path / "old" / "public", tmp_path / "old"):
            if path.exists():
                path.rmdir()
        source.until(lambda: "was removed" in source.health["detail"], "its end is said", 20)
        time.sleep(2)
        assert "confirm-deletions" not in source.health["detail"]
        assert source.keys("deleted") == set()


def test_a_mounted_root_that_is_removed_at_once_deletes_nothing(tmp_path: Path, backend: str) -> None:
    """A deploy that renames, replaces and removes in one go: the deletions are seen before the next regular look."""
    site, seen = tmp_path / "site", tmp_path / "seen"
    for number in range(20):
        write(site / "public" / f"d{number}" / "index.html", "one")
    seen.mkdir()
    settings = {"backend": backend, "root_check_seconds": 3}
    with apart(seen / "public", tmp_path / "out", f"mount --bind {site} {seen}", **settings) as source:
        script = f"mkdir next && mv {site} old && mv next {site} && rm -r old/public/d1 old/public/d2"
        subprocess.run(["sh", "-c", script], check=True, cwd=tmp_path)
        source.until(lambda: "was renamed" in source.health["detail"], "it is said", 20)
        time.sleep(1.5)
        assert not any(line.startswith("subtree") or "deleted" in line for line in source.out.read_text().splitlines())


def test_a_mounted_root_that_comes_back_is_well_again(tmp_path: Path, backend: str) -> None:
    """Renamed back outside, it is what it was: ready, and compared."""
    site, seen = tmp_path / "site", tmp_path / "seen"
    write(site / "index.html", "one")
    seen.mkdir()
    with apart(seen, tmp_path / "out", f"mount --bind {site} {seen}", backend=backend) as source:
        site.rename(tmp_path / "old")
        source.until(lambda: not source.health["ready"], "not ready", 20)
        rescans = source.health["rescans"]
        (tmp_path / "old").rename(site)
        source.until(lambda: source.health["ready"] and not source.health["detail"], "well again", 20)
        source.until(lambda: source.health["rescans"] > rescans, "compared", 20)
        if backend != "polling":
            write(site / "index.html", "two!")
            source.until(lambda: source.keys() == {"index.html"}, "reported", 20)


def test_a_mount_that_comes_and_goes_between_two_looks_is_noticed(tmp_path: Path) -> None:
    """The table is as it was before; where it was mounted is not known."""
    (tmp_path / "www" / "a").mkdir(parents=True)
    program = """
import subprocess, sys
from listener.sources.filesystem.mounts import MountWatch
watch = MountWatch(sys.argv[1])
print(watch.look(list))
subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1] + "/a"], check=True)
subprocess.run(["umount", sys.argv[1] + "/a"], check=True)
print(watch.look(list))
print(watch.look(list))
"""
    command = [*UNSHARED, sys.executable, "-c", program, str(tmp_path / "www")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    nothing, something = (f"Remounted(directories=[], names=[], is_unexplained={one})" for one in (False, True))
    assert done.stdout.splitlines() == [nothing, something, nothing]


@pytest.mark.looptime(False)
async def test_a_mount_that_is_gone_again_matters_where_the_tree_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short mount elsewhere costs nothing in a tree at rest; a look, a scan or an event meanwhile, a comparison."""
    root = tmp_path / "www"
    write(root / "index.html", "one")
    monkeypatch.setattr(Surroundings, "follow_mounts", lambda *_: None)  # other tests mount too
    async with Reader(root, root_check_seconds=600) as reader:
        await reader.until_compared()
        session = reader.source._session
        assert session is not None
        live = session._live

        async def look(*, is_unexplained: bool) -> list[str]:
            found = Remounted([], [], is_unexplained=is_unexplained)
            monkeypatch.setattr(session._surroundings._mounts, "look", lambda _: found)
            await session._surroundings.look_at_mounts()
            return [one.prefix for one in session._rescans.waiting()]

        async def rest() -> None:
            await reader.until(lambda: not session._rescans.waiting(), "what is wanted is over")
            await reader.until(lambda: live.next_due(time.monotonic()) > 1, "nothing is to be done")

        async def scan() -> None:
            session._rescans.want("", "a test", time.monotonic(), prompt=True)
            session._wake.set()
            await reader.until(session._rescans.waiting, "a scan is wanted")

        async def hint() -> None:
            live.look_at([b"index.html"])
            session._wake.set()

        async def event() -> None:
            live.watcher.events += 1

        async def change() -> None:
            reader.clear()
            write(root / "index.html", "changed")
            await reader.until_reported("index.html")

        await rest()
        await look(is_unexplained=False)
        assert await look(is_unexplained=True) == []
        with live.activity.reading():
            assert await look(is_unexplained=True) == [""], "it is read just now"
        for read in (scan, hint, event, change):
            await rest()
            await look(is_unexplained=False)
            await read()
            await rest()
            assert await look(is_unexplained=True) == [""], read.__name__
