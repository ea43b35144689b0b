"""
What was heard of a tree and not yet taken: names by directory, merged, within a bound.

An event says only "look at this name": what became of it is asked of the file system when the
name is taken, so a thousand events of one file are one look. Beyond the bound a directory's
names are forgotten and the directory is scanned again instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from listener.change import key_to_text
from listener.sources.filesystem import kernel
from listener.sources.filesystem.rescans import TOO_MANY
from listener.sources.filesystem.tree import Node, Tree

__all__ = ["ARRIVED", "BORN", "EFFECTS", "ENDED", "FOUND", "OPEN", "Batch", "Heard", "batch_of"]

OPEN = 1 << 16
"""The last that was heard is that it was made or written to, not that it was closed."""
FOUND = 1 << 17
"""Found by listing a directory that had just appeared: whether it is still written to is unknown."""
ARRIVED = 1 << 18
"""Came with a directory that was renamed or moved in."""
BORN = 1 << 19
"""The first event of this name was that it was created, which proves that nothing had this name just before."""

ENDED = ~(OPEN | FOUND)
"""What stays of a name's flags when it is closed, replaced or gone."""

EFFECTS: dict[int, tuple[int, int, int]] = {
    kernel.CREATE: (-1, kernel.CREATE | OPEN, kernel.CREATE | OPEN | BORN),
    kernel.ATTRIB: (-1, kernel.ATTRIB, kernel.ATTRIB),
    kernel.MODIFY: (-1, kernel.MODIFY | OPEN, kernel.MODIFY | OPEN),
    kernel.CLOSE_WRITE: (ENDED, kernel.CLOSE_WRITE, kernel.CLOSE_WRITE),
    kernel.MOVED_TO: (ENDED, kernel.MOVED_TO, kernel.MOVED_TO),
    kernel.MOVED_FROM: (ENDED, kernel.MOVED_FROM, kernel.MOVED_FROM),
    kernel.DELETE: (ENDED, kernel.DELETE, kernel.DELETE),
}
"""By event of a file: which flags of its name stay, which are added, and all flags of a name without earlier events."""

_MOST_RESCANS = 256


class Batch(NamedTuple):
    """What was taken, in the order in which it must be told."""

    gone: tuple[bytes, ...]
    """Directories that went away, as paths; first, since one of the same name may have come since."""
    names: tuple[tuple[bytes, dict[bytes, int]], ...]
    """By directory: names (padded with NULs) and their flags."""
    rescans: dict[bytes, str]
    """Directories to compare with the index, and why."""
    gaps: tuple[bytes, ...] = ()
    """
    Directories that were not heard for a moment. They were listed since, so that whatever is there
    is among the names; what is *not* there any more only the index can tell.
    """
    is_hint: bool = False
    """Whether no event named these paths, so that what they lead through may have been replaced long ago."""

    def births(self) -> Iterator[str]:
        """Yield the keys of names that did not exist just before their first event in this batch."""
        for prefix, names in self.names:
            for name, flags in names.items():
                if flags & BORN:
                    yield key_to_text(prefix + name.rstrip(b"\0"))


def batch_of(paths: Iterable[bytes]) -> Batch:
    """Return names to look at of which no event spoke: there or gone, and perhaps still written to."""
    names: dict[bytes, dict[bytes, int]] = {}
    for path in paths:
        prefix, slash, name = path.rpartition(b"/")
        names.setdefault(prefix + slash, {})[name] = kernel.MOVED_TO | FOUND
    return Batch((), tuple(names.items()), {}, is_hint=bool(names))


class Heard:
    """The collection; its owner holds the lock around every call."""

    def __init__(self, tree: Tree, *, bound: int) -> None:
        """Collect at most about ``bound`` names."""
        self._tree = tree
        self._bound = bound
        self.count = 0
        self.dirty: dict[Node, None] = {}
        self.gone: dict[bytes, None] = {}
        self.rescans: dict[bytes, str] = {}
        self.gaps: dict[Node, None] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to take."""
        return bool(self.dirty or self.gone or self.rescans or self.gaps)

    def names_of(self, node: Node) -> dict[bytes, int]:
        """Return the names heard of in this directory, to be added to; ``count`` is the caller's to raise."""
        if node.names is None:
            node.names = {}
            self.dirty[node] = None
        return node.names

    def add(self, node: Node, name: bytes, flags: int) -> None:
        """Hear of one name; what events said of it already stays."""
        names = self.names_of(node)
        if name not in names:
            names[name] = flags
            self.count += 1

    def forget(self, node: Node) -> dict[bytes, int]:
        """Forget the names of one directory and return them."""
        self.dirty.pop(node, None)
        names, node.names = node.names or {}, None
        self.count -= len(names)
        return names

    def went(self, prefix: bytes) -> None:
        """Note that a directory went away; later for one that went before, so that order is kept."""
        self.gone.pop(prefix, None)
        self.gone[prefix] = None

    def rescan(self, prefix: bytes, reason: str) -> None:
        """Ask for a comparison of this directory and all below it."""
        self.rescans[prefix] = reason
        if len(self.rescans) > _MOST_RESCANS:
            self.rescans = {b"": reason}

    def keep_bound(self) -> None:
        """Turn the fullest directories into rescans when there is too much."""
        if self.count <= self._bound:
            return
        for node in sorted(self.dirty, key=lambda node: len(node.names or ()), reverse=True):
            prefix = self._tree.prefix_of(node)
            self.forget(node)
            if prefix is not None:
                self.rescan(prefix, TOO_MANY)
            if self.count <= self._bound // 2:
                return

    def take(self, limit: int, *, awaiting: bool) -> Batch:
        """
        Take everything but names, and at most ``limit`` names.

        Directories without a path are forgotten, unless they are ``awaiting`` the other half of a rename.
        """
        gone, self.gone = tuple(self.gone), {}
        rescans, self.rescans = self.rescans, {}
        gaps, self.gaps = [self._tree.prefix_of(node) for node in self.gaps], {}
        names = tuple(self._take_names(limit, awaiting=awaiting))
        return Batch(gone, names, rescans, tuple(prefix for prefix in gaps if prefix is not None))

    def _take_names(self, limit: int, *, awaiting: bool) -> Iterator[tuple[bytes, dict[bytes, int]]]:
        for node in list(self.dirty):
            prefix = self._tree.prefix_of(node)
            if prefix is None:
                if not awaiting:
                    self.forget(node)
                continue
            names = self._some_names(node, limit)
            yield prefix, names
            limit -= len(names)
            if limit <= 0:
                return

    def _some_names(self, node: Node, limit: int) -> dict[bytes, int]:
        names = node.names or {}
        if len(names) <= limit:
            return self.forget(node)
        some = dict(islice(names.items(), limit))
        for name in some:
            del names[name]
        self.count -= len(some)
        return some
