"""Releases that are switched, volumes that are swapped, rebuilds that change little."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from listener.change import ChangeKind
from listener.contracts import WAITING_SINCE, Delivery, SourceState
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.sources.filesystem.source import Session
from tests.sources.filesystem.test_limits import running
from tests.sources.harness import MemoryIndex, Reader

pytestmark = pytest.mark.looptime(False)


def release(path: Path, files: int = 40, **changed: str) -> Path:
    """Write a release: so many files in four directories, some of them with a text of their own."""
    for number in range(files):
        file = path / f"d{number % 4}" / f"{number}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(changed.get(f"f{number}", f"page {number}"))
    return path


async def test_a_switched_release_reports_only_real_differences(tmp_path: Path) -> None:
    """The root is a symbolic link; after the switch only what has other bytes, or is gone or new, is reported."""
    release(tmp_path / "releases" / "1")
    second = release(tmp_path / "releases" / "2", f7="new text", f9="page X")
    (second / "d1" / "1.html").unlink()
    (second / "d1" / "new.html").write_text("new")
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    async with Reader(current, skip_unchanged="content") as reader:
        await reader.until_compared()
        (tmp_path / "next").symlink_to("releases/2")
        (tmp_path / "next").rename(current)
        expected = {"d3/7.html", "d1/9.html", "d1/1.html", "d1/new.html"}
        await reader.until(lambda: expected <= {each.key for each in reader.changes}, "the differences are told")
        await reader.until(lambda: reader.source.health.ready, "it listens to the new release")
        assert {each.key for each in reader.changes} == expected
        (current / "d0" / "0.html").write_text("later")
        await reader.until_reported("d0/0.html")


async def test_a_source_that_reopens_its_root_does_not_report_that_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks between the loss of the old root and the scan of the new one sees a state that fits."""
    release(tmp_path / "releases" / "1")
    release(tmp_path / "releases" / "2", f7="new text")
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    seen: list[tuple[bool, SourceState]] = []
    close, figures, mark = Session._close, Session._figures, Session._mark_seeded
    is_late = False

    async def watched(session: Session) -> None:
        seen.append((session._health.ready, session._health.state))
        await close(session)

    async def late(session: Session) -> None:
        """Find at first that what the scan delivered is not durable yet."""
        nonlocal is_late
        if session._is_first and not is_late:
            is_late = True
            return
        await mark(session)

    def following(session: Session) -> None:
        seen.append((session._health.ready, session._health.state))
        figures(session)

    async with Reader(current, skip_unchanged="content") as reader:
        await reader.until_compared()
        monkeypatch.setattr(Session, "_close", watched)
        monkeypatch.setattr(Session, "_figures", following)
        monkeypatch.setattr(Session, "_mark_seeded", late)
        (tmp_path / "next").symlink_to("releases/2")
        (tmp_path / "next").rename(current)
        await reader.until_reported("d3/7.html")
        await reader.until(lambda: reader.source.health.ready, "it listens to the new release")
        await reader.until(lambda: seen[-1] == (True, SourceState.LISTENING), "and reports it")
    assert (False, SourceState.SCANNING) in seen
    assert (False, SourceState.LISTENING) not in seen


async def test_a_switched_release_is_stale_since_the_switch(tmp_path: Path) -> None:
    """Its files may have been written long before: until the switch the old ones were served."""
    release(tmp_path / "releases" / "1")
    release(tmp_path / "releases" / "2", f7="new text")
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    async with Reader(current, skip_unchanged="content") as reader:
        await reader.until_compared()
        await asyncio.sleep(1.5)
        (tmp_path / "next").symlink_to("releases/2")
        switched_at = time.time()
        (tmp_path / "next").rename(current)
        await reader.until_reported("d3/7.html")
        (change,) = [one for one in reader.changes if one.key == "d3/7.html"]
    assert change.event_time is not None
    assert switched_at - 1.0 < change.event_time <= time.time()


async def test_a_switch_without_hashes_reports_everything(tmp_path: Path) -> None:
    """Times alone do not prove that bytes are the same: without hashes all of the new release counts as changed."""
    release(tmp_path / "1")
    release(tmp_path / "2")
    (tmp_path / "current").symlink_to("1")
    async with Reader(tmp_path / "current", skip_unchanged="never") as reader:
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(tmp_path / "current")
        await reader.until(lambda: len({each.key for each in reader.changes}) == 40, "all are told")


async def test_a_kubernetes_volume_that_is_updated_reports_its_keys(tmp_path: Path) -> None:
    """``..data`` is renamed over: what lies behind it is reported where its bytes differ, and no ``..`` key ever is."""
    root = tmp_path / "volume"
    release(root / "..2026_01_01", files=8)
    (root / "..2026_01_01" / "index.html").write_text("old")
    (root / "..data").symlink_to("..2026_01_01")
    for name in ("index.html", "d0", "d1", "d2", "d3"):
        (root / name).symlink_to(f"..data/{name}")
    async with Reader(root, skip_unchanged="content") as reader:
        assert {"index.html", "d0/0.html", "d3/7.html"} <= set(reader.index.rows)
        await reader.until_compared()
        release(root / "..2026_02_02", files=8, f7="new text")
        (root / "..2026_02_02" / "index.html").write_text("new")
        (root / "..data_tmp").symlink_to("..2026_02_02")
        (root / "..data_tmp").rename(root / "..data")
        shutil.rmtree(root / "..2026_01_01")
        await reader.until_reported("index.html")
        await reader.until_reported("d3/7.html")
        await asyncio.sleep(1)
        assert {each.key for each in reader.changes} == {"index.html", "d3/7.html"}
        reader.clear()
        (root / "d0" / "0.html").write_text("written through the link")
        await reader.until_reported("d0/0.html")


async def test_a_file_with_several_names_changes_under_all(tmp_path: Path) -> None:
    """Hard and symbolic links, also links of links: writing under one name reports all; losing the target too."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("one")
    os.link(tmp_path / "a" / "file", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("a/file")
    (tmp_path / "softer").symlink_to("soft")
    async with Reader(tmp_path) as reader:
        (tmp_path / "a" / "file").write_text("two")
        for key in ("a/file", "hard", "soft", "softer"):
            await reader.until_reported(key)
        reader.clear()
        (tmp_path / "a").rename(tmp_path / "b")
        for key in ("soft", "softer"):
            await reader.until_reported(key, ChangeKind.DELETED)


async def test_directories_behind_links_belong_to_the_tree_and_loops_end(tmp_path: Path) -> None:
    """What is behind a link is listed and listened to; a link to a directory above is not followed."""
    outside, root = tmp_path / "outside", tmp_path / "www"
    release(outside, files=4)
    root.mkdir()
    (root / "shared").symlink_to(outside)
    (root / "loop").symlink_to(".")
    (root / "up").symlink_to("..")
    (outside / "back").symlink_to(root)
    async with Reader(root) as reader:
        assert set(reader.index.rows) == {f"shared/d{n}/{n}.html" for n in range(4)}
        (outside / "d1" / "1.html").write_text("changed outside")
        await reader.until_reported("shared/d1/1.html")
        reader.clear()
        (root / "late").symlink_to(outside / "d2")
        await reader.until_reported("late/2.html")
        (root / "shared").unlink()
        await reader.until_reported("shared/", ChangeKind.SUBTREE_DELETED)
        await reader.until(lambda: set(reader.index.rows) == {"late/2.html"}, "the index follows")


@pytest.mark.parametrize("how", ["in place", "renamed"])
async def test_a_rebuild_that_changes_twelve_files_reports_twelve(tmp_path: Path, how: str) -> None:
    """Every file is written again, twelve have other bytes; the index learns all new times, so a scan finds nothing."""
    release(tmp_path, files=400)
    async with Reader(tmp_path, skip_unchanged="always" if how == "in place" else "content") as reader:
        await reader.until_compared()
        changed = {f"f{number}": "other" for number in range(12)}
        if how == "in place":
            release(tmp_path, files=400, **changed)
        else:
            release(tmp_path / ".~tmp~", files=400, **changed)
            for path in sorted((tmp_path / ".~tmp~").rglob("*.html")):
                path.rename(tmp_path / path.relative_to(tmp_path / ".~tmp~"))
        await reader.until(lambda: len({each.key for each in reader.changes}) == 12, "twelve are told")
        await reader.until(lambda: all(known_is_now(tmp_path, key, reader) for key in reader.index.rows), "all learnt")
        assert len(reader.changes) == 12


async def test_same_bytes_after_other_bytes_are_a_change(tmp_path: Path) -> None:
    """A, B, A: a cache may hold B, so that the second A is reported however soon it comes."""
    page = tmp_path / "page"
    page.write_text("A")
    async with Reader(tmp_path, skip_unchanged="content") as reader:
        for text in ("B", "A", "B", "A"):
            before = len(reader.of("page"))
            page.write_text(text)
            await reader.until(lambda before=before: len(reader.of("page")) > before, "reported")  # type: ignore[misc]


def known_is_now(root: Path, key: str, reader: Reader) -> bool:
    """Return whether the index holds the file's present inode and time."""
    status, known = (root / key).stat(), reader.index.rows[key][0]
    return (status.st_mtime_ns, status.st_ino) == (known.mtime_ns, known.inode)


def test_an_unmounted_root_deletes_nothing(tmp_path: Path) -> None:
    """The file system goes, an empty mount point stays: nothing is reported as deleted; mounted again, all is well."""
    root, out = tmp_path / "www", tmp_path / "out"
    root.mkdir()
    script = f"mount -t tmpfs none {root} && mkdir {root}/d && for n in $(seq 30); do echo x > {root}/d/$n; done"
    command = ("unshare", "-Urm", "sh", "-c", f'{script}; exec "$@"', "sh")
    with running(root, out, *command, min_delete_count=3, root_check_seconds=0.2) as source:
        source.until(lambda: source.health["ready"] and source.health["figures"]["scan_files"] == 30, "ready")
        enter = ["nsenter", "-t", str(source.process.pid), "-U", "-m", "--preserve-credentials"]
        subprocess.run([*enter, "umount", str(root)], check=True)
        source.until(lambda: "nothing is taken for deleted" in source.health["detail"], "it is said")
        assert out.read_text() == ""
        subprocess.run([*enter, "sh", "-c", f"{script}; echo new > {root}/d/new"], check=True)
        source.until(lambda: not source.health["detail"] and source.health["ready"], "all is well again")
        source.until(lambda: source.keys() >= {"d/new"}, "what is new is told")
        assert source.keys("deleted") == set()


def test_an_rsync_loses_nothing(tmp_path: Path) -> None:
    """50,000 files by a real rsync: every name reported, each temporary one ended again, no scan needed."""
    rsync = shutil.which("rsync")
    assert rsync, "rsync must be installed for this test"
    root, from_ = tmp_path / "www", tmp_path / "from"
    root.mkdir()
    expected = set()
    for number in range(50_000):
        path = from_ / f"d{number % 500}" / f"{number}.html"
        if number < 500:
            path.parent.mkdir(parents=True)
        path.write_text("x")
        expected.add(str(path.relative_to(from_)))
    with running(root, tmp_path / "out") as source:
        source.until(lambda: source.health["ready"], "ready")
        subprocess.run([rsync, "-a", f"{from_}/", f"{root}/"], check=True)
        source.until(lambda: source.keys() >= expected, "every name is told", 60)
        source.until(lambda: source.keys() - source.keys("deleted") == expected, "no other name is left")
        assert source.health["rescans"] == 0


class ByHand:
    """Takes deliveries one by one, and commits when instructed to."""

    def __init__(self, path: Path) -> None:
        """Follow a source that compares bytes."""
        self.index = MemoryIndex()
        settings = FilesystemSettings(path=path, skip_unchanged="always", stable_seconds=0.3, batch_changes=1)
        self.source = FilesystemSource("www", settings)
        self.taken: list[Delivery] = []
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for delivery in self.source.deliveries(self.index):
            self.taken.append(delivery)

    async def next(self) -> Delivery:
        """Return the next delivery."""
        async with asyncio.timeout(30):
            while not self.taken:
                await asyncio.sleep(0.01)
        return self.taken.pop(0)

    async def commit(self, delivery: Delivery) -> None:
        """Make a delivery durable."""
        self.index.apply(delivery)
        await delivery.ack()

    async def stop(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_bytes_are_not_compared_before_the_first_scan_is_over(tmp_path: Path) -> None:
    """While the index still learns what is there, it proves nothing: even the same bytes are reported."""
    (tmp_path / "page").write_text("A")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "other").write_text("A")
    hand = ByHand(tmp_path)
    try:
        seeds = [await hand.next(), await hand.next()]
        await hand.commit(next(each for each in seeds if each.changes[0].key == "page"))  # the other not yet
        (tmp_path / "page").write_text("A")
        delivery = await hand.next()
        assert [change.key for change in delivery.changes] == ["page"]
        assert not delivery.seed
    finally:
        await hand.stop()


async def test_bytes_are_not_compared_with_what_is_not_committed(tmp_path: Path) -> None:
    """A, then B that is not durable yet, then A: the index still holds A, and the second A must be reported."""
    (tmp_path / "page").write_text("A")
    hand = ByHand(tmp_path)
    try:
        await hand.commit(await hand.next())
        async with asyncio.timeout(30):
            while not hand.source.health.ready:
                await asyncio.sleep(0.01)
        await hand.commit(await hand.next())  # the digest of the first
        (tmp_path / "page").write_text("B")
        second = await hand.next()
        assert not second.seed
        (tmp_path / "page").write_text("A")
        third = await hand.next()
        assert not third.seed
        await hand.commit(second)
        await hand.commit(third)
        await hand.commit(await hand.next())  # its digest
        (tmp_path / "page").write_text("A")
        assert (await hand.next()).seed
    finally:
        await hand.stop()


async def test_a_link_that_is_switched_often_is_compared_as_soon_each_time(tmp_path: Path) -> None:
    """A comparison after an event is no loss: eight switches are reported in seconds each, others backed off."""
    for name in "ab":
        release(tmp_path / name, files=4)
    (tmp_path / "current").symlink_to("a")
    async with Reader(tmp_path, skip_unchanged="never") as reader:
        for number in range(8):
            reader.clear()
            (tmp_path / "next").symlink_to("ba"[number % 2])
            (tmp_path / "next").rename(tmp_path / "current")
            await reader.until(
                lambda: reader.reported("current/d0/0.html") and reader.reported("current/d3/3.html"), "reported", 15
            )


async def test_a_comparison_that_waits_is_reported_with_its_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many losses in a row the next scan is put off: state, detail and age say so until it is over."""
    release(tmp_path, files=4)
    monkeypatch.setattr("listener.sources.filesystem.source._SOON_SECONDS", 0.5)
    async with Reader(tmp_path) as reader:
        session = reader.source._session
        assert session is not None
        assert reader.source.health.figures[WAITING_SINCE] == 0
        began = time.time()
        session._rescans._ended, session._rescans._gap = time.monotonic(), 2.0
        session._rescans.want("d1/", "a test", time.monotonic())
        await reader.until(lambda: reader.source.health.figures[WAITING_SINCE] != 0, "the age counts")
        assert abs(reader.source.health.figures[WAITING_SINCE] - began) < 2
        await reader.until(lambda: "'d1/'" in reader.source.health.detail, "it is said")
        assert reader.source.health.state == "degraded"
        await reader.until(lambda: not reader.source.health.detail, "and over", 10)
        assert reader.source.health.figures[WAITING_SINCE] == 0


async def test_a_trouble_is_logged_when_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its count falls with each comparison that is over: status shows that, the log has one line."""
    release(tmp_path, files=4)
    monkeypatch.setattr("listener.sources.filesystem.source._SOON_SECONDS", 0.1)
    with capture_logs() as logs:
        async with Reader(tmp_path) as reader:
            session = reader.source._session
            assert session is not None
            for _ in range(2):
                details: set[str] = set()
                session._rescans._ended, session._rescans._gap = time.monotonic(), 0.5
                for number in range(4):
                    session._rescans.want(f"d{number}/", "a test", time.monotonic())
                while len(details) < 3:
                    await reader.until(lambda seen=details: reader.source.health.detail not in seen, "another count")
                    details.add(reader.source.health.detail)
                await reader.until(lambda: not reader.source.health.detail, "it is over")
    assert [line["event"] for line in logs].count("filesystem.degraded") == 2
