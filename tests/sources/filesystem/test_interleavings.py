"""
Watches and looks, driven manually: every step of theirs between any two operations on the tree.

The kernel's events wait in its queue while the tree goes on changing, so that each is worked
through in a world that it knows nothing of. What a loaded machine does once in a million
renames is done here on purpose: operations come between two reads, between single events,
between a watch and the listing that follows it, between the steps of one look.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from listener import kernel
from listener.change import key_to_text
from listener.sources.filesystem import pending_names, watches
from listener.sources.filesystem.fanotify import EVENT, FanotifyWatches
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.names import Ignore, StatReader
from listener.sources.filesystem.walker import Walker, find_names
from listener.sources.filesystem.watches import Watches
from tests.sources.filesystem.churning import Churn, exchange, out_of_sight
from tests.sources.harness import fanotify_needed

SEEDS = int(os.environ.get("INTERLEAVING_SEEDS", "25"))
SYSTEM_CALLS = ("scandir", "lstat", "stat", "readlink")


class World:
    """A tree, what watches it, and an index that gets what the store gets."""

    def __init__(
        self, base: Path, seed: int, *, hot: float = 0.0, steps: int = 60, kind: type[Watches] = Watches
    ) -> None:
        """Make a tree; ``hot`` is how often an operation comes between two system calls of the listener."""
        self.root, outside = base / "www", base / "outside"
        self.root.mkdir(parents=True)
        outside.mkdir()
        self.raw = os.fsencode(self.root) + b"/"
        self.random = random.Random(seed)
        self.churn = Churn(self.root, outside, seed)
        for _ in range(steps):
            self.churn.step()
        self.hot, self.is_busy = hot, False
        self.now = 0.0
        self.index: dict[str, tuple[int | None, ...]] = {}
        self.events = b""
        self.wanted: dict[int, int] = {}
        self.in_place: set[str] = set()
        """Keys that were looked at as if they had been written in place."""
        self.ignore, self.links = Ignore(), Links(self.raw)
        # Every other world holds the names that a listing finds for a while.
        self.watches = kind(self.raw, self.ignore, self.links, bound=100_000, found_seconds=0.4 * (seed % 2))
        self.stat_reader = StatReader(self.raw, self.ignore, self.links, stable_seconds=0)

    # --- the steps --------------------------------------------------------------------------------

    def operate(self) -> None:
        """Do one operation on the tree."""
        before, self.is_busy = self.is_busy, True
        self.churn.step()
        self.is_busy = before

    def read(self) -> None:
        """Read the kernel's queue, and work nothing through."""
        self.events += self.watches.read(1 << 20)

    def feed(self, number: int = 1 << 30) -> None:
        """Work through so many events that were read."""
        end = 0
        while number and end < len(self.events):
            if isinstance(self.watches, FanotifyWatches):
                end += EVENT.unpack_from(self.events, end)[0]
            else:
                end += kernel.HEADER.size + kernel.HEADER.unpack_from(self.events, end)[3]
            number -= 1
        blob, self.events = self.events[:end], self.events[end:]
        self.watches.feed(blob)

    def settle(self, most: int = 1 << 30) -> None:
        """Watch and list at most so many directories that came."""
        left = iter(range(most))
        self.watches.settle(lambda: next(left, None) is not None)

    def take(self, limit: int = 1 << 30) -> bool:
        """Take the events, look at their files and update the index, as the source does; False if there were none."""
        batch = self.watches.take(limit)
        looks = self.stat_reader.all(batch, time.time_ns(), self.watches.is_watched)
        self.wanted.update(looks.hard_links)
        self.in_place.update(looks.in_place, (look.key for look in looks.unfinished))
        gone = [*looks.gone, *(key.rstrip("/") for key in looks.linked)]
        for prefix in map(key_to_text, batch.gaps):
            gone += self.stat_reader.missing(prefix, self.directly_in(prefix))
        for prefix in map(key_to_text, batch.gone):
            gone += [key for key in self.index if key.startswith(prefix)]
        for key in gone:
            self.index.pop(key, None)
        self.index.update((key, found[:4]) for key, found in looks.finished.items())
        self.index.update((look.key, look.fingerprint[:4]) for look in looks.unfinished)
        assert not batch.rescans
        return any(batch)

    def search(self) -> bool:
        """Search for the names that files turned out to have besides those that are known."""
        wanted, self.wanted = self.wanted, {}
        is_watched = self.watches.is_watched
        searched = (self.raw, self.ignore, self.links, wanted)
        keys = find_names(*searched, follow=False, is_watched=is_watched) if wanted else []
        found = self.stat_reader.names(keys, wanted, is_watched)
        self.index.update((key, there[:4]) for key, there in found.items())
        return bool(wanted)

    def scan(self, prefix: str | None = None) -> None:
        """Come by one directory as a scan does: watch it, list it, compare it with the index."""
        before, self.is_busy = self.is_busy, True
        if prefix is None:
            path = self.random.choice(self.churn.directories())
            prefix = f"{path.relative_to(self.root)}/" if path != self.root else ""
        self.is_busy = before
        walker = Walker(
            self.raw, self.ignore, prefix=prefix, links=self.links, follow=False,
            enter=self.watches.enter,
        )  # fmt: skip
        listings = walker.step(1)
        files = listings[0].files if listings else {}
        for name in self.directly_in(prefix) - files.keys():
            del self.index[prefix + name]
        self.index.update((prefix + name, found[:4]) for name, found in files.items())

    # --- the whole --------------------------------------------------------------------------------

    def directly_in(self, prefix: str) -> set[str]:
        """Return the known names in a directory."""
        names = {key[len(prefix) :] for key in self.index if key.startswith(prefix)}
        return {name for name in names if "/" not in name}

    def scan_all(self) -> None:
        """Come by every directory."""
        for path in self.churn.directories():
            self.scan(f"{path.relative_to(self.root)}/" if path != self.root else "")

    def calm(self) -> None:
        """Work through everything, with time between."""
        for _ in range(8):
            self.read()
            while self.events:
                self.feed()
                self.settle()
            self.now += 1
            self.settle()
            while self.take() or self.search():
                pass

    def step(self, *, scans: bool) -> None:
        """Do anything."""
        self.random.choices(
            [
                self.operate, self.read, lambda: self.feed(self.random.choice([1, 1, 2, 5, 1000])),
                lambda: self.settle(1), self.settle, lambda: self.take(self.random.choice([1, 3, 1000])),
                self.pass_time, self.search, self.scan,
            ],
            [6, 3, 6, 4, 2, 3, 1, 1, scans],
        )[0]()  # fmt: skip

    def pass_time(self) -> None:
        """Let most of the time pass in which the second half of a rename is awaited."""
        self.now += 0.15

    def truth(self) -> dict[str, tuple[int | None, ...]]:
        """Return what is there."""
        found = {str(path.relative_to(self.root)): path.stat() for path in self.root.rglob("*") if path.is_file()}
        return {key: (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for key, s in found.items()}

    def differences(self) -> dict[str, Any]:
        """Return where index and tree differ in more than a change time, but for what no event can tell."""
        truth, blind = self.truth(), out_of_sight(self.churn.shared)
        found = {key: (truth.get(key), self.index.get(key)) for key in truth.keys() | self.index.keys()}
        return {
            key: (there, known)
            for key, (there, known) in found.items()
            if there is None or known is None or (there[:2], there[3]) != (known[:2], known[3])
            if there is None or there[3] not in blind
        }

    @contextmanager
    def preempted(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Let operations come between system calls, and time pass only by steps."""

        def hooked(call: Callable[..., Any]) -> Callable[..., Any]:
            def calling(*arguments: Any, **named: Any) -> Any:
                self._maybe_operate()
                found = call(*arguments, **named)
                self._maybe_operate()
                return found

            return calling

        with monkeypatch.context() as patch:
            patch.setattr(watches, "time", self)
            patch.setattr(pending_names, "time", self)
            patch.setattr(self.watches.kernel, "add", hooked(self.watches.kernel.add))
            for name in SYSTEM_CALLS:
                patch.setattr(os, name, hooked(getattr(os, name)))
            yield

    def _maybe_operate(self) -> None:
        if not self.is_busy and self.random.random() < self.hot:
            self.operate()

    def monotonic(self) -> float:
        """Stand for the clock."""
        return self.now


@pytest.fixture(params=["inotify", "fanotify"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Return an empty tree that is watched."""
    made = World(tmp_path, 0, steps=0, kind=kind_of(request.param, tmp_path, request))
    made.scan_all()
    yield made
    made.watches.close()


def kind_of(backend: str, path: Path, request: pytest.FixtureRequest) -> type[Watches]:
    """Return what watches by this backend."""
    if backend == "fanotify":
        fanotify_needed(request, path)
        return FanotifyWatches
    return Watches


@pytest.mark.parametrize("backend", ["inotify", "fanotify"])
@pytest.mark.parametrize(("scans", "hot"), [(False, 0.15), (True, 0.1)], ids=["events alone", "with scans"])
def test_in_any_order_of_steps_the_index_ends_as_the_tree_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    scans: bool,
    hot: float,
    backend: str,
) -> None:
    """Whatever comes between: in the end all is reported, and exactly the directories that are there are watched."""
    kind = kind_of(backend, tmp_path, request)
    for seed in range(SEEDS):
        world = World(tmp_path / f"{seed}", seed, hot=hot, kind=kind)
        world.scan_all()
        with world.preempted(monkeypatch):
            for _ in range(150):
                world.step(scans=scans)
            world.hot = 0.0
            world.calm()
        assert not world.differences(), f"seed {seed}"
        assert world.watches.count == len(world.churn.directories()), f"seed {seed}"
        world.watches.close()


def test_a_file_deleted_while_a_scan_meets_a_rename_is_reported(world: World) -> None:
    """A scan comes by a renamed directory before the rename is worked through: what goes between is reported."""
    (world.root / "old" / "below").mkdir(parents=True)
    for path in ("old/one", "old/below/two"):
        (world.root / path).write_text("x")
    world.calm()
    (world.root / "old").rename(world.root / "new")
    world.scan("new/")
    world.scan("new/below/")
    assert {"new/one", "new/below/two"} <= world.index.keys()
    world.read()
    world.feed()
    (world.root / "new" / "one").unlink()
    (world.root / "new" / "below" / "two").unlink()
    world.calm()
    assert not world.differences()


def test_events_in_a_directory_that_is_renamed_over_are_reported(world: World) -> None:
    """Its last file goes, then it is replaced, all before anybody looks: the file is reported as gone."""
    for path in ("new", "old"):
        (world.root / path).mkdir()
        (world.root / path / path).write_text("x")
    world.calm()
    (world.root / "old" / "old").unlink()
    (world.root / "new").rename(world.root / "old")
    world.read()
    world.feed()
    world.settle()
    world.calm()
    assert world.index.keys() == {"old/new"}
    assert not world.differences()


@pytest.mark.parametrize("kind", ["directories", "directory and file", "directory and link", "at other heights"])
def test_exchanged_places_are_both_watched(world: World, kind: str) -> None:
    """The kernel reports an exchange as two renames: what stands in both places is found, and later changes too."""
    for path in ("one/sub", "two/sub", "deep/er"):
        (world.root / path).mkdir(parents=True)
        (world.root / path / "page").write_text(path)
    (world.root / "file").write_text("x")
    (world.root / "link").symlink_to("file")
    world.calm()
    second = {"directories": "two", "directory and file": "file", "directory and link": "link"}.get(kind, "deep/er")
    exchange(world.root / "one", world.root / second)
    world.calm()
    assert not world.differences()
    for path in world.churn.directories():
        (path / "late").write_text("x")
    world.calm()
    assert not world.differences()
    assert world.watches.count == len(world.churn.directories())


@pytest.mark.parametrize("in_its_place", [False, True])
def test_a_directory_deleted_while_its_parent_is_not_watched_is_reported(world: World, in_its_place: bool) -> None:
    """The parent's watch is lost for a moment: what a listing does not show any more is gone, files and directories."""
    (world.root / "parent" / "child").mkdir(parents=True)
    for path in ("parent/file", "parent/child/below"):
        (world.root / path).write_text("x")
    world.calm()
    parent = world.watches.tree.find(b"parent/")
    assert parent is not None
    with world.watches.lock:
        world.watches._bindings.unbind(parent)
    (world.root / "parent" / "file").unlink()
    (world.root / "parent" / "child" / "below").unlink()
    (world.root / "parent" / "child").rmdir()
    if in_its_place:
        (world.root / "parent" / "child").write_text("a file by now")
    world.watches._new.append((parent, 0))
    world.calm()
    assert not world.differences()
    assert world.watches.count == 2


def write(path: Path, text: str = "x") -> Path:
    """Write a file, with all directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_that_is_made_and_exchanged_at_once_is_looked_at(world: World) -> None:
    """The last event of its name is a rename away from it, as of a temporary file; yet a file is there."""
    write(world.root / "old")
    world.calm()
    write(world.root / "new")
    exchange(world.root / "old", world.root / "new")
    world.calm()
    assert world.index.keys() == {"old", "new"}
    assert not world.differences()


def test_a_temporary_file_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was made and renamed away between two looks is gone: rsync makes one of each file."""
    world = World(tmp_path, 0, steps=0)
    world.scan_all()
    looked: list[bytes] = []
    for number in range(3):
        write(world.root / f".{number}.aB3dE9").rename(world.root / f"{number}")
    world.read()
    world.feed()
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: (looked.append(path), lstat(path))[1])
    batch = world.watches.take(1000)
    looks = world.stat_reader.all(batch, time.time_ns())
    assert sorted(looks.gone) == [".0.aB3dE9", ".1.aB3dE9", ".2.aB3dE9"]
    assert looked == [world.raw + name for name in (b"0", b"1", b"2")]
    world.watches.close()


@pytest.mark.parametrize("backend", ["inotify", "fanotify"])
def test_files_of_a_new_directory_are_looked_at_once(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Names that a listing finds wait; a name that is reported closed meanwhile is taken at once, and not again."""
    world = World(tmp_path, 1, steps=0, kind=kind_of(backend, tmp_path, request))
    world.scan_all()
    with monkeypatch.context() as patch:
        patch.setattr(pending_names, "time", world)
        write(world.root / "new" / "1")
        write(world.root / "new" / "2")
        world.read()
        world.feed()
        world.settle()
        world.watches.take(1000)
        write(world.root / "new" / "2", "more")
        world.read()
        world.feed()
        taken = [[*names] for _, names in world.watches.take(1000).names]
        assert taken == [[world.watches.name_as_reported(b"2")]]
        world.now += 0.5
        taken = [[*names] for _, names in world.watches.take(1000).names]
        assert taken == [[world.watches.name_as_reported(b"1")]]
        assert not world.watches.pending
        assert not world.watches.pending.count
    world.watches.close()


def test_a_scan_between_an_exchange_and_its_deletions_loses_no_file(world: World) -> None:
    """A scan lists both directories after the events of their exchange, and before the old ones are deleted."""
    write(world.root / "one" / "a")
    write(world.root / "two" / "b")
    world.calm()
    exchange(world.root / "one", world.root / "two")
    world.read()
    world.feed()
    world.scan("one/")
    world.scan("two/")
    world.take()
    world.calm()
    assert world.index.keys() == {"one/b", "two/a"}


@pytest.mark.parametrize("is_taken", [False, True], ids=["looked at once", "looked at between"])
@pytest.mark.parametrize("removed_at_last", [0, 4], ids=["both stay", "one is removed"])
@pytest.mark.parametrize("backend", ["inotify", "fanotify"])
def test_an_exchange_of_directories_is_no_write_wherever_its_events_are_split(
    tmp_path: Path, request: pytest.FixtureRequest, backend: str, removed_at_last: int, is_taken: bool
) -> None:
    """The files of both are compared by bytes, after however many events and deletions they are looked at first."""
    kind = kind_of(backend, tmp_path, request)
    for events, removed in itertools.product([0, 1, 2, 3, 4, 1000], range(removed_at_last + 1)):
        world = World(tmp_path / f"{events} {removed}", 0, steps=0, kind=kind)
        new = world.root / "new"
        for path in ("current/1", "current/deep/2", "new/1", "new/deep/2"):
            write(world.root / path)
        world.scan_all()
        exchange(world.root / "current", new)
        removals = [(new / "1").unlink, (new / "deep" / "2").unlink, (new / "deep").rmdir, new.rmdir][:removed_at_last]
        world.read()
        for remove in removals[:removed]:
            remove()
        world.feed(events)
        world.settle()
        for _ in range(2):
            if is_taken:
                world.take()
            world.read()
            world.feed()
            world.settle()
        for remove in removals[removed:]:
            remove()
        world.calm()
        assert not world.in_place, f"{events} events, {removed} removals"
        assert not world.differences()
        world.watches.close()


def test_a_link_in_the_place_of_a_renamed_directory_is_not_watched(world: World) -> None:
    """A directory is renamed and a link to it takes its place before anybody looks: one watch, which ends with it."""
    write(world.root / "old" / "file")
    world.calm()
    (world.root / "old").rename(world.root / "new")
    world.read()
    world.feed()
    (world.root / "old").symlink_to("new")
    world.calm()
    assert world.watches.count == 2
    (world.root / "old").unlink()
    shutil.rmtree(world.root / "new")
    world.calm()
    assert world.watches.count == 1
    assert not world.differences()


def test_a_file_reported_under_a_directory_whose_rename_is_still_to_come_ends_there(world: World) -> None:
    """A new place is listed before the rename to it is worked through: what went there meanwhile is reported."""
    write(world.root / "first" / "y")
    (world.root / "second").mkdir()
    world.calm()
    write(world.root / "second" / "sub" / "x")
    world.read()
    world.feed()
    (world.root / "first").rename(world.churn.outside / "away")
    world.read()
    world.feed()
    (world.root / "second").rename(world.root / "first")
    world.settle()
    world.take()
    (world.root / "first" / "sub" / "x").unlink()
    world.calm()
    assert not world.differences()


def test_another_name_in_a_directory_that_is_not_watched_is_left_out(world: World) -> None:
    """A hard link below a directory that took another's place is not reported before that one is watched."""
    file = write(world.root / "file")
    for name in ("one", "two"):
        write(world.root / name / "b" / "other")
    (world.root / "two" / "b" / "name").hardlink_to(file)
    world.calm()
    file.write_text("changed")
    exchange(world.root / "one", world.root / "two")
    world.scan("one/b/")
    world.read()
    world.feed()
    world.take()
    shutil.rmtree(world.root / "one" / "b")
    world.calm()
    assert not world.differences()


@pytest.mark.parametrize("through", ["given", "link"])
def test_a_file_that_is_given_a_second_name_changes_under_its_first(world: World, through: str) -> None:
    """Linking is reported for the new name alone; the first, and links to it, are searched for and reported later."""
    (world.root / "a").mkdir()
    (world.root / "a" / "file").write_text("one")
    (world.root / "link").symlink_to("a/file")
    world.calm()
    os.link(world.root / "a" / "file", world.root / "given")
    if through == "given":  # before anybody could search
        (world.root / "given").write_text("through the second name, at once")
    world.calm()
    assert not world.differences()
    (world.root / through).write_text("through the second name, later")
    world.calm()
    assert not world.differences()
    assert world.index["a/file"][0] == world.index["link"][0] == 30


def test_a_search_leaves_out_what_is_not_watched_yet(world: World) -> None:
    """A name in a directory that came a moment ago may go again unheard, until that one is watched and listed."""
    (world.root / "file").write_text("one")
    world.calm()
    (world.root / "new").mkdir()
    os.link(world.root / "file", world.root / "new" / "given")
    world.wanted[(world.root / "file").stat().st_ino] = 2
    world.search()
    (world.root / "new" / "given").unlink()
    world.calm()
    assert not world.differences()


def test_names_outside_the_tree_are_searched_for_once(world: World, tmp_path: Path) -> None:
    """A file with a name elsewhere (a backup by hard links) does not cost a search at each change."""
    (world.root / "file").write_text("one")
    os.link(world.root / "file", tmp_path / "backup")
    world.calm()
    (world.root / "file").write_text("two")
    world.read()
    world.feed()
    world.take()
    assert not world.wanted


def test_a_link_that_led_in_a_circle_is_reported_when_it_leads_to_a_file(world: World) -> None:
    """What a link names is remembered also while it cannot be followed."""
    (world.root / "link").symlink_to("name")
    (world.root / "name").symlink_to("name")
    world.calm()
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        (world.root / "link").stat()
    (world.root / "next").write_text("x")
    (world.root / "next").rename(world.root / "name")
    world.calm()
    assert {"link", "name"} <= world.index.keys()


def test_links_that_are_gone_make_room(tmp_path: Path) -> None:
    """The bound counts names that are there: those that went are swept before one more is refused."""
    links = Links(os.fsencode(tmp_path) + b"/", most=3)
    for number in range(3):
        (tmp_path / f"l{number}").symlink_to("target")
        links.note_soft(f"l{number}", None)
    (tmp_path / "l0").unlink()
    (tmp_path / "l3").symlink_to("target")
    links.note_soft("l3", None)
    assert not links.overfull
    assert links.depending("target") == {"l1", "l2", "l3"}
    (tmp_path / "l4").symlink_to("target")
    links.note_soft("l4", None)
    assert links.overfull
