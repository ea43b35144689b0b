"""Content below the root that changes by what happens outside of it: links of several hops, and names elsewhere."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from listener.change import ChangeKind
from listener.contracts import SourceState
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.sources.filesystem.links import Links, file_number
from listener.sources.filesystem.names import Ignore, StatReader
from listener.sources.filesystem.pending_names import batch_of
from listener.sources.filesystem.walker import Walker
from listener.sources.filesystem.watches import Watches
from tests.sources.filesystem.churning import exchange
from tests.sources.harness import Reader, fanotify_needed

pytestmark = pytest.mark.looptime(False)


@pytest.fixture(autouse=True, params=["inotify", "fanotify", "polling"])
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Let every test watch in each way; none of them waits for a poll."""
    if request.param == "fanotify":
        fanotify_needed(request, tmp_path)
    monkeypatch.setattr(Reader, "backend", request.param)
    return str(request.param)


def write(path: Path, text: str) -> Path:
    """Write a file, with all directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def switch(link: Path, target: str | Path) -> None:
    """Point a link to something else, in one step."""
    (link.parent / "next").symlink_to(target)
    (link.parent / "next").rename(link)


def reader_of(root: Path) -> Reader:
    """Return a reader without polls and scheduled scans."""
    return Reader(root, poll_interval_seconds=600, rescan_interval_seconds=0)


async def until_all(reader: Reader, *keys: str) -> None:
    """Wait until all these are reported."""
    for key in keys:
        await reader.until_reported(key)


def releases(base: Path) -> tuple[Path, Path]:
    """Make two releases, and a link to the first to which ``app`` in a root leads; return the root and the link."""
    root, link = base / "root", base / "current"
    root.mkdir()
    for release in "12":
        write(base / release / "a.html", release)
    link.symlink_to("1")
    (root / "app").symlink_to(link)
    return root, link


def one_hop(out: Path) -> Path:
    """Make a link to a link; return the first."""
    (out / "app").symlink_to("current")
    (out / "current").symlink_to("1")
    return out / "app"


def two_directories(out: Path) -> Path:
    """Make a link that leads through two directories; return it."""
    (out / "srv").mkdir()
    (out / "srv" / "v").symlink_to(out / "1")
    (out / "hop").symlink_to(out / "srv" / "v")
    return out / "hop"


def change_hop(out: Path) -> None:
    """Switch the outer of two links."""
    switch(out / "current", "2")


def change_way(out: Path) -> None:
    """Replace a directory on the way by another; no link changes."""
    (out / "new").mkdir()
    (out / "new" / "v").symlink_to(out / "2")
    (out / "srv").rename(out / "old")
    (out / "new").rename(out / "srv")


def change_end(out: Path) -> None:
    """Replace the directory at the end."""
    (out / "1").rename(out / "old")
    (out / "2").rename(out / "1")


@pytest.mark.parametrize(
    ("make", "change"),
    [(one_hop, change_hop), (one_hop, change_end), (two_directories, change_way), (two_directories, change_end)],
)
@pytest.mark.parametrize("inside", ["app", "a/link"])
async def test_what_a_chain_of_links_leads_to_is_followed(
    tmp_path: Path, backend: str, make: Callable[[Path], Path], change: Callable[[Path], None], inside: str
) -> None:
    """Whatever hop outside of the root changes, the new directory is compared, and listened to."""
    root, out = tmp_path / "www", tmp_path / "out"
    for number in "12":
        write(out / number / "index.html", number * 3)
        write(out / number / "sub" / "page.html", number * 3)
    write(out / "1" / "old.html", "x")
    (root / inside).parent.mkdir(parents=True)
    (root / inside).symlink_to(make(out))
    async with reader_of(root) as reader:
        change(out)
        await until_all(reader, f"{inside}/index.html", f"{inside}/sub/page.html")
        await reader.until_reported(f"{inside}/old.html", ChangeKind.DELETED)
        await asyncio.sleep(1)
        assert len(reader.changes) == 3
        if backend != "polling":
            reader.clear()
            (root / inside / "sub" / "page.html").write_text("corrected")
            await reader.until_reported(f"{inside}/sub/page.html")


@pytest.mark.parametrize("by", ["a file", "a link to a file", "a written file", "nothing"])
async def test_what_was_behind_a_link_that_leads_to_no_directory_any_more_is_gone(
    tmp_path: Path, backend: str, by: str
) -> None:
    """A link to a directory that is replaced by a file ends every key below it, in watched and linked trees alike."""
    root, out = tmp_path / "www", tmp_path / "out"
    write(root / "stays.html", "1")
    write(out / "1" / "index.html", "1")
    write(out / "1" / "sub" / "page.html", "1")
    (root / "app").symlink_to(out / "1")
    async with reader_of(root) as reader:
        assert "app/sub/page.html" in reader.index.rows
        if by == "a file":
            write(out / "next", "a file").rename(root / "app")
        elif by == "a link to a file":
            switch(root / "app", write(out / "file", "x"))
        else:
            (root / "app").unlink()
            if by == "a written file":
                write(root / "app", "written")
        expected = {"stays.html"} if by == "nothing" else {"stays.html", "app"}
        await reader.until(lambda: reader.index.rows.keys() == expected, "what was behind the link is gone")


async def test_a_linked_file_outside_is_looked_at(tmp_path: Path) -> None:
    """Written in place, replaced, gone and back, through one link and through two."""
    root, out = tmp_path / "www", tmp_path / "out"
    root.mkdir()
    data = write(out / "data.json", "1")
    (root / "one.json").symlink_to(data)
    (out / "hop").symlink_to(data)
    (root / "two.json").symlink_to(out / "hop")
    async with reader_of(root) as reader:
        data.write_text("22")
        await until_all(reader, "one.json", "two.json")
        reader.clear()
        write(out / "x", "333").rename(data)
        await until_all(reader, "one.json", "two.json")
        reader.clear()
        data.unlink()
        await reader.until_reported("one.json", ChangeKind.DELETED)
        await reader.until_reported("two.json", ChangeKind.DELETED)
        reader.clear()
        data.write_text("back")
        await until_all(reader, "one.json", "two.json")
        assert {each.key for each in reader.changes} == {"one.json", "two.json"}


async def test_a_file_is_reported_when_it_is_written_through_a_name_outside(tmp_path: Path) -> None:
    """A hard link from elsewhere; a backup that makes one more changes nothing."""
    root, out = tmp_path / "www", tmp_path / "out"
    page = write(root / "page.html", "one")
    out.mkdir()
    os.link(page, out / "name")
    async with reader_of(root) as reader:
        (out / "name").write_text("two!")
        await reader.until_reported("page.html")
        await asyncio.sleep(0.5)
        reader.clear()
        os.link(page, out / "backup")
        await asyncio.sleep(1)
        assert reader.changes == []


async def test_links_out_and_back_and_within_linked_directories_are_followed(tmp_path: Path, backend: str) -> None:
    """Out and back in, and a relative link of a linked directory, which leads somewhere else than its key says."""
    root, out = tmp_path / "www", tmp_path / "out"
    write(root / "real" / "a.html", "one")
    write(root / "shared" / "page.html", "not this one")
    write(out / "shared" / "page.html", "one")
    (out / "hop").symlink_to(root / "real")
    (out / "app").mkdir()
    (out / "app" / "page.html").symlink_to("../shared/page.html")
    (root / "back").symlink_to(out / "hop")
    (root / "app").symlink_to(out / "app")
    async with reader_of(root) as reader:
        assert set(reader.index.rows) == {
            "real/a.html", "back/a.html", "shared/page.html", "app/page.html"
        }  # fmt: skip
        (out / "shared" / "page.html").write_text("two!")
        await reader.until_reported("app/page.html")
        if backend != "polling":
            (root / "real" / "a.html").write_text("two!")
            await until_all(reader, "real/a.html", "back/a.html")
        assert not reader.of("shared/page.html")


async def test_status_counts_links_that_lead_outside(tmp_path: Path) -> None:
    """How many there are, and how often they are looked at."""
    root = tmp_path / "www"
    write(root / "page.html", "one")
    (root / "inside").symlink_to("page.html")
    (root / "outside").symlink_to(write(tmp_path / "out", "one"))
    async with reader_of(root) as reader:
        await reader.until(lambda: reader.source.health.figures.get("links_outside") == 1, "it is counted")
        assert reader.source.health.figures["link_check_seconds"] >= 0.2


@pytest.mark.parametrize("follow", [True, False])
async def test_check_names_the_targets_of_links_that_lead_out(tmp_path: Path, follow: bool) -> None:
    """Directories with their targets, files by their number; what is never followed is a warning."""
    root = tmp_path / "www"
    write(root / "a" / "page.html", "x")
    (root / "a" / "uploads").symlink_to(tmp_path / "up")
    write(tmp_path / "up" / "x", "x")
    (root / "conf").symlink_to(tmp_path / "up" / "x")
    (root / "inside").symlink_to("a")
    (root / "sys").symlink_to("/sys")
    checks = await FilesystemSource("www", FilesystemSettings(path=root, follow_symlinks=follow)).check()
    (said,) = [check for check in checks if "outside of the root" in check.message]
    assert f"'a/uploads' -> '{tmp_path}/up'" in said.message
    assert ("are followed" if follow else "are not followed") in said.message
    assert "1 lead to files" in said.message
    (warned,) = [check for check in checks if "never followed" in check.message]
    assert warned.state == "warning"
    assert "'sys' -> '/sys'" in warned.message


@pytest.mark.parametrize("target", ["/proc", "/sys/kernel", "/dev", "loop"])
async def test_what_no_link_may_add_is_not_followed(tmp_path: Path, backend: str, target: str) -> None:
    """Neither by the first scan nor when the link comes later: the kernel's directories, and loops."""
    root = tmp_path / "www"
    write(root / "page.html", "x")
    to = root if target == "loop" else target
    (root / "early").symlink_to(to)
    async with reader_of(root) as reader:
        (root / "late").symlink_to(to)
        write(root / "mark.html", "x")
        if backend != "polling":
            await reader.until_reported("mark.html")
            await asyncio.sleep(1.5)
            assert set(reader.index.rows) == {"page.html", "mark.html"}
        else:
            assert set(reader.index.rows) == {"page.html"}


async def test_the_state_directory_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commit would be a change; nor is a directory that holds it."""
    root, state = tmp_path / "www", tmp_path / "var" / "state"
    write(root / "page.html", "x")
    write(state / "state.db", "x")
    monkeypatch.setattr("listener.files._paths", {str(state / "state.db")})
    (root / "a").symlink_to(state)
    (root / "b").symlink_to(tmp_path / "var")
    async with reader_of(root) as reader:
        assert set(reader.index.rows) == {"page.html"}


async def test_a_directory_in_place_of_a_link_is_compared(tmp_path: Path) -> None:
    """Exchanged: what the link led to is gone under that name, what the directory holds is there."""
    root = tmp_path / "www"
    write(tmp_path / "out" / "old.html", "x")
    write(root / "real" / "new.html", "x")
    write(root / "stays.html", "x")
    (root / "link").symlink_to(tmp_path / "out")
    async with Reader(root, poll_interval_seconds=0.5, rescan_interval_seconds=0) as reader:
        exchange(root / "link", root / "real")
        await reader.until(
            lambda: set(reader.index.rows) == {"link/new.html", "real/old.html", "stays.html"}, "the index follows"
        )


async def test_links_that_lead_to_one_another_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five directories with links to all the others have 325 paths: a bounded number is followed, and that is reported;
    a change elsewhere is received, and once the links are gone, nothing is degraded.
    """
    monkeypatch.setattr("listener.sources.filesystem.links.MOST_ENTERED", 10)
    monkeypatch.setattr("listener.sources.filesystem.links._SWEEP_SECONDS", 0)
    root = tmp_path / "root"
    for one in range(5):
        write(root / f"{one}/f.html", "1")
    reader = Reader(root, poll_interval_seconds=0.5, rescan_interval_seconds=0)
    async with reader:
        await reader.until_compared()
        links = [root / f"{one}/{other}" for one in range(5) for other in range(5) if one != other]
        for link in links:
            link.symlink_to(f"../{link.name}")
        await reader.until(lambda: reader.source.health.state is SourceState.DEGRADED, "degraded")
        assert "follow_symlinks" in reader.source.health.detail
        write(root / "a.html", "2")
        await reader.until_reported("a.html")
        assert len(reader.index.rows) <= 5 + 10 + 1
        for link in links:
            link.unlink()
        await reader.until(lambda: reader.source.health.state is SourceState.LISTENING, "listening again")


async def test_a_link_that_leads_elsewhere_only_while_it_is_scanned_is_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that reads another release than the one before and after it is repeated."""
    root, link = tmp_path / "root", tmp_path / "current"
    root.mkdir()
    for release in "123":
        write(tmp_path / release / "sub" / f"{release}.html", release)
    link.symlink_to("1")
    (root / "app").symlink_to(link)
    read, away = Walker._read, [True]

    def read_elsewhere(walker: Walker, prefix: bytes, *arguments: Any, **named: Any) -> Any:
        if prefix == b"app/sub/" and link.readlink() == Path("2") and away:
            away.pop()
            switch(link, "3")
            found = read(walker, prefix, *arguments, **named)
            switch(link, "2")
            return found
        return read(walker, prefix, *arguments, **named)

    async with reader_of(root) as reader:
        monkeypatch.setattr(Walker, "_read", read_elsewhere)
        switch(link, "2")
        await reader.until(lambda: not away, "the link led elsewhere during a scan")
        await reader.until(lambda: set(reader.index.rows) == {"app/sub/2.html"}, "the index holds what is there")


async def test_a_file_that_is_looked_at_while_its_link_leads_elsewhere_is_compared_again(tmp_path: Path) -> None:
    """The state of another release's file does not stay in the index."""
    root, link = releases(tmp_path)
    async with reader_of(root) as reader:
        await reader.until(lambda: "app/a.html" in reader.index.rows, "the file is known")
        live = reader.source._session._live  # type: ignore[union-attr]
        switch(link, "2")
        looks = live.stat_reader.all(batch_of([b"app/a.html"]), time.time_ns())
        assert looks.unfinished[0].fingerprint.inode == (tmp_path / "2" / "a.html").stat().st_ino
        switch(link, "1")
        assert live.stat_reader._links.targets.changed() == ["app"]


async def test_a_scan_of_a_part_finds_the_other_names_of_its_files(tmp_path: Path) -> None:
    """A file of one name that was given another, and written to through it, in a directory that was not watched yet."""
    root, link = releases(tmp_path)
    page = write(root / "page.html", "1")
    async with reader_of(root) as reader:
        await reader.until(lambda: "app/a.html" in reader.index.rows, "the file is known")
        await reader.until_compared()
        os.link(page, tmp_path / "2" / "other.html")
        (tmp_path / "2" / "other.html").write_text("two!")
        switch(link, "2")
        await reader.until_reported("app/other.html")
        if reader.backend != "polling":  # which compares the whole tree, and nothing sooner
            await reader.until_reported("page.html")


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_a_directory_that_comes_while_its_link_leads_elsewhere_is_compared(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
) -> None:
    """It is watched and listed at a path at which there is nothing, or another directory of the same name."""
    root, link = releases(tmp_path)
    if is_elsewhere:
        (tmp_path / "2" / "new").mkdir()
    settle, away = Watches.settle, [True]

    def settle_elsewhere(watches: Watches, should_keep_running: Callable[[], bool]) -> None:
        if (watches._places or watches._new) and away:
            away.pop()
            switch(link, "2")
            settle(watches, should_keep_running)
            switch(link, "1")
        settle(watches, should_keep_running)

    async with reader_of(root) as reader:
        await reader.until(lambda: "app/a.html" in reader.index.rows, "the file is known")
        await reader.until_compared()
        monkeypatch.setattr(Watches, "settle", settle_elsewhere)
        write(tmp_path / "1" / "new" / "b.html", "1")
        if backend != "polling":
            await reader.until_reported("app/new/b.html")
            assert not away


@pytest.mark.parametrize("by", ["a scan of it", "a scan of what is above", "a look"])
async def test_a_link_that_is_a_loop_only_while_it_is_looked_at_counts_as_changed(tmp_path: Path, by: str) -> None:
    """It is left out, so that nothing behind it is read, and leads again to where it led before."""
    root, link = releases(tmp_path)
    write(root / "page.html", "1")
    async with reader_of(root) as reader:
        await reader.until(lambda: "app/a.html" in reader.index.rows, "the file is known")
        await reader.until_compared()
        reader_links = reader.source._session._live._links  # type: ignore[union-attr]
        stat_reader = reader.source._session._live.stat_reader  # type: ignore[union-attr]
        switch(link, "root")
        if by == "a look":
            stat_reader.all(batch_of([b"app/a.html"]), time.time_ns())
        else:
            prefix = "app/" if by == "a scan of it" else ""
            walker = Walker(os.fsencode(root) + b"/", Ignore(), prefix=prefix, links=reader_links, enter=lambda _: None)
            assert {listing.directory for listing in walker.step(1000)} == {prefix} - {"app/"}
        switch(link, "1")
        assert reader_links.targets.changed() == ["app"]


async def test_a_link_that_becomes_a_loop_is_left_out_and_its_files_are_reported_once(tmp_path: Path) -> None:
    """What was below it is deleted, and writes to the directory it leads to count under the other path only."""
    root, link = tmp_path / "root", tmp_path / "current"
    root.mkdir()
    for release in "12":
        write(tmp_path / release / "a.html", release)
    link.symlink_to("1")
    (tmp_path / "2" / "again").symlink_to(link)
    (root / "app").symlink_to(tmp_path / "2")
    async with reader_of(root) as reader:
        await reader.until(lambda: set(reader.index.rows) == {"app/a.html", "app/again/a.html"}, "both are known")
        switch(link, "2")
        await reader.until(lambda: set(reader.index.rows) == {"app/a.html"}, "what was behind the loop is deleted")
        if reader.backend != "polling":
            (tmp_path / "2" / "b.html").write_text("b")
            await reader.until_reported("app/b.html")
            assert not reader.of("app/again/b.html")


async def test_a_file_whose_name_became_a_link_to_a_directory_is_gone(tmp_path: Path) -> None:
    """The index decides: that a directory of that name was watched in between proves nothing of the file."""
    root = tmp_path / "root"
    write(root / "name", "a file")
    write(tmp_path / "1" / "a.html", "1")
    async with reader_of(root) as reader:
        await reader.until(lambda: set(reader.index.rows) == {"name"}, "the file is known")
        await reader.until(lambda: reader.source.compares, "the index is complete")
        if isinstance(watcher := reader.source.watcher(), Watches):
            watcher.tree.make(b"name/")
        (root / "next").symlink_to(tmp_path / "1")
        (root / "next").rename(root / "name")
        if reader.backend != "polling":
            await reader.until(lambda: set(reader.index.rows) == {"name/a.html"}, "the file is gone")
            assert reader.reported("name", ChangeKind.DELETED)


def test_a_search_for_names_does_not_hide_that_a_link_to_a_directory_went(tmp_path: Path, backend: str) -> None:
    """A file took its place, and is found as another name of one before the event of the link is worked through."""
    page = write(tmp_path / "page.html", "1")
    (tmp_path / "d").mkdir()
    (tmp_path / "app").symlink_to("d")
    raw = os.fsencode(tmp_path) + b"/"
    links = Links(raw)
    links.note_soft("app", None)
    stat_reader = StatReader(raw, Ignore(), links, stable_seconds=0)
    (tmp_path / "app").unlink()
    os.link(page, tmp_path / "app")
    stat_reader.names(["app", "page.html"], {file_number(page.stat()): 2})
    assert stat_reader.all(batch_of([b"app"]), time.time_ns()).unlinked == ["app"]
