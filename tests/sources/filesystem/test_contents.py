"""Equality is proved or there is none: digests within bounds, who may read, and what is never opened."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Delivery
from listener.files import guard
from listener.sources.filesystem import FilesystemSettings, known
from listener.sources.filesystem.known import Acks, Digests, digest_of, with_digest
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.names import Ignore, fingerprint_of
from listener.sources.filesystem.settings import Root
from listener.store import open_store
from tests.sources.harness import MemoryIndex, Reader, fanotify_needed

MOST = 1 << 20


def state(path: Path) -> Fingerprint:
    """Return a path's fingerprint, links followed."""
    return fingerprint_of(path.stat())


def digest(path: Path, expected: Fingerprint | None = None, most_bytes: int = MOST) -> str | None:
    """Return the digest of a path, as it is expected to be."""
    return digest_of(os.fsencode(path), expected or state(path), most_bytes=most_bytes)


def test_a_digest_is_of_all_bytes(tmp_path: Path) -> None:
    """Equal bytes give equal digests, one other byte another; an empty file has one too; a link is followed."""
    texts = {"a": b"x" * 200_000, "b": b"x" * 200_000, "c": b"x" * 199_999 + b"y", "empty": b""}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "link").symlink_to("a")
    found = {name: digest(tmp_path / name) for name in (*texts, "link")}
    assert found["a"] == found["b"] == found["link"]
    assert len({*found.values()} - {None}) == 3


@pytest.mark.parametrize("kind", ["fifo", "null", "zero", "directory", "socket"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    """A pipe that nobody writes to would block for ever, a device would never end; a swap of the path too."""
    path, page = tmp_path / "path", tmp_path / "page"
    page.write_text("x")
    expected = state(page)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, 0o140600)
    else:
        path.symlink_to(f"/dev/{kind}")
    began = time.monotonic()
    assert digest(path, expected) is None
    assert digest(path) is None
    assert time.monotonic() - began < 5  # reading gives up after ten seconds


def test_a_huge_sparse_file_is_not_read(tmp_path: Path) -> None:
    """Eight TiB of nothing: larger than the bound, so that it proves nothing, and costs nothing."""
    path = tmp_path / "sparse"
    path.touch()
    try:
        os.truncate(path, 8 << 40)
    except OSError:
        os.truncate(path, 1 << 40)
    began = time.monotonic()
    assert digest(path) is None
    assert time.monotonic() - began < 5  # reading gives up after ten seconds


def test_a_file_that_takes_too_long_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded in time as well: what was read so far is no digest."""
    (tmp_path / "slow").write_bytes(b"x" * 3_000_000)
    assert digest(tmp_path / "slow", most_bytes=1 << 30)
    monkeypatch.setattr("listener.sources.filesystem.known._LONGEST_READ_SECONDS", -1.0)
    assert digest(tmp_path / "slow", most_bytes=1 << 30) is None


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_file_that_changes_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """A digest of a mixture of two states must never be kept."""
    page = tmp_path / "page"
    page.write_text("one")
    expected = state(page)

    def change() -> None:
        page.write_text("two")
        os.utime(page, ns=(expected.mtime_ns or 0, expected.mtime_ns or 0))

    if when == "before":
        time.sleep(0.02)
        change()
    else:
        real = os.read

        def reading(descriptor: int, size: int) -> bytes:
            found = real(descriptor, size)
            time.sleep(0.02)
            change()
            return found

        monkeypatch.setattr(os, "read", reading)
    assert digest(page, expected) is None


def test_state_files_are_never_opened(tmp_path: Path) -> None:
    """Through a link, a hard link or by their own names: a lock that this process holds on them stays."""
    path = tmp_path / "state.db"
    (tmp_path / "www").mkdir()
    guard(path)
    names = ["state.db", "state.db-wal", "state.db-shm", "state.db-journal", "state.db.lock"]
    check = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    for name in names:
        file = tmp_path / name
        file.write_text("x")
        (tmp_path / "www" / f"soft {name}").symlink_to(file)
        os.link(file, tmp_path / "www" / f"hard {name}")
        with file.open("r+") as held:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for other in (file, tmp_path / "www" / f"soft {name}", tmp_path / "www" / f"hard {name}"):
                assert digest(other) is None
            command = [sys.executable, "-c", check, str(file)]
            assert subprocess.run(command, check=False, capture_output=True).returncode != 0


async def test_an_open_store_is_guarded(tmp_path: Path) -> None:
    """Every file of a store that is open, whichever part opened it."""
    async with open_store(f"sqlite:///{tmp_path}/s.db", owner=True) as store:
        await store.sequence()
        names = sorted(path.name for path in tmp_path.iterdir())
        assert {"s.db", "s.db-wal", "s.db-shm"} <= set(names)
        assert [digest(tmp_path / name) for name in names] == [None] * len(names)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    assert digest(tmp_path / "other.db")


def test_only_what_may_prove_something_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a new file, one of another size, one that is not known by a digest, nor one for other readers."""
    read: list[bytes] = []
    monkeypatch.setattr("listener.sources.filesystem.known.digest_of", lambda path, *_, **__: read.append(path))
    now = Fingerprint(1, 2, 2, 2, None, 0)
    known = Fingerprint(1, 1, 1, 1, "digest", 0)
    for before in (None, known._replace(size_bytes=2), known._replace(etag=None), known._replace(access=1), now):
        with_digest(b"/", "k", now, before, most_bytes=MOST)
    with_digest(b"/", "k", now, known, most_bytes=-1)
    assert read == []
    with_digest(b"/", "k", now, known, most_bytes=MOST)
    assert read == [b"/k"]


@pytest.fixture(params=["inotify", "fanotify"])
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Let readers be of each backend."""
    if request.param == "fanotify":
        fanotify_needed(request, tmp_path)
    monkeypatch.setattr(Reader, "backend", request.param)
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a small tree that everybody may read."""
    path = tmp_path / "www"
    (path / "a" / "b").mkdir(parents=True)
    for each in (path, path / "a", path / "a" / "b"):
        each.chmod(0o755)
    for name in ("index.html", "a/one.html", "a/b/two.html"):
        (path / name).write_text(name)
        (path / name).chmod(0o644)
    return path


FILE_CHANGES = [("index.html", 0o600), ("index.html", 0o000), ("index.html", 0o640)]
DIRECTORY_CHANGES = [("a", 0o700), ("a/b", 0o750), ("a", 0o744)]


@pytest.mark.looptime(False)
@pytest.mark.parametrize(("name", "mode"), [*FILE_CHANGES, *DIRECTORY_CHANGES])
async def test_a_change_of_who_may_read_is_reported(root: Path, backend: str, name: str, mode: int) -> None:
    """Taken away and given back: each file that it is about is reported both times, and nothing else."""
    expected = {str(path.relative_to(root)) for path in (root / name).rglob("*.html")} or {name}
    before = (root / name).stat().st_mode & 0o777
    async with Reader(root) as reader:
        await reader.until_compared()
        for new in (mode, before):
            reader.clear()
            (root / name).chmod(new)
            await reader.until(lambda: {each.key for each in reader.changes} == expected, "reported")
        assert all(each.kind is ChangeKind.CONTENT for each in reader.changes)


@pytest.mark.looptime(False)
@pytest.mark.parametrize(("name", "mode"), [FILE_CHANGES[0], *DIRECTORY_CHANGES[:2]])
async def test_who_may_read_is_a_change_after_a_start(root: Path, name: str, mode: int) -> None:
    """The same while nobody listens, and by scans that poll."""
    expected = {str(path.relative_to(root)) for path in (root / name).rglob("*.html")} or {name}
    async with Reader(root) as reader:
        await reader.until_compared()
        index = reader.index
    (root / name).chmod(mode)
    async with Reader(root, index) as reader:
        await reader.until(lambda: {each.key for each in reader.changes} == expected, "reported")
    async with Reader(root, index, backend="polling", poll_interval_seconds=0.2) as reader:
        assert reader.changes == []
        (root / name).chmod(0o755)
        await reader.until(lambda: {each.key for each in reader.changes} == expected, "reported")


@pytest.mark.looptime(False)
async def test_what_lets_nobody_in_or_out_is_no_change(root: Path, backend: str) -> None:
    """Group write, an owner where everybody may read, times, another link: the index follows, nothing is reported."""
    async with Reader(root) as reader:
        await reader.until_compared()
        (root / "index.html").chmod(0o664)
        (root / "a").chmod(0o775)
        os.utime(root / "a/one.html", (1, 1))
        os.utime(root / "a", (1, 1))
        if not os.geteuid():
            os.chown(root / "a/b/two.html", 1, 1)
        (root / "mark").write_text("x")
        await reader.until_reported("mark")
        await reader.until(lambda: reader.index.rows["index.html"][0][:4] == state(root / "index.html")[:4], "learnt")
        await reader.until(lambda: reader.index.rows["a/one.html"][0].mtime_ns == 10**9, "learnt")
        assert {each.key for each in reader.changes} == {"mark"}


@pytest.mark.looptime(False)
async def test_the_same_size_and_time_are_no_equality(tmp_path: Path) -> None:
    """Reproducible builds: files of one size and time behind a link outside; only a scan finds the switch."""
    outside, root = tmp_path / "outside", tmp_path / "www"
    for number in ("1", "2"):
        (outside / number).mkdir(parents=True)
        for name, text in (("index.html", f"version {number}"), ("same.html", "same")):
            (outside / number / name).write_text(text)
            os.utime(outside / number / name, (1, 1))
    (outside / "current").symlink_to("1")
    root.mkdir()
    (root / "site").symlink_to(outside / "current")
    async with Reader(root, rescan_interval_seconds=0.5) as reader:
        await reader.until_compared()
        (outside / "next").symlink_to("2")
        (outside / "next").rename(outside / "current")
        await reader.until_reported("site/index.html")
        assert {each.key for each in reader.changes} == {"site/index.html"}


@pytest.mark.looptime(False)
async def test_what_is_larger_than_the_bound_counts_as_changed(tmp_path: Path) -> None:
    """Of equal files that are replaced, the one that is not read is reported, the other not."""
    for name in ("large", "small"):
        (tmp_path / name).write_text("x" * (100 if name == "large" else 10))
    async with Reader(tmp_path, hash_max_bytes=50) as reader:
        await reader.until(lambda: reader.index.rows["small"][0].etag, "digest")
        for name in ("large", "small"):
            shutil.copy2(tmp_path / name, tmp_path / ".new")
            (tmp_path / ".new").rename(tmp_path / name)
        await reader.until_reported("large")
        await reader.until(lambda: reader.source.health.figures["skipped_unchanged"] == 1, "skipped")
        assert {each.key for each in reader.changes if not each.key.startswith(".")} == {"large"}
        assert reader.index.rows["large"][0].etag is None


@pytest.mark.looptime(False)
async def test_release_after_release_costs_what_differs(tmp_path: Path) -> None:
    """By default, the first after the installation and each later one: copied whole, switched by a link."""
    (tmp_path / "1").mkdir()
    for number in range(300):
        (tmp_path / "1" / f"{number}.html").write_text(f"page {number}")
    (tmp_path / "current").symlink_to("1")
    async with Reader(tmp_path / "current") as reader:
        for release in range(2, 5):
            await reader.until_compared()
            reader.clear()
            shutil.copytree(tmp_path / str(release - 1), tmp_path / str(release), copy_function=shutil.copy2)
            changed = {f"{release}.html", f"{release * 7}.html"}
            for name in changed:
                (tmp_path / str(release) / name).write_text(f"release {release}")
            (tmp_path / "next").symlink_to(str(release))
            (tmp_path / "next").rename(tmp_path / "current")
            await reader.until(lambda: changed <= {each.key for each in reader.changes}, "reported")  # noqa: B023
            await reader.until(lambda: reader.source.health.ready, "ready")
            assert {each.key for each in reader.changes} == changed


@pytest.mark.looptime(False)
async def test_digests_are_of_what_the_index_knows(tmp_path: Path) -> None:
    """A file that changed while it waited for its digest is not given one of other bytes; nor is one that went."""
    for number in range(50):
        (tmp_path / f"{number}.html").write_text("one")
    index = MemoryIndex()
    async with Reader(tmp_path, index) as reader:
        (tmp_path / "3.html").write_text("two")
        (tmp_path / "4.html").unlink()
        await reader.until_reported("3.html")
        await reader.until_reported("4.html", ChangeKind.DELETED)
        await reader.until_compared()
        digests = {key: found.etag for key, (found, _) in index.rows.items()}
        assert "4.html" not in digests
        assert digests["3.html"] == digest(tmp_path / "3.html") != digests["5.html"] == digest(tmp_path / "5.html")


@pytest.mark.parametrize(("number", "times"), [(3, 100), (12, 5)])
async def test_a_burst_beyond_the_bound_is_read_from_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, times: int
) -> None:
    """Many changes of few files do not count; beyond so many files the whole index is asked."""
    monkeypatch.setattr(known, "_MOST_WANTED", 10)
    index, path = MemoryIndex(), os.fsencode(tmp_path) + b"/"
    for each in range(number):
        (tmp_path / f"{each}").write_text("x")
    changes = [Change("www", f"{each}", fingerprint=state(tmp_path / f"{each}")) for each in range(number)]
    index.apply(Delivery(changes, acknowledged))
    root = Root("www", path, FilesystemSettings(path=tmp_path), Ignore(), Links(path), index)
    digests = Digests(root, Acks(on_ack=lambda: None))
    for change in changes * times:
        digests.note([change], now=0.0)
        assert len(digests._wanted) <= 20
    assert digests._again is (number > 10)
    found: list[str] = []
    while digests._is_busy or digests._rows:
        digests._due = 0.0
        async for delivery in digests.deliveries():
            index.apply(delivery)
            found += [change.key for change in delivery.changes]
    assert sorted(found, key=int) == [f"{each}" for each in range(number)]


async def acknowledged() -> None:
    """Acknowledge nothing."""
