"""The source's pure parts: names, unfinished files, the deletion guard, scans to come, mounts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Change, ChangeKind, Fingerprint
from listener.sources.filesystem import FilesystemSettings
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.known import is_proved_same
from listener.sources.filesystem.mounts import parse_mounts
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.outstanding import MOUNTED, OVERFLOWED, UNWATCHED, WAITING, Rescans, Unfinished

IGNORED_FILES = [
    *(".git", ".x.swp", ".x.swo", ".#x", ".nfs0123456789abcdef01234567", "..data", ".DS_Store", "._x", "Thumbs.db"),
]
IGNORED_DIRECTORIES = [
    *(".git", ".svn", ".hg", "lost+found", ".~tmp~", ".rsync-partial", "..2026_01_01", "..2026_01_02_03_04_05.678"),
]
CONTENT_NAMES = [
    *(".well-known", ".htaccess", ".site.config", ".x.backup", ".x.README", "index.html", "part", "x.parts"),
    *("4913", "x~", "x.part", "#x#", "x.crdownload", ".x.aB1234", "..x", ".nfs-guide", "git", ".github", "..well"),
    *("x___jb_tmp___", "a.b.Ab3dE9", ".gitignore", "old~", "movie.part"),
]


@pytest.mark.parametrize("name", IGNORED_FILES)
def test_what_nobody_serves_is_ignored(name: str) -> None:
    """At any depth, as a file or a link; a directory of that name is content, and an own list replaces this one."""
    assert Ignore().file("a/b/", name)
    assert name == ".git" or not Ignore().directory("a/b/", name)
    assert not Ignore(("x.bak",)).file("a/b/", name)


@pytest.mark.parametrize("name", IGNORED_DIRECTORIES)
def test_directories_that_nobody_serves_are_ignored(name: str) -> None:
    """Version control, the file system's own, one tool's own."""
    assert Ignore().directory("a/b/", name)
    assert not Ignore(()).directory("a/b/", name)


@pytest.mark.parametrize("name", CONTENT_NAMES)
def test_a_name_that_only_looks_temporary_is_content(name: str) -> None:
    """What exists counts, whatever it is called: as a file and as a directory."""
    assert not Ignore().file("", name)
    assert not Ignore().directory("", name)


@pytest.mark.parametrize("name", ["x", "x/", "a*c", "a/b/c", "a/b/c/**"])
def test_the_pattern_that_ignores_is_named(name: str) -> None:
    """The first that matches, for files and directories apart."""
    ignore = Ignore(("y", name))
    directory = name.endswith(("/", "**"))
    path = name.rstrip("/*").replace("*", "b")
    prefix, _, last = path.rpartition("/")
    assert ignore.reason(prefix and prefix + "/", last, is_directory=directory) == name
    assert ignore.reason("", "z", is_directory=directory) == ""


@pytest.mark.parametrize("pattern", ["", "/", "//"])
def test_a_pattern_that_names_nothing_is_refused(pattern: str) -> None:
    """With what to write instead."""
    with pytest.raises(ValueError, match="name/"):
        FilesystemSettings(path=Path("/srv"), ignore=(pattern,))


@given(st.text("ab.~#*_4913p/", min_size=1, max_size=8).filter(lambda name: "/" not in name))
def test_sorted_patterns_match_as_plain_globs_do(name: str) -> None:
    """The quick ways to tell agree with the globs themselves."""
    import fnmatch

    for patterns in (("*ab", "a?b", "x*", "*.p*", "b"), ("a?b", "p*", "b"), ("a*", "*_"), ("p", "?b*"), ()):
        is_match = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        assert Ignore(patterns).file("", name) == is_match
        assert Ignore((*patterns, "x/4")).file("", name) == is_match


def test_patterns_with_a_path_count_from_the_root() -> None:
    """``**`` crosses directories, ``*`` does not; a trailing slash means directories only."""
    ignore = Ignore(("build/tmp/**", "a/*.log", "cache/"))
    assert ignore.directory("build/", "tmp")
    assert ignore.file("build/tmp/x/", "y")
    assert ignore.file("a/", "x.log")
    assert not ignore.file("a/b/", "x.log")
    assert ignore.directory("x/", "cache")
    assert not ignore.file("x/", "cache")


def print_of(size: int) -> Fingerprint:
    """Return some fingerprint."""
    return Fingerprint(size, 1, 1, 1)


def test_a_file_at_rest_is_finished_and_one_that_grows_is_reported_first() -> None:
    """Reported as unfinished after a second, as finished once it rests for the set time."""
    held = Unfinished(stable_seconds=2, cap_seconds=60)
    assert held.begin("k", print_of(1), 0, from_event=True)
    assert held.next_look(0) == 1
    assert held.keys(0.5, 10) == []
    reported = []
    for now, size in ((1.0, 2), (3.0, 2)):
        assert held.keys(now, 10) == ["k"]
        reported += list(held.looked({"k": print_of(size)}, now))
    assert [(each.finished, each.fingerprint) for each in reported] == [(False, print_of(2)), (True, print_of(2))]
    assert held.next_look(3) is None


def test_a_file_that_always_grows_is_finished_at_the_cap() -> None:
    """However often it changes, it is reported at least once each cap."""
    held = Unfinished(stable_seconds=2, cap_seconds=10)
    held.begin("k", print_of(0), 0, from_event=True)
    now, finished = 0.0, False
    while not finished:
        now += held.next_look(now) or 0.0
        held.keys(now, 10)
        finished = any(each.finished for each in held.looked({"k": print_of(int(now * 10) + 1)}, now))
        assert now <= 10
    assert now == 10


def test_beyond_its_bound_files_count_as_finished() -> None:
    """Memory is bounded; what finds no room is reported at once."""
    held = Unfinished(stable_seconds=2, cap_seconds=60, bound=1)
    assert held.begin("a", print_of(0), 0, from_event=True)
    assert not held.begin("b", print_of(0), 0, from_event=True)
    held.end("a")
    assert held.begin("b", print_of(0), 0, from_event=True)


def deletion(key: str) -> Change:
    """Return a deletion."""
    return Change("www", key, ChangeKind.DELETED)


def test_deletions_are_held_until_they_rest() -> None:
    """Also the first of a burst; few that go on and on for a shorter time than many."""
    guard = DeletionGuard(share=0.5, minimum=10)
    guard.hold([], 0.0)
    assert guard.next_release(0.0) is None
    guard.hold([deletion("a")], 1.0)
    guard.hold([deletion("b")], 1.5)
    assert guard.next_release(1.5) == 1
    assert [each.key for each in guard.release()[0]] == ["a", "b"]
    assert guard.next_release(2.5) is None
    for few, longest_seconds in ((True, 5), (False, 30)):
        names = [f"{number}" for number in range(8 if few else 20)]
        for number in range(2 * longest_seconds):
            guard.hold([deletion(name) for name in names], number / 2)
        assert guard.held_since(longest_seconds, over_seconds=4) == 0
        assert guard.next_release(longest_seconds) == 0
        assert guard.next_release(longest_seconds - 1) == 1
        guard.release()


def test_a_burst_is_judged_with_what_passed_just_before() -> None:
    """Against the number of files that there were before either; what passed long ago does not count."""
    guard = DeletionGuard(share=0.5, minimum=10)
    guard.known = 100
    guard.note_passed(30, 0.0)
    guard.judge_burst(25, 5.0, root_empty=False)
    assert (guard.refused, guard.held_back) == ("55 of 100 known files are gone at once", 55)
    assert guard.is_holding_back
    guard.judge_burst(25, 15.0, root_empty=False)
    assert (guard.refused, guard.held_back, guard.is_holding_back) == ("", 0, False)


@pytest.mark.parametrize(
    ("missing", "known", "empty", "refused"),
    [(60, 100, False, True), (50, 100, False, False), (9, 10, False, False), (1, 1, True, True), (0, 5, True, False)],
)
def test_the_brake_judges_by_share_count_and_emptiness(missing: int, known: int, empty: bool, refused: bool) -> None:
    """More than half and more than ten, or an empty root: not believed; unless confirmed."""
    deletion_guard = DeletionGuard(share=0.5, minimum=10)
    assert bool(deletion_guard.refuses(missing=missing, known=known, root_empty=empty)) is refused
    deletion_guard.confirmed = True
    assert not deletion_guard.refuses(missing=missing, known=known, root_empty=empty)


def test_wanted_scans_are_merged_and_back_off() -> None:
    """A scan above another absorbs it; those that follow closely come ever later, up to a minute."""
    scans = Rescans(interval_seconds=0, jitter=0, now=0)
    scans.want("a/b/", "x", 0)
    scans.want("a/", "y", 0)
    scans.want("a/c/", "z", 0)
    assert scans.take(0) is None
    assert scans.take(0.5) == ("a/", "y")
    now, gaps = 1.0, []
    for _ in range(10):
        scans.ended("a/", now, took_seconds=1)
        scans.want("", "again", now)
        gaps.append(scans.next_due(now))
        now += gaps[-1]
        assert scans.take(now) is not None
    assert gaps == sorted(gaps)
    assert gaps[-1] == 60


def test_prompt_scans_do_not_back_off() -> None:
    """One that an event asked for rests four times as long as its directory's last one took, whatever others do."""
    scans = Rescans(interval_seconds=0, jitter=0, now=0)
    for now in range(100):
        scans.want("", "a loss", now)
        if scans.take(now):
            scans.ended("", now, took_seconds=1)
    scans.want("", "a loss", 100)
    assert scans.next_due(100) > 20
    now = 100.0
    for _ in range(20):
        scans.want("link/", "switched", now, prompt=True)
        assert scans.next_due(now) == 0.5
        now += 0.5
        assert scans.take(now) == ("link/", "switched")
        scans.ended("link/", now, took_seconds=0.01)
    scans.want("link/", "switched", now, prompt=True)
    now += 1
    assert scans.take(now) == ("link/", "switched")
    scans.ended("link/", now, took_seconds=2)
    scans.want("link/", "switched", now, prompt=True)
    scans.want("other/", "switched", now, prompt=True)
    assert scans.take(now + 0.5) == ("other/", "switched")
    scans.ended("other/", now + 0.5, took_seconds=0)
    assert scans.take(now + 7.9) is None
    assert scans.take(now + 8) == ("link/", "switched")


def test_what_waits_to_be_compared_is_known_with_its_age() -> None:
    """From the first request until the end of the scan; polls and waits for deleted files are no changes."""
    scans = Rescans(interval_seconds=0, jitter=0, now=0)
    scans.want("a/", "x", 1)
    scans.want("failed/", UNWATCHED, 1, prompt=True)
    scans.want("", WAITING, 1)
    scans.want("a/", "y", 3, prompt=True)
    assert [(one.prefix, one.since) for one in scans.waiting()] == [("a/", 1)]
    assert scans.take(5) == ("", WAITING)
    assert scans.take(5) == ("a/", "x")
    assert [one.since for one in scans.waiting()] == [1]
    scans.ended("a/", 6, took_seconds=1)
    assert scans.waiting() == []


def test_scheduled_scans_vary_by_their_jitter() -> None:
    """Each comes within the interval's share, and not always at the same time."""
    random.seed(1)
    dues = {Rescans(interval_seconds=100, jitter=0.25, now=0).next_due(0) for _ in range(50)}
    assert all(75 <= due <= 125 for due in dues)
    assert len(dues) > 10
    assert Rescans(interval_seconds=0, jitter=0.25, now=0).next_due(0) == float("inf")


@pytest.mark.parametrize(
    ("change", "untouched", "with_digest"),
    [
        ({}, True, True),
        ({"size_bytes": 2}, False, True),
        ({"mtime_ns": 2}, False, True),
        ({"ctime_ns": 2}, False, True),
        ({"inode": 2}, False, True),
        ({"access": 2}, False, False),
        ({"access": None}, True, True),
        ({"etag": "other"}, True, True),
        ({"etag": "other", "ctime_ns": 2}, False, False),
        ({"etag": None, "ctime_ns": 2}, False, False),
    ],
)
def test_what_proves_that_a_file_is_the_same(change: dict[str, int], untouched: bool, with_digest: bool) -> None:
    """The same readers, and an inode that nobody touched or the same digest; size and time alone prove nothing."""
    before = Fingerprint(1, 1, 1, 1, None, 1)
    assert is_proved_same(before, before._replace(**({"etag": None} | change))) is untouched
    before = before._replace(etag="digest")
    assert is_proved_same(before, before._replace(**change)) is with_digest


def test_mounts_say_which_changes_the_kernel_reports() -> None:
    """Network and FUSE file systems are polled; escapes are undone; the last mount of a point counts."""
    table = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:20 / /srv/a\\040b rw - nfs4 host:/x rw
24 22 0:21 / /srv/s3 rw - fuse.s3fs s3fs rw
25 22 0:22 / /srv/s3 rw - tmpfs none rw
26 22 0:23 / /srv/disk rw - fuseblk /dev/sdb rw
broken line
"""
    found = {mount.point: (mount.kind, mount.reports_every_change) for mount in parse_mounts(table)}
    assert found == {
        "/": ("ext4", True),
        "/srv/a b": ("nfs4", False),
        "/srv/s3": ("tmpfs", True),
        "/srv/disk": ("fuseblk", True),
    }


def test_what_was_unmounted_does_not_wait_for_the_back_off_after_losses() -> None:
    """The kernel's event of an unmount requests a prompt comparison, and leaves the back-off as it is."""
    rescans, now = Rescans(interval_seconds=0, jitter=0, now=0.0), 0.0
    for _ in range(8):
        rescans.want("", OVERFLOWED, now)
        now += rescans.next_due(now)
        assert rescans.take(now) is not None
        rescans.ended("", now, took_seconds=0.0)
    rescans.want("mnt/", MOUNTED, now)
    assert rescans.next_due(now) <= 0.5
