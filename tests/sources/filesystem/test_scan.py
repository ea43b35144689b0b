"""One comparison of a tree with the index: what it finds is what a look at each file by itself would find."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Delivery, no_ack
from listener.sources.filesystem import FilesystemSource, walker
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.known import Acks
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.scan import _MOST_UNDER_WAY, Scan, ScanMode
from listener.sources.filesystem.settings import FilesystemSettings, Root
from listener.sources.filesystem.walker import Walker
from listener.testing import MemoryIndex
from tests.waiting import until

NAMES = ("a.html", "b", "é", "\udcff", "with blank", ".hidden", ".x.swp", "Thumbs.db", "z" * 200)
FOLDERS = ("", "d/", "d/e/", "d/e/f/", "\udcfe/", ".git/", "empty/", "many/")
CHANGED = {
    "size": {"size_bytes": 5},
    "mtime": {"mtime_ns": 5},
    "ctime": {"ctime_ns": 5},
    "inode": {"inode": 5},
    "readers": {"access": 5},
    "unknown readers": {"access": None},
}
"""One field of a fingerprint that is not as it was."""


class Compared:
    """A scan that is over: the changes it reports, and what it has only the index learn."""

    def __init__(self, scan: Scan, links: Links, changes: list[Change], learnt: list[Change]) -> None:
        """Keep both, and which links it noted."""
        self.scan, self.links, self.changes, self.learnt = scan, links, changes, learnt

    @property
    def content(self) -> dict[str, Fingerprint | None]:
        """What is reported as changed, by key, digests left out."""
        found = {one.key: one.fingerprint for one in self.changes if one.kind is ChangeKind.CONTENT}
        return {key: one and one._replace(etag=None) for key, one in found.items()}

    @property
    def deleted(self) -> list[str]:
        """Keys that are reported as deleted."""
        return sorted(one.key for one in self.changes if one.kind is ChangeKind.DELETED)


async def compare(path: Path, index: MemoryIndex, *, prefix: str = "", batch: int = 3) -> Compared:
    """Compare a tree with an index, in portions of a few files."""
    raw, settings = os.fsencode(path) + b"/", FilesystemSettings(path=path, batch_changes=batch)
    root = Root("www", raw, settings, Ignore(settings.ignore), Links(raw), index)
    walk = Walker(raw, root.ignore, prefix=prefix, links=root.links, enter=lambda _: None)
    guard = DeletionGuard(share=1.0, minimum=1_000_000)
    mode = ScanMode(not index.is_seeded, most_bytes=1 << 20)
    scan = Scan(root, prefix, walk, mode, deletion_guard=guard, is_same_root=lambda: True)
    found = [findings async for findings in scan.portions()]
    return Compared(
        scan,
        root.links,
        [change for findings in found for change in findings.changes],
        [change for findings in found for change in findings.learnt],
    )


def looked_at(path: Path) -> Iterator[tuple[str, Fingerprint]]:
    """Look at each file of a tree by itself."""
    ignore = Ignore()
    for folder in FOLDERS:
        if folder.startswith(".git"):
            continue
        for name in NAMES:
            file = os.fsencode(path) + b"/" + (folder + name).encode("utf-8", "surrogateescape")
            if os.path.lexists(file) and not ignore.file(folder, name):
                status = os.lstat(file)
                yield (
                    folder + name,
                    Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, None, 0),
                )


def put(index: MemoryIndex, rows: dict[str, Fingerprint]) -> None:
    """Have the index know these objects."""
    index.apply(Delivery([Change("www", key, ChangeKind.CONTENT, found) for key, found in rows.items()], no_ack))


def random_tree(path: Path, chance: random.Random) -> None:
    """Write some of the files."""
    path.chmod(0o755)
    for folder in FOLDERS:
        place = os.fsencode(path) + b"/" + folder.encode("utf-8", "surrogateescape")
        Path(os.fsdecode(place)).mkdir(parents=True, exist_ok=True)
        for name in NAMES if folder != "empty/" else ():
            if folder == "many/" or chance.random() < 0.5:
                file = Path(os.fsdecode(place + name.encode("utf-8", "surrogateescape")))
                file.write_bytes(bytes(chance.randrange(9)))
                os.utime(file, ns=(0, chance.randrange(10**18)))


@pytest.mark.parametrize("seed", range(30))
async def test_a_scan_finds_what_a_look_at_each_file_finds(tmp_path: Path, seed: int) -> None:
    """Of random trees and indexes: files and directories that came, went or differ in one field, names of any bytes."""
    chance = random.Random(seed)
    random_tree(tmp_path, chance)
    there, index = dict(looked_at(tmp_path)), MemoryIndex()
    index.is_seeded = chance.random() < 0.7
    known = {key: found for key, found in there.items() if chance.random() < 0.8}
    changed = {key: found._replace(**chance.choice([*CHANGED.values()])) for key, found in known.items()}
    known.update((key, found) for key, found in changed.items() if chance.random() < 0.3)
    known = {key: found._replace(etag="e") if chance.random() < 0.3 else found for key, found in known.items()}
    gone = [
        folder + name for folder in ("d/", "empty/", "many/", "went/") for name in NAMES if folder + name not in there
    ]
    known.update((key, Fingerprint(1, 2, 3, 4, None, 0)) for key in chance.sample(gone, 5))
    put(index, known)
    result = await compare(tmp_path, index, batch=chance.choice([1, 3, 1000]))
    differing = {key for key, found in there.items() if key in known and known[key]._replace(etag=None) != found}
    new = there.keys() - known.keys()
    # An index that did not know who may read a file learns it, without a change.
    silent = {key for key in differing if known[key].access is None} | (set() if index.is_seeded else new)
    assert result.content == {key: there[key] for key in (differing | new) - silent}
    assert {change.key for change in result.learnt} == silent
    assert {change.key: change.fingerprint and change.fingerprint[:4] for change in result.learnt} == {
        key: there[key][:4] for key in silent
    }
    assert result.deleted == sorted(known.keys() - there.keys())
    scan = result.scan
    assert (scan.present, scan.known, scan.missing) == (len(there), len(known), len(known.keys() - there.keys()))


@pytest.mark.parametrize("field", CHANGED)
@pytest.mark.parametrize("etag", [None, "sha256/160:of other bytes"])
async def test_one_field_that_differs_is_enough(tmp_path: Path, field: str, etag: str | None) -> None:
    """Of one file among many whose others are as the index knows them, with digests and without."""
    random_tree(tmp_path, random.Random(0))
    there, index = dict(looked_at(tmp_path)), MemoryIndex()
    index.is_seeded = True
    known = {key: found._replace(etag=etag) for key, found in there.items()}
    put(index, known)
    assert not (await compare(tmp_path, index)).changes
    put(index, {"many/b": known["many/b"]._replace(**CHANGED[field])})
    result = await compare(tmp_path, index)
    expected = set() if field == "unknown readers" else {"many/b"}
    assert result.content.keys() == expected
    assert {change.key for change in result.learnt} == {"many/b"} - expected


async def test_a_tree_that_is_as_it_was_is_compared_by_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fingerprint is read of one whose files were not touched, in whatever order the system lists them."""
    random_tree(tmp_path, random.Random(1))
    index, asked = MemoryIndex(), list[str]()
    index.is_seeded = True
    put(index, {key: found._replace(etag="e") for key, found in looked_at(tmp_path)})
    contents = index.contents

    async def counted(root: str, directories: Sequence[str]) -> Mapping[str, Mapping[str, Fingerprint]]:
        asked.extend(directories)
        return await contents(root, directories)

    monkeypatch.setattr(index, "contents", counted)
    assert not (await compare(tmp_path, index)).changes
    assert not asked


async def test_what_is_no_plain_file_is_compared_as_well(tmp_path: Path) -> None:
    """A file of two names, links to files and directories, a pipe, a file that not everybody may read."""
    tmp_path.chmod(0o755)
    (tmp_path / "one").write_text("x")
    os.link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "private").write_text("y")
    (tmp_path / "private").chmod(0o600)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "in").write_text("z")
    (tmp_path / "to").symlink_to("d")
    (tmp_path / "nowhere").symlink_to("absent")
    index = MemoryIndex()
    index.is_seeded = True
    result = await compare(tmp_path, index)
    assert sorted(result.content) == ["d/in", "link", "one", "private", "to/in", "two"]
    found = {key: one for key, one in result.content.items() if one is not None}
    assert found["link"] == found["one"] == found["two"]
    assert found["private"].access != 0 == found["one"].access
    assert sorted(result.links.leads) == ["link", "nowhere", "one", "to", "two"]
    put(index, found)
    assert not (await compare(tmp_path, index)).changes


def test_names_are_bytes_whatever_the_encoding_of_the_system() -> None:
    """The walker encodes names as the interpreter decoded them."""
    for raw in (b"a", b"\xff\xfe", "é".encode()):
        assert os.fsdecode(raw).encode(walker._ENCODING, walker._ERRORS) == raw
    assert sys.getfilesystemencoding() == walker._ENCODING


@pytest.mark.looptime(False)
async def test_what_a_scan_found_does_not_pile_up(tmp_path: Path) -> None:
    """It goes on once what it delivered is recorded, so that its memory does not grow with the tree."""
    for number in range(20):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "a").write_text("x")
    source = FilesystemSource("www", FilesystemSettings(path=tmp_path, batch_changes=1, backend="polling"))
    waiting: asyncio.Queue[Delivery] = asyncio.Queue()

    async def read() -> None:
        async with aclosing(source.deliveries(MemoryIndex())) as deliveries:  # type: ignore[type-var]
            async for delivery in deliveries:
                waiting.put_nowait(delivery)

    task = asyncio.create_task(read())
    try:
        for number in range(20):
            await until(lambda left=20 - number: waiting.qsize() == min(_MOST_UNDER_WAY + 1, left))
            if number == 5:
                await asyncio.sleep(0.1)
                assert waiting.qsize() == _MOST_UNDER_WAY + 1
            await (await waiting.get()).ack()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_scan_does_not_wait_for_ever() -> None:
    """Where nothing is acknowledged it goes on after a while; else as soon as there is room."""
    acks, loop = Acks(on_ack=lambda: None), asyncio.get_running_loop()
    deliveries = [acks.deliver([Change("www", key)]) for key in "abc"]
    began = loop.time()
    await acks.room(3, 30.0)
    assert loop.time() == began
    await acks.room(2, 30.0)
    assert loop.time() == began + 30.0
    loop.call_later(5.0, lambda: asyncio.ensure_future(deliveries[0].ack()))
    await acks.room(2, 30.0)
    assert loop.time() == began + 35.0
