"""What cannot be looked at is not known: nothing is taken for deleted, nothing refreshed, and it is reported."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from listener.errors import SourceUnavailable
from listener.kernel import MOVED_TO
from listener.sources.filesystem import FilesystemSettings
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.names import Ignore, StatReader
from listener.sources.filesystem.outstanding import Unread, is_absent, is_directory_gone
from listener.sources.filesystem.pending_names import Batch
from listener.sources.filesystem.walker import Walker
from listener.sources.listing.tree import TreeListing
from tests.sources.filesystem.test_limits import as_nobody, open_path, running

__all__ = ["open_path"]

ABSENT = [errno.ENOENT, errno.ENOTDIR, errno.ELOOP]
UNKNOWN = [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EPERM, errno.ETIMEDOUT, errno.ENAMETOOLONG]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[bytes, int]]:
    """Return a table of paths whose every look fails with an error."""
    errors: dict[bytes, int] = {}

    def wrapped(name: str) -> None:
        real = getattr(os, name)

        def look(path: Any, *args: Any, **named: Any) -> Any:
            if isinstance(path, bytes) and path in errors:
                raise OSError(errors[path], os.strerror(errors[path]), path)
            return real(path, *args, **named)

        monkeypatch.setattr(os, name, look)

    for name in ("lstat", "stat"):
        wrapped(name)
    yield errors


@pytest.mark.parametrize("error", [*ABSENT, *UNKNOWN])
def test_only_three_errors_mean_absent(tmp_path: Path, failing: dict[bytes, int], error: int) -> None:
    """A look at a name that fails otherwise leaves it unknown, with the errno; a directory is not gone then either."""
    root, path = os.fsencode(tmp_path) + b"/", os.fsencode(tmp_path) + b"/page"
    failing[path] = error
    is_known = error in ABSENT
    stat_reader = StatReader(root, Ignore(), Links(root), stable_seconds=0)
    looks = stat_reader.all(Batch((), ((b"", {b"page": MOVED_TO}),), {}), 0)
    assert looks.gone == (["page"] if is_known else [])
    assert looks.unknown == ({} if is_known else {"page": error})
    assert stat_reader.is_gone("page") is is_known
    assert stat_reader.missing("", ["page"]) == (["page"] if is_known else [])
    assert (is_absent(path), is_directory_gone(path)) == (is_known, is_known)


class Entry:
    """A directory entry whose status cannot be read."""

    def __init__(self, entry: os.DirEntry[str], error: int) -> None:
        """Stand for this entry."""
        self.name, self.path, self._error = entry.name, entry.path, error

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return what the directory says."""
        return False

    def is_symlink(self) -> bool:
        """Return what the directory says."""
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Fail."""
        raise OSError(self._error, os.strerror(self._error), self.path)


@pytest.mark.parametrize("error", [*ABSENT, *UNKNOWN])
def test_a_scan_keeps_apart_what_it_could_not_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """One name of a directory fails: the others are compared, and that one is neither there nor gone."""
    for name in ("broken", "page"):
        (tmp_path / name).write_text("x")
    real = os.scandir

    class Entries:
        def __init__(self, directory: int) -> None:
            self._entries = real(directory)

        def __enter__(self) -> Iterator[Any]:
            return (Entry(one, error) if one.name == "broken" else one for one in self._entries)

        def __exit__(self, *_: object) -> None:
            self._entries.close()

    monkeypatch.setattr(os, "scandir", Entries)
    walker = Walker(os.fsencode(tmp_path) + b"/", Ignore(), enter=lambda _: None)
    (listing,) = walker.step(10)
    assert set(listing.files) == {"page"}
    assert listing.unknown == (set() if error in ABSENT else {"broken"})
    assert walker.unread.paths == ({} if error in ABSENT else {"broken": error})
    assert walker.is_unknown("broken/") is (error not in ABSENT)
    assert not walker.is_unknown("other/")


def test_unread_paths_are_bounded() -> None:
    """Many names of one directory are the directory, too many paths are the root; a scan replaces what lies below."""
    unread = Unread()
    for number in range(100):
        unread.note(f"d/{number}", errno.EIO)
    assert len(unread) == 17
    assert unread.covers("d/x/")
    assert unread.directories() == ["d/"]
    fresh = Unread()
    fresh.note("d/e/", errno.EACCES)
    unread.replace("d/", fresh)
    assert unread.paths == {"d/e/": errno.EACCES}
    assert not unread.covers("d/x/")
    for number in range(5000):
        unread.note(f"{number}/", errno.EIO)
    assert "" in unread.paths
    assert len(unread) < 4096


@pytest.mark.parametrize("error", [*ABSENT, *UNKNOWN])
def test_a_listing_ends_where_something_cannot_be_looked_at(
    tmp_path: Path, failing: dict[bytes, int], error: int
) -> None:
    """Left out, it would be taken for gone: the listing fails with the path and what to do."""
    for name in ("broken", "page"):
        (tmp_path / name).write_text("x")
    failing[os.fsencode(tmp_path) + b"/broken"] = error
    listing = TreeListing("www", FilesystemSettings(path=tmp_path))
    if error in ABSENT:
        assert [change.key for change in listing.changes()] == ["page"]
        return
    with pytest.raises(SourceUnavailable, match="broken") as caught:
        list(listing.changes())
    assert caught.value.hint


@pytest.mark.looptime(False)
@pytest.mark.parametrize(("backend", "name"), [("inotify", "d/"), ("polling", "d/"), ("polling", "")])
def test_a_directory_that_may_be_listed_but_not_entered(open_path: Path, backend: str, name: str) -> None:
    """Its files stay known, the source says where and what to do, and goes on; nothing is reported meanwhile."""
    root = open_path / "www"
    for number in range(40):
        path = root / f"{name}{number % 3}" / f"{number}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    closed = root / f"{name}1"
    (open_path / "o").mkdir()
    (open_path / "o").chmod(0o777)
    settings = {"backend": backend, "rescan_interval_seconds": 0.5, "poll_interval_seconds": 0.3, "min_delete_count": 0}
    with running(root, open_path / "o" / "out", *as_nobody(), **settings) as source:
        source.until(lambda: source.health["ready"], "ready")
        closed.chmod(0o444)
        source.until(lambda: source.health["state"] == "degraded", "degraded")
        assert f"{name}1/" in source.health["detail"]
        assert "Permission denied" in source.health["detail"]
        scans = source.health["rescans"]
        source.until(lambda: source.health["rescans"] > scans + 2, "scanned meanwhile")
        assert source.keys("deleted") == set()
        closed.chmod(0o755)
        source.until(lambda: source.health["state"] == "listening", "well again")
        scans = source.health["rescans"]
        source.until(lambda: source.health["rescans"] > scans + 2, "scanned after it")
        assert source.keys("deleted") == source.keys("content") == set()
