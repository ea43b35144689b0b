"""Very many directories that are removed together are counted in a moment, on the event loop as it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Delivery
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.known import Acks
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.live import Live
from listener.sources.filesystem.names import Ignore, StatReader
from listener.sources.filesystem.outstanding import Rescans
from listener.sources.filesystem.settings import FilesystemSettings, Root
from listener.testing import MemoryIndex

DIRECTORIES = [f"d{number}/" for number in range(20_000)]
FILES = [f"{directory}{name}" for directory in DIRECTORIES for name in "ab"]
MOST_SECONDS = 2.0
"""Of a processor; each file compared with each directory takes some 5."""


@contextmanager
def quick() -> Iterator[None]:
    """See that the block takes little of a processor."""
    began = time.process_time()
    yield
    assert time.process_time() - began < MOST_SECONDS


def deleted_directories() -> list[Change]:
    """Return the deletions of all directories, as they come from the kernel."""
    return [Change("www", key, ChangeKind.SUBTREE_DELETED) for key in DIRECTORIES]


async def test_the_deletion_guard_counts_files_of_very_many_directories_once(tmp_path: Path) -> None:
    """The files below deleted directories count as the index knows them, each once; all others by themselves."""
    index, path = MemoryIndex(), os.fsencode(tmp_path) + b"/"
    root = Root("www", path, FilesystemSettings(path=tmp_path), Ignore(), Links(path), index)
    acks, guard = Acks(on_ack=lambda: None), DeletionGuard(share=0.5, minimum=1_000_000)
    rescans = Rescans(interval_seconds=0, jitter=0, now=0.0)
    reader = StatReader(path, root.ignore, root.links, stable_seconds=0.0)
    live = Live(root, stat_reader=reader, acks=acks, deletion_guard=guard, rescans=rescans)
    known = [f"{directory}{name}" for directory in DIRECTORIES[:3] for name in "abc"]
    index.apply(Delivery([Change("www", key, fingerprint=Fingerprint(1)) for key in known], acks.settled))
    files = [Change("www", key, ChangeKind.DELETED) for key in [*FILES, "d1", "e/a"]]
    few = [change for change in deleted_directories() if change.key in DIRECTORIES[:3]]
    assert await live._files_in([*few, *files]) == len(known) + len(files) - 6
    with quick():
        assert await live._files_in([*deleted_directories(), *files]) == len(known) + 2


async def test_names_below_very_many_deleted_directories_are_looked_up_quickly() -> None:
    """While the ends of all directories are under way, what comes below them is known to be, too."""
    acks = Acks(on_ack=lambda: None)
    acks.deliver(deleted_directories())
    with quick():
        assert acks.keys_under_way([*FILES, "d1", "e/a"]) == {*FILES}
