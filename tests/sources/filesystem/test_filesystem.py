"""What the filesystem source promises, on real inotify."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind
from listener.contracts import SourceState
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.sources.filesystem.watches import Watches
from tests.sources.harness import MemoryIndex, Reader, fanotify_needed
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)  # the kernel and its threads keep real time

DELETED, SUBTREE_DELETED = ChangeKind.DELETED, ChangeKind.SUBTREE_DELETED


@pytest.fixture(autouse=True, params=["inotify", "fanotify"])
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Let every test that does not choose another be one of this backend."""
    if request.param == "fanotify":
        fanotify_needed(request, tmp_path)
    monkeypatch.setattr(Reader, "backend", request.param)
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a small tree."""
    path = tmp_path / "www"
    (path / "a").mkdir(parents=True)
    for name in ("index.html", "a/one.html", "a/two.html"):
        (path / name).write_text(name)
    return path


async def test_a_first_scan_fills_the_index_and_changes_nothing(root: Path) -> None:
    """A first listing comes as seeds and is marked finished; the source is ready only then."""
    async with Reader(root) as reader:
        assert set(reader.index.rows) == {"index.html", "a/one.html", "a/two.html"}
        assert reader.changes == []
        assert reader.index.is_seeded
        assert all(delivery.seed and delivery.scan_sequence is not None for delivery in reader.deliveries)


async def test_readiness_waits_for_the_commit(root: Path) -> None:
    """As long as the first scan's deliveries are not acknowledged, the source is neither ready nor seeded."""
    index = MemoryIndex()
    source = FilesystemSource("www", FilesystemSettings(path=root))
    deliveries = source.deliveries(index)
    first = await anext(deliveries)
    following = asyncio.ensure_future(anext(deliveries))
    await asyncio.sleep(0.3)
    assert not source.health.ready
    assert not index.is_seeded
    index.apply(first)
    await first.ack()
    async with asyncio.timeout(30):
        while not source.health.ready:
            await asyncio.sleep(0.01)
    assert index.is_seeded
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_change_during_the_first_scan_is_no_seed(root: Path) -> None:
    """What changes after its directory is watched is reported as a change, although the listing still runs."""
    index = MemoryIndex()
    source = FilesystemSource("www", FilesystemSettings(path=root, batch_changes=1))
    seen: list[Change] = []
    touched = False

    async def follow() -> None:
        nonlocal touched
        async for delivery in source.deliveries(index):
            if not touched:
                touched = True
                (root / "index.html").write_text("changed while the first scan runs")
                await asyncio.sleep(0.3)
            index.apply(delivery)
            seen.extend(() if delivery.seed else delivery.changes)
            await delivery.ack()

    task = asyncio.create_task(follow())
    async with asyncio.timeout(30):
        while not any(change.key == "index.html" for change in seen):
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_later_start_reports_what_changed_while_it_was_down(root: Path) -> None:
    """Created, rewritten and deleted files of the downtime are reported with the scan's sequence; the rest is not."""
    async with Reader(root) as reader:
        index = reader.index
    (root / "index.html").write_text("new text")
    (root / "b" / "c").mkdir(parents=True)
    (root / "b" / "c" / "new.html").write_text("new")
    (root / "a" / "one.html").unlink()
    past = time.time() - 100
    for path in (root / "index.html", root / "b/c/new.html"):
        os.utime(path, (past, past))
    async with Reader(root, index) as reader:
        for key, kind in (("index.html", "content"), ("b/c/new.html", "content"), ("a/one.html", "deleted")):
            await reader.until_reported(key, ChangeKind(kind))
        assert {change.key for change in reader.changes} == {"index.html", "b/c/new.html", "a/one.html"}
        deletion = next(each for each in reader.deliveries if each.changes[0].kind is DELETED)
        assert deletion.scan_sequence is not None


async def test_a_rewrite_with_its_old_time_restored_is_reported_after_a_start(root: Path) -> None:
    """``cp -p`` over a file of the same size while nobody listens: only inode and change time tell."""
    async with Reader(root) as reader:
        index = reader.index
    page = root / "index.html"
    status = page.stat()
    page.write_text("INDEX.HTML")
    os.utime(page, ns=(status.st_atime_ns, status.st_mtime_ns))
    async with Reader(root, index) as reader:
        await reader.until_reported("index.html")
        assert {change.key for change in reader.changes} == {"index.html"}


async def test_an_interrupted_seeding_resumes_as_a_seeding(root: Path) -> None:
    """A process that dies during the first listing starts it again, and still reports no change."""
    index = MemoryIndex()
    deliveries = FilesystemSource("www", FilesystemSettings(path=root, batch_changes=1)).deliveries(index)
    first = await anext(deliveries)
    index.apply(first)
    await deliveries.aclose()
    assert not index.is_seeded
    async with Reader(root, index) as reader:
        assert reader.changes == []
        assert len(index.rows) == 3


async def test_a_written_file_is_reported_when_it_is_closed(root: Path) -> None:
    """One finished change with the fingerprint of what was written."""
    async with Reader(root) as reader:
        (root / "new.html").write_text("hello")
        await reader.until_reported("new.html")
        (change,) = reader.of("new.html")
        assert change.fingerprint is not None
        assert change.fingerprint.size_bytes == 5
        assert change.fingerprint.mtime_ns == (root / "new.html").stat().st_mtime_ns


async def test_a_rename_over_a_file_reports_the_final_name_only(root: Path) -> None:
    """As rsync does: the temporary name is never reported, the final one is."""
    async with Reader(root) as reader:
        # Before that, only an event proves that a name is new, and fanotify's merged events may not.
        await reader.until(lambda: reader.source.compares, "changes are compared with the index")
        (root / ".index.html.x4Zq9T").write_text("published")
        (root / ".index.html.x4Zq9T").rename(root / "index.html")
        await reader.until_reported("index.html")
        assert {change.key for change in reader.changes} == {"index.html"}


async def test_a_rename_reports_both_names(root: Path) -> None:
    """The old name is deleted, the new one is content."""
    async with Reader(root) as reader:
        (root / "a/one.html").rename(root / "three.html")
        await reader.until_reported("three.html")
        await reader.until_reported("a/one.html", DELETED)


async def test_links_are_reported_at_once(root: Path) -> None:
    """A hard link (sftp-server publishes so) and symbolic links are finished when they appear."""
    async with Reader(root, stable_seconds=600) as reader:
        os.link(root / "index.html", root / "linked.html")
        (root / "soft.html").symlink_to("index.html")
        await reader.until_reported("linked.html")
        await reader.until_reported("soft.html")


async def test_other_names_are_found_next_to_links_in_a_circle(root: Path) -> None:
    """A link that cannot be resolved, in whatever order the directory is read, ends no search for other names."""
    for number in range(50):
        (root / "a" / f"circle{number}").symlink_to(f"circle{number}")
    async with Reader(root) as reader:
        os.link(root / "a/one.html", root / "linked.html")
        await reader.until_reported("linked.html")
        await asyncio.sleep(1)
        reader.clear()
        (root / "linked.html").write_text("two!")
        await reader.until_reported("linked.html")
        await reader.until_reported("a/one.html")


async def test_a_name_with_two_paths_is_one_name(root: Path) -> None:
    """A link to a directory shows each of its files at another path: that is no other name of the file."""
    (root / "b").mkdir()
    (root / "alias").symlink_to("b")
    async with Reader(root) as reader:
        os.link(root / "a/one.html", root / "b/other.html")
        await reader.until_reported("alias/other.html")
        await asyncio.sleep(1)
        reader.clear()
        (root / "alias/other.html").write_text("two!")
        await reader.until_reported("b/other.html")
        await reader.until_reported("a/one.html")


async def test_a_file_linked_from_an_unnamed_one_is_reported(root: Path) -> None:
    """O_TMPFILE with linkat: the name appears complete, and no close is seen."""
    async with Reader(root) as reader:
        handle = os.open(root, os.O_TMPFILE | os.O_WRONLY, 0o644)
        os.write(handle, b"from nowhere")
        libc = ctypes.CDLL(None, use_errno=True)
        path = os.fsencode(root / "published.html")
        assert libc.linkat(-100, f"/proc/self/fd/{handle}".encode(), -100, path, 0x400) == 0
        os.close(handle)
        await reader.until_reported("published.html")


async def test_a_truncated_file_is_reported(root: Path) -> None:
    """truncate(2) opens and closes nothing."""
    async with Reader(root) as reader:
        os.truncate(root / "index.html", 3)
        await reader.until_reported("index.html")
        change = reader.of("index.html")[-1]
        assert change.fingerprint is not None
        assert change.fingerprint.size_bytes == 3


async def test_a_slow_writer_is_reported_as_unfinished_and_then_as_finished(root: Path) -> None:
    """While somebody writes, the need is opened but held; closing ends it at once."""
    async with Reader(root, stable_seconds=600) as reader:
        with (root / "big.bin").open("wb", buffering=0) as file:
            file.write(b"some")
            await reader.until_reported("big.bin", finished=False)
            assert not reader.reported("big.bin")
            file.write(b"more")
        await reader.until_reported("big.bin")


async def test_a_file_that_rests_counts_as_finished(root: Path) -> None:
    """Nobody closes it, but its size and times rest."""
    async with Reader(root) as reader:
        with (root / "open.bin").open("wb", buffering=0) as file:
            file.write(b"some")
            await reader.until_reported("open.bin")


async def test_a_file_that_is_always_written_to_counts_as_finished_at_the_cap(root: Path) -> None:
    """A log that grows for ever is reported each time the cap is reached."""
    async with Reader(root, stable_seconds=30, unfinished_cap_seconds=1.5) as reader:
        with (root / "log.txt").open("wb", buffering=0) as file:

            async def write() -> None:
                while True:
                    file.write(b"line\n")
                    await asyncio.sleep(0.05)

            writing = asyncio.create_task(write())
            await reader.until(lambda: sum(each.finished for each in reader.of("log.txt")) > 1, "told twice")
            writing.cancel()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_thread_is_noticed_and_made_up_for(root: Path) -> None:
    """The emitter's thread ends without a word: within the check's time all is opened again and scanned."""
    async with Reader(root) as reader:
        watches = reader.source.watcher()
        assert isinstance(watches, Watches)
        watches.feed = lambda _: sys.exit()  # type: ignore[method-assign]
        (root / "unheard.html").write_text("x")
        await reader.until_reported("unheard.html")
        await reader.until(lambda: reader.source.health.ready, "it listens again")
        (root / "heard.html").write_text("x")
        await reader.until_reported("heard.html")


async def test_deleted_and_created_within_a_batch_is_one_change(root: Path) -> None:
    """Delete and create of one name merge to content."""
    async with Reader(root) as reader:
        (root / "index.html").unlink()
        (root / "index.html").write_text("anew")
        await reader.until_reported("index.html")
        assert not reader.reported("index.html", DELETED)


async def test_events_do_not_wait_for_others_after_paths_without_one(root: Path) -> None:
    """Names of events that are pending when other paths are looked at are taken in the same round."""
    async with Reader(root, root_check_seconds=60) as reader:
        live = reader.source._session._live  # type: ignore[union-attr]
        (root / "a" / "one.html").write_text("other")
        end = time.monotonic() + 15
        while not live.watcher.pending and time.monotonic() < end:
            time.sleep(0.01)  # nothing may take them meanwhile
        live.look_at([b"absent.html"])
        await reader.until(lambda: reader.of("a/one.html"), "the change is reported", seconds=30)


async def test_a_directory_made_during_a_burst_loses_nothing(root: Path) -> None:
    """Deep directories made and filled at full speed: every file is reported."""
    expected = set()
    async with Reader(root) as reader:
        for number in range(200):
            directory = root / f"n{number % 10}" / f"m{number}" / "k"
            directory.mkdir(parents=True)
            for name in ("1", "2", "3"):
                (directory / name).write_text(name)
                expected.add(str((directory / name).relative_to(root)))
        await reader.until(lambda: expected <= {c.key for c in reader.changes if c.finished}, "all are told")


async def test_a_renamed_directory_is_one_subtree_gone_and_every_file_new(root: Path) -> None:
    """The old name goes as one change, the new one is listed; later changes come under the new name."""
    (root / "a" / "deep").mkdir()
    (root / "a" / "deep" / "x.html").write_text("x")
    async with Reader(root) as reader:
        (root / "a").rename(root / "b")
        for key in ("b/one.html", "b/two.html", "b/deep/x.html"):
            await reader.until_reported(key)
        await reader.until_reported("a/", SUBTREE_DELETED)
        assert [change.key for change in reader.changes if change.kind is SUBTREE_DELETED] == ["a/"]
        reader.clear()
        (root / "b" / "deep" / "x.html").write_text("later")
        await reader.until_reported("b/deep/x.html")
        await reader.until_in_sync(root)


async def test_a_directory_moved_out_is_gone_and_no_longer_watched(root: Path, tmp_path: Path) -> None:
    """One subtree change; what is written to it outside is nobody's business; moved back, all is reported."""
    async with Reader(root) as reader:
        (root / "a").rename(tmp_path / "out")
        await reader.until_reported("a/", SUBTREE_DELETED)
        await reader.until(lambda: reader.source.watcher().count == 1, "its watches are given back")
        reader.clear()
        (tmp_path / "out" / "ghost.html").write_text("outside")
        (root / "mark").write_text("")
        await reader.until_reported("mark")
        assert {change.key for change in reader.changes} == {"mark"}
        (tmp_path / "out").rename(root / "back")
        for name in ("one.html", "two.html", "ghost.html"):
            await reader.until_reported(f"back/{name}")
        reader.clear()
        (root / "back" / "later.html").write_text("heard again")
        await reader.until_reported("back/later.html")


async def test_a_deleted_subtree_is_one_change(root: Path) -> None:
    """An rmtree ends in one change for the directory; the index no longer holds what was below."""
    async with Reader(root) as reader:
        shutil.rmtree(root / "a")
        await reader.until_reported("a/", SUBTREE_DELETED)
        assert set(reader.index.rows) == {"index.html"}


async def test_a_directory_replaced_at_once_ends_with_the_new_files(root: Path) -> None:
    """Removed and made again under one name: what went is gone, what came is there."""
    fill(root, 200)
    async with Reader(root) as reader:
        shutil.rmtree(root / "a")
        (root / "a").mkdir()
        (root / "a" / "new.html").write_text("new")
        await reader.until_reported("a/new.html")
        await reader.until_in_sync(root)


async def test_directories_swapped_by_renames_end_with_the_new_files(root: Path, tmp_path: Path) -> None:
    """A publisher's way: the old tree is renamed away, the new one in its place, at once; the index ends true."""
    fill(root, 200)
    shutil.copytree(root / "a", tmp_path / "next")
    (tmp_path / "next" / "one.html").write_text("changed")
    (tmp_path / "next" / "two.html").unlink()
    async with Reader(root) as reader:
        (root / "a").rename(root / "old")
        (tmp_path / "next").rename(root / "a")
        for key in ("a/one.html", "old/one.html"):
            await reader.until_reported(key)
        await reader.until_reported("a/two.html", DELETED)
        await reader.until_in_sync(root)


async def test_a_deleted_file_is_reported(root: Path) -> None:
    """So that a cache learns the 404."""
    async with Reader(root) as reader:
        (root / "a/one.html").unlink()
        await reader.until_reported("a/one.html", DELETED)


async def test_a_deleted_file_that_is_still_written_to_is_reported_once(root: Path) -> None:
    """Its end is reported when it goes; what is written to it later, nobody can fetch."""
    async with Reader(root) as reader:
        with (root / "index.html").open("ab", buffering=0) as file:
            (root / "index.html").unlink()
            await reader.until_reported("index.html", DELETED)
            reader.clear()
            for _ in range(20):
                file.write(b"more")
            (root / "mark").write_text("")
            await reader.until_reported("mark")
            assert {change.key for change in reader.changes} == {"mark"}


async def test_names_of_any_bytes_are_reported_as_they_are(root: Path) -> None:
    """UTF-8 is decoded, other bytes stand as surrogates; nothing is normalised."""
    names = [b"a b", "日本.jpg".encode(), b"e\xcc\x81", b"\xff\xfe", b"line\nbreak", b"?x#y%41"]
    async with Reader(root) as reader:
        for name in names:
            with open(os.fsencode(root) + b"/" + name, "w") as file:
                file.write("x")
        for name in names:
            await reader.until_reported(name.decode("utf-8", "surrogateescape"))


async def test_ignored_names_are_counted_and_not_reported(root: Path) -> None:
    """What the setting lists is no content; every other name is, whatever it looks like."""
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("ref")
    (root / "old.bak").write_text("x")
    async with Reader(root, ignore=(".git/", "*.bak", "cache/", "build/tmp/**")) as reader:
        assert reader.source.health.figures["ignored_paths"] == 2
        (root / "w.bak").write_text("x")
        for directory in (".git", "cache", "a/cache", "build/tmp", ".well-known", "posts/4913", "movie.part"):
            (root / directory).mkdir(parents=True, exist_ok=True)
            (root / directory / "f").write_text("x")
        expected = {".well-known/f", "posts/4913/f", "movie.part/f", "x.part", "4913", "y~", "#z#", ".b.html.Ab12Cd"}
        for name in sorted(expected):
            (root / name).write_text("x")
        for key in expected:
            await reader.until_reported(key)
        assert {change.key for change in reader.changes} == expected
        await reader.until(lambda: reader.source.health.figures["ignored_changes"] >= 1, "counted")
        found = set(reader.source.ignored())
        assert found == {
            (".git/", ".git/"), ("old.bak", "*.bak"), ("w.bak", "*.bak"), ("cache/", "cache/"),
            ("a/cache/", "cache/"), ("build/tmp/", "build/tmp/**"),
        }  # fmt: skip
        (check,) = [one for one in await reader.source.check() if one.subject == "sources.www.ignore"]
        assert "6 paths are ignored" in check.message


async def test_a_link_to_a_directory_is_ignored_by_its_name(root: Path, tmp_path: Path) -> None:
    """``name/`` leaves out a link of that name with all behind it, found by a scan or received."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_text("x")
    (root / "current").symlink_to(tmp_path / "outside")
    async with Reader(root, ignore=("current/",)) as reader:
        assert not any(key.startswith("current") for key in reader.index.rows)
        (root / "next").symlink_to(tmp_path / "outside")
        (root / "next").rename(root / "current")
        (root / "mark").write_text("x")
        await reader.until_reported("mark")
        await asyncio.sleep(1)
        assert {change.key for change in reader.changes} == {"mark"}


@pytest.mark.parametrize("kind", ["missing", "file", "unreadable"])
async def test_a_path_that_cannot_be_read_yet_is_waited_for(root: Path, kind: str) -> None:
    """The check fails with a remedy; deliveries wait, degraded, with the key and the remedy, and then go on."""
    path = {"missing": root / "none", "file": root / "index.html", "unreadable": root / "a"}[kind]
    if kind == "unreadable":
        path.chmod(0)
        os.seteuid(65534)
    try:
        source = FilesystemSource("www", FilesystemSettings(path=path, root_check_seconds=0.02))
        (check,) = await source.check()
        assert check.state == "failed"
        assert check.hint
        deliveries = source.deliveries(MemoryIndex())
        first = asyncio.ensure_future(anext(deliveries))
        await until(lambda: source.health.detail)
        assert (source.health.state, source.health.ready) == (SourceState.DEGRADED, False)
        assert "sources.www.path" in source.health.detail
        assert check.hint in source.health.detail
        os.seteuid(os.getuid())
        if kind == "unreadable":
            path.chmod(0o755)
        else:
            path.unlink(missing_ok=True)
            path.mkdir()
        (path / "later.html").write_text("x")
        delivery = await asyncio.wait_for(first, 20)
        assert "later.html" in {change.key for change in delivery.changes}
        assert source.health.detail == ""
        await deliveries.aclose()
    finally:
        os.seteuid(os.getuid())


def fill(root: Path, files: int) -> None:
    """Add so many files in ten directories."""
    for number in range(files):
        directory = root / f"d{number % 10}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}.html").write_text("x")


def empty(root: Path) -> None:
    """Delete everything below the root, one after the other."""
    for path in list(root.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def deletions(reader: Reader) -> list[Change]:
    """Return what was reported as gone."""
    return [change for change in reader.changes if change.kind in (DELETED, SUBTREE_DELETED)]


async def test_an_emptied_root_is_not_believed(root: Path) -> None:
    """Everything gone at once: none of it is reported, the state says why, and the return mends it."""
    fill(root, 200)
    async with Reader(root, min_delete_count=5) as reader:
        empty(root)
        await reader.until(lambda: "nothing is taken for deleted" in reader.source.health.detail, "it is said")
        assert deletions(reader) == []
        fill(root, 150)
        await reader.until(lambda: not reader.source.health.detail, "all is well again", seconds=30)


async def test_an_operator_may_confirm(root: Path) -> None:
    """Confirmed, the deletions are reported."""
    fill(root, 200)
    async with Reader(root, min_delete_count=5) as reader:
        empty(root)
        await reader.until(lambda: reader.source.health.detail, "it is said")
        reader.source.confirm_deletions()
        await reader.until(lambda: not reader.index.rows, "the index is empty")


async def test_the_deletion_guard_counts_the_files_that_came_since_the_last_scan(root: Path) -> None:
    """A directory that is a small part of a tree that has grown goes at once, and one that is most of it does not."""
    async with Reader(root, min_delete_count=5, rescan_interval_seconds=0) as reader:
        await reader.until_compared()
        for number in range(120):
            path = root / "new" / f"{number % 4}" / f"{number}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("new")
        await reader.until(lambda: len(reader.index.rows) >= 120, "all are known")
        shutil.rmtree(root / "new" / "0")
        await reader.until_in_sync(root)
        assert not reader.source.health.detail
        for number in "12":
            shutil.rmtree(root / "new" / number)
        await reader.until(lambda: "nothing is taken for deleted" in reader.source.health.detail, "it is reported")


@pytest.mark.parametrize("is_files_first", [False, True])
async def test_the_deletion_guard_counts_a_file_of_nested_directories_once(root: Path, is_files_first: bool) -> None:
    """Half of the files, removed with three directories around them, are no more than half."""
    empty(root)
    for number in range(20):
        path = root / ("a/b/c" if number % 2 else "kept") / f"{number}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    async with Reader(root, min_delete_count=3) as reader:
        if is_files_first:
            for path in (root / "a" / "b" / "c").iterdir():
                path.unlink()
            await asyncio.sleep(0.3)  # their deletions are held
        shutil.rmtree(root / "a")
        await reader.until_in_sync(root)
        assert not reader.source.health.detail
        assert reader.source.health.rescans == 0


async def test_deletions_that_passed_count_with_those_that_follow(root: Path) -> None:
    """Few go at once; many more within seconds are judged together with them, so that a scan is to confirm them."""
    empty(root)
    for number in range(40):
        path = root / f"{number % 8}" / f"{number}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    async with Reader(root, min_delete_count=5) as reader:
        shutil.rmtree(root / "0")
        await reader.until(lambda: len(reader.index.rows) == 35, "a few pass")
        for number in "123":
            shutil.rmtree(root / number)
        for name in ("4/4.html", "4/12.html"):
            (root / name).unlink()
        await reader.until_in_sync(root)
        await reader.until(lambda: reader.source.health.rescans, "the scan ends")
        assert reader.source.health.rescans == 1


async def test_none_of_a_burst_is_reported_before_it_is_judged(root: Path) -> None:
    """However the kernel reports it: in bits, with pauses, and with more after it was held back."""
    fill(root, 300)
    async with Reader(root, min_delete_count=20) as reader:
        files = sorted(path for path in root.rglob("*.html"))
        for number, path in enumerate(files[:200]):
            path.unlink()
            if number % 10 == 0:
                await asyncio.sleep(0.06)
        await reader.until(lambda: reader.source.health.figures["held_deletions"] == 200, "all are held back")
        files[200].unlink()
        (root / "later.html").write_text("new")
        await reader.until_reported("later.html")
        await asyncio.sleep(2.5)  # the deletion of one more file would have been judged by itself
        assert deletions(reader) == []
        assert "confirm-deletions" in reader.source.health.detail
        reader.source.confirm_deletions()
        await reader.until_in_sync(root)
        assert reader.source.health.figures["held_deletions"] == 0


@pytest.mark.parametrize("how", ["renamed", "deleted"])
async def test_a_root_that_goes_away_deletes_nothing(root: Path, tmp_path: Path, how: str) -> None:
    """The source says so, waits, and reports only real differences when the root is back."""
    fill(root, 200)
    async with Reader(root, min_delete_count=5) as reader:
        shutil.copytree(root, tmp_path / "kept", copy_function=shutil.copy2)
        root.rename(tmp_path / "away") if how == "renamed" else shutil.rmtree(root)
        await reader.until(lambda: reader.source.health.state == "degraded", "it is said")
        assert not reader.source.health.ready
        assert deletions(reader) == []
        (tmp_path / "kept" / "a" / "one.html").unlink()
        (tmp_path / "kept").rename(root)
        await reader.until_reported("a/one.html", DELETED)
        await reader.until(lambda: reader.source.health.ready, "it is ready again")
        reader.clear()
        (root / "later.html").write_text("heard")
        await reader.until_reported("later.html")


async def test_a_root_that_is_replaced_by_an_almost_empty_one_deletes_nothing(root: Path, tmp_path: Path) -> None:
    """Swapped at once, so that the path is never absent: nothing is reported as deleted; swapped back, all is well."""
    fill(root, 200)
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "index.html").write_text("another site's")
    async with Reader(root, min_delete_count=5) as reader:
        root.rename(tmp_path / "away")
        (tmp_path / "next").rename(root)
        await reader.until(lambda: "nothing is taken for deleted" in reader.source.health.detail, "it is said", 40)
        assert deletions(reader) == []
        root.rename(tmp_path / "next")
        (tmp_path / "away").rename(root)
        await reader.until(lambda: not reader.source.health.detail and reader.source.health.ready, "all is well", 40)
        (root / "later.html").write_text("heard")
        await reader.until_reported("later.html")
        await reader.until_in_sync(root)
