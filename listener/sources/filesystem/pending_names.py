"""
Names that events reported and nobody has taken yet: by directory, merged, within a bound.

An event says only "look at this name": what became of it is looked up in the file system when the
name is taken, so a thousand events of one file are one look. Beyond the bound a directory's
names are forgotten and the directory is scanned again instead.

The directories form a :class:`Tree`, so that renaming one with 100,000 below it is one step. Their paths are bytes,
relative to the root: ``b""`` the root itself, else ending with ``/``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from listener import kernel
from listener.change import key_to_text
from listener.sources.filesystem.outstanding import TOO_MANY

__all__ = [
    "ARRIVED",
    "BORN",
    "EFFECTS",
    "ENDED",
    "FOUND",
    "GONE",
    "OPEN",
    "UNBROKEN",
    "Batch",
    "Node",
    "PendingNames",
    "Tree",
    "batch_of",
]

OPEN = 1 << 16
"""The last event was its creation or a write, not its closing."""
FOUND = 1 << 17
"""Found by listing a directory that had just appeared: whether it is still written to is unknown."""
ARRIVED = 1 << 18
"""Came with a directory that was renamed or moved in."""
BORN = 1 << 19
"""The first event of this name was that it was created, which proves that nothing had this name just before."""

GONE = 1 << 20
"""The last event is that it went."""
UNBROKEN = 1 << 21
"""
All that befell the name since it was created is known from events, and no file was renamed to it.

An exchange is reported as a rename to the name, then one from it, although a file is there.
"""

ENDED = ~(OPEN | FOUND)
"""What stays of a name's flags when it is closed, replaced or gone."""
_COMPLETED = kernel.CLOSE_WRITE | kernel.MOVED_TO | kernel.MOVED_FROM | kernel.DELETE

EFFECTS: dict[int, tuple[int, int, int]] = {
    kernel.CREATE: (~GONE, kernel.CREATE | OPEN, kernel.CREATE | OPEN | BORN | UNBROKEN),
    kernel.ATTRIB: (-1, kernel.ATTRIB, kernel.ATTRIB),
    kernel.MODIFY: (-1, kernel.MODIFY | OPEN, kernel.MODIFY | OPEN),
    kernel.CLOSE_WRITE: (ENDED, kernel.CLOSE_WRITE, kernel.CLOSE_WRITE),
    kernel.MOVED_TO: (ENDED & ~UNBROKEN, kernel.MOVED_TO, kernel.MOVED_TO),
    kernel.MOVED_FROM: (ENDED, kernel.MOVED_FROM | GONE, kernel.MOVED_FROM | GONE),
    kernel.DELETE: (ENDED, kernel.DELETE | GONE, kernel.DELETE | GONE),
}
"""By event of a file: which flags of its name stay, which are added, and all flags of a name without earlier events."""

_MOST_RESCANS = 256


class Batch(NamedTuple):
    """What was taken, in the order in which it must be reported."""

    gone: tuple[bytes, ...]
    """Directories that went away, as paths; first, since one of the same name may have come since."""
    names: tuple[tuple[bytes, dict[bytes, int]], ...]
    """By directory: names (padded with NULs) and their flags."""
    rescans: dict[bytes, str]
    """Directories to compare with the index, and why."""
    gaps: tuple[bytes, ...] = ()
    """
    Directories that were not watched for a moment. They were listed since, so that whatever is there
    is among the names; what no longer exists only the index knows.
    """
    is_hint: bool = False
    """Whether no event named these paths, so that what they lead through may have been replaced long ago."""

    @property
    def name_count(self) -> int:
        """How many names were taken."""
        return sum(len(names) for _, names in self.names)

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


class PendingNames:
    """The collection; its owner holds the lock around every call."""

    def __init__(self, tree: Tree, *, bound: int, found_seconds: float = 0.0) -> None:
        """Collect at most about ``bound`` names; names found by a listing wait ``found_seconds`` for their events."""
        self.found_due = float("inf")
        """When the names that were found longest ago can be taken, on the monotonic clock."""
        self._found: dict[Node, tuple[float, dict[bytes, int]]] = {}
        """By directory: when the names that a listing found can be taken, and their flags."""
        self._found_seconds = found_seconds
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

    @property
    def waits(self) -> bool:
        """Whether names that a listing found wait for their events."""
        return bool(self._found)

    def is_pending(self, node: Node, name: bytes) -> bool:
        """Return whether this name waits to be taken."""
        return name in (node.names or ()) or (node in self._found and name in self._found[node][1])

    def names_of(self, node: Node) -> dict[bytes, int]:
        """Return the pending names of this directory, to add to; the caller raises ``count``."""
        if node.names is None:
            node.names = {}
            self.dirty[node] = None
        return node.names

    def add(self, node: Node, name: bytes, flags: int) -> None:
        """Note one name; what events reported of it stays, but that it came and went is no longer proved."""
        names = self.names_of(node)
        if name in names:
            names[name] &= ~UNBROKEN
        else:
            names[name] = flags
            self.count += 1

    def add_found(self, node: Node, names: Iterable[bytes]) -> None:
        """
        Note names that a listing found.

        Most are still being written, or were written a moment ago. They wait for their events, so that one look
        later decides; a name whose event comes first is taken with that.
        """
        found = dict.fromkeys(names, FOUND)
        if not self._found_seconds:
            for name in found:
                self.add(node, name, FOUND)
        elif found:
            due, before = self._found.get(node) or (time.monotonic() + self._found_seconds, {})
            known = len(before)
            before.update(found)
            self.count += len(before) - known
            self._found[node] = (due, before)
            self.found_due = min(self.found_due, due)

    def forget(self, node: Node) -> dict[bytes, int]:
        """Forget the names of one directory and return them."""
        self._join_found(node)
        return self._forget_joined(node)

    def _forget_joined(self, node: Node) -> dict[bytes, int]:
        self.dirty.pop(node, None)
        names, node.names = node.names or {}, None
        self.count -= len(names)
        return names

    def _join_found(self, node: Node) -> None:
        """Add the names that a listing found to those of which events speak."""
        _, found = self._found.pop(node, (0.0, {}))
        if not found:
            return
        names = self.names_of(node)
        for name in names.keys() & found.keys():
            self._complete(names, found, name)
        names.update(found)

    def _complete(self, names: dict[bytes, int], found: dict[bytes, int], name: bytes) -> None:
        """Let the events of a name count, and that a listing found it only where none of them ended it."""
        del found[name]
        self.count -= 1
        names[name] = names[name] & ~UNBROKEN | (0 if names[name] & _COMPLETED else FOUND)

    def _join_due(self) -> None:
        now = time.monotonic()
        while self._found and next(iter(self._found.values()))[0] <= now:
            self._join_found(next(iter(self._found)))
        self.found_due = min((due for due, _ in islice(self._found.values(), 1)), default=float("inf"))

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
        for node in list(self._found):
            self._join_found(node)
        self.found_due = float("inf")
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
        self._join_due()
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
        if found := self._found.get(node, (0.0, {}))[1]:
            for name in names.keys() & found.keys():
                self._complete(names, found, name)
        if len(names) <= limit:
            return self._forget_joined(node)
        some = dict(islice(names.items(), limit))
        for name in some:
            del names[name]
        self.count -= len(some)
        return some


class Node:
    """One directory: its place, its kernel watch, and which of its names were reported since last taken."""

    __slots__ = ("access", "children", "lost_watch", "name", "names", "parent", "round", "wd")

    def __init__(self, parent: Node | None, name: bytes) -> None:
        """Make a directory that is not watched yet."""
        self.parent = parent
        self.name = name
        self.children: dict[bytes, Node] | None = None
        self.names: dict[bytes, int] | None = None
        self.wd: int | None = None
        self.access: int | None = None
        """Who might enter it when it was last looked at (see :func:`of_directory`); ``None``: nobody looked."""
        self.lost_watch = False
        """Whether it lost a watch that it had: what happened since was not reported."""
        self.round = 0
        """The last scan that came by."""


class Tree:
    """Directories by place. A node that was taken out stays usable, but has no path."""

    def __init__(self) -> None:
        """Start with the root alone."""
        self.root = Node(None, b"")
        self._last = (b"", self.root)
        """Where :meth:`make` was last: a walk reads one directory's children in a row."""

    def prefix_of(self, node: Node) -> bytes | None:
        """Return the node's path, or ``None`` when it (or one above it) was taken out."""
        parts = []
        here = node
        while here.parent is not None:
            parts.append(here.name)
            here = here.parent
        if here is not self.root:
            return None
        return b"/".join([*reversed(parts), b""]) if parts else b""

    def find(self, prefix: bytes) -> Node | None:
        """Return the directory at this path, if it is known."""
        node = self.root
        for name in prefix.split(b"/")[:-1]:
            found = node.children.get(name) if node.children else None
            if found is None:
                return None
            node = found
        return node

    def make(self, prefix: bytes) -> Node:
        """Return the directory at this path, made known with all above it."""
        parent, _, name = prefix[:-1].rpartition(b"/")
        if not name:
            return self.root
        if parent != self._last[0]:
            node = self.root
            for each in parent.split(b"/") if parent else ():
                node = self.child(node, each)
            self._last = (parent, node)
        return self.child(self._last[1], name)

    def child(self, parent: Node, name: bytes) -> Node:
        """Return the directory of this name, made known if it was not."""
        if parent.children is None:
            parent.children = {}
        found = parent.children.get(name)
        if found is None:
            found = parent.children[name] = Node(parent, name)
        return found

    def take_out(self, parent: Node, name: bytes) -> Node | None:
        """Take a directory out with all below it, and return it."""
        node = parent.children.pop(name, None) if parent.children else None
        self._last = (b"", self.root)
        if node is not None:
            node.parent = None
        return node

    def put(self, parent: Node, name: bytes, node: Node) -> Node | None:
        """Put a directory that was taken out in a place; return the one that was there before, taken out."""
        before = self.take_out(parent, name)
        if parent.children is None:
            parent.children = {}
        parent.children[name] = node
        node.parent, node.name = parent, name
        return before

    def merge(self, into: Node, other: Node) -> Iterator[tuple[Node, Node]]:
        """
        Give a directory the children of one that was taken out and stood for the same place.

        Yield (kept, dropped) for each pair that both had, the two themselves first: the second of
        each has no place any more.
        """
        stack = [(into, other)]
        while stack:
            kept, dropped = pair = stack.pop()
            yield pair
            for name, child in (dropped.children or {}).items():
                if kept.children is None:
                    kept.children = {}
                if name in kept.children:
                    stack.append((kept.children[name], child))
                else:
                    kept.children[name], child.parent = child, kept
                    continue
                child.parent = None
            dropped.children = None

    def below(self, node: Node) -> Iterator[Node]:
        """Yield the node and every node below it."""
        stack = [node]
        while stack:
            here = stack.pop()
            yield here
            if here.children:
                stack.extend(here.children.values())
