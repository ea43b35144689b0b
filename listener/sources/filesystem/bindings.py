"""Which directory a kernel watch stands for: the kernel knows inodes, we know paths."""

from __future__ import annotations

import os
from contextlib import suppress

from listener.sources.filesystem.kernel import Kernel
from listener.sources.filesystem.tree import Node, Tree

__all__ = ["Bindings"]


class Bindings:
    """
    Watch descriptors to nodes; its owner holds the lock around every call.

    One inode may be reached by several paths (a bind mount, a link to a directory): the others
    are its twins, and receive its events.
    """

    def __init__(self, kernel: Kernel, tree: Tree, root: bytes) -> None:
        """Bind nodes of ``tree``, whose paths are below ``root``."""
        self.nodes: dict[int, Node] = {}
        self.twins: dict[int, list[Node]] = {}
        self._kernel = kernel
        self._tree = tree
        self._root = root

    def of(self, watch: int) -> tuple[Node, ...]:
        """Return every node that this watch stands for."""
        first = self.nodes.get(watch)
        return () if first is None else (first, *self.twins.get(watch, ()))

    def bind(self, node: Node, watch: int) -> Node | None:
        """Bind a watch that was just added at the node's path; return the node that thereby lost it, if one did."""
        before = self.nodes.get(watch)
        if node.wd == watch and before is node:
            return None
        if node.wd is not None and node.wd != watch:
            self.unbind(node)
        node.wd = watch
        if before is None or before is node:
            self.nodes[watch] = node
            return None
        if self._is_twin(before, node):
            twins = self.twins.setdefault(watch, [])
            if node not in twins:
                twins.append(node)
            return None
        self.nodes[watch] = node
        before.wd, before.deaf = None, True
        return before

    def unbind(self, node: Node) -> None:
        """Take the node's watch away; the kernel's stays as long as another path leads to the same directory."""
        watch, node.wd = node.wd, None
        if watch is None:
            return
        node.deaf = True
        bound = self.of(watch)
        if node not in bound:
            return
        rest = [each for each in bound if each is not node and self._tree.prefix_of(each) is not None]
        self.twins.pop(watch, None)
        if not rest:
            self._kernel.remove(watch)
            del self.nodes[watch]
            return
        self.nodes[watch] = rest[0]
        if rest[1:]:
            self.twins[watch] = rest[1:]

    def forget(self, watch: int) -> None:
        """Note that the kernel has given up a watch: its directory is gone, or unmounted."""
        for node in self.of(watch):
            if node.wd == watch:
                node.wd, node.deaf = None, True
        self.nodes.pop(watch, None)
        self.twins.pop(watch, None)

    def _is_twin(self, first: Node, second: Node) -> bool:
        """Return whether both paths lead to one directory just now, rather than one after the other."""
        paths = [self._tree.prefix_of(first), self._tree.prefix_of(second)]
        if None in paths:
            return False
        with suppress(OSError):
            return os.path.samefile(*[self._root + path for path in paths if path is not None])  # noqa: PTH121 - bytes
        return False
