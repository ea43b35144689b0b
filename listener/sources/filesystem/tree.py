"""
The watched directories as a tree, so that renaming one with 100,000 below it is one step.

Paths are bytes, relative to the root: ``b""`` the root itself, else ending with ``/``.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Node", "Tree"]


class Node:
    """One directory: its place, its kernel watch, and which of its names were reported since last taken."""

    __slots__ = ("access", "children", "deaf", "name", "names", "parent", "round", "wd")

    def __init__(self, parent: Node | None, name: bytes) -> None:
        """Make a directory that is not watched yet."""
        self.parent = parent
        self.name = name
        self.children: dict[bytes, Node] | None = None
        self.names: dict[bytes, int] | None = None
        self.wd: int | None = None
        self.access: int | None = None
        """Who might enter it when it was last looked at (see :mod:`.readers`); ``None``: nobody looked."""
        self.deaf = False
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
