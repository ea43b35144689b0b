"""The directories that matter to one plan, as a forest: those with something due, and where their paths meet."""

from __future__ import annotations

from collections.abc import Sequence

from listener.planner.model import DirectoryLoad

__all__ = ["Forest", "build_forest", "root_length"]

NONE = -1


class Forest:
    """
    Parallel lists, one entry per directory, parents before their children.

    A directory without a load and with a single child is left out: refreshing the child instead
    covers the same and evicts no more. Trees of other hosts or targets are simply further roots.
    """

    __slots__ = ("below", "load", "loads", "parents", "subtrees", "targets", "urls")

    def __init__(self, loads: Sequence[DirectoryLoad]) -> None:
        """Begin an empty forest over these loads."""
        self.loads = loads
        self.urls: list[str] = []
        self.targets: list[str] = []
        self.parents: list[int] = []
        self.load: list[int] = []
        """Index into ``loads``, or -1."""
        self.below: list[int] = []
        """Due exact needs in the directory and below."""
        self.subtrees: list[int] = []
        """Due subtree needs for the directory and below."""

    def __len__(self) -> int:
        """Return how many directories there are."""
        return len(self.urls)

    def add(self, target: str, url: str, parent: int, load: int) -> int:
        """Append a directory and return its index."""
        self.urls.append(url)
        self.targets.append(target)
        self.parents.append(parent)
        self.load.append(load)
        return len(self.urls) - 1

    def total_up(self) -> None:
        """Sum what is due up the trees, once all directories stand."""
        own = [self.loads[i] if i >= 0 else None for i in self.load]
        self.below = [item.due if item else 0 for item in own]
        self.subtrees = [int(item.subtree_due) if item else 0 for item in own]
        for v in range(len(self.urls) - 1, -1, -1):
            parent = self.parents[v]
            if parent >= 0:
                self.below[parent] += self.below[v]
                self.subtrees[parent] += self.subtrees[v]


def root_length(url: str) -> int:
    """Return the length of the URL's scheme and host with the ``/`` that ends them."""
    scheme = url.find("://")
    return url.index("/", scheme + 3) + 1 if scheme >= 0 else 0


def build_forest(loads: Sequence[DirectoryLoad]) -> Forest:
    """
    Return the forest of these loads (one for each target and URL).

    In lexicographic order all directories below one come right after it, so that the ancestors of
    the last one are a stack and the meeting point of two neighbours is where the next one leaves it.
    """
    links = _link(loads)
    forest = Forest(loads)
    index: list[int] = [NONE] * len(links.urls)
    for node in links.preorder():
        parent = links.parents[node]
        target, url = links.urls[node]
        index[node] = forest.add(target, url, index[parent] if parent >= 0 else NONE, links.load[node])
    forest.total_up()
    return forest


class _Links:
    """The forest while it is built, meeting points coming after their first child."""

    def __init__(self) -> None:
        self.urls: list[tuple[str, str]] = []
        self.parents: list[int] = []
        self.load: list[int] = []

    def add(self, target: str, url: str, load: int) -> int:
        self.urls.append((target, url))
        self.parents.append(NONE)
        self.load.append(load)
        return len(self.urls) - 1

    def preorder(self) -> list[int]:
        return sorted(range(len(self.urls)), key=self.urls.__getitem__)


def _link(loads: Sequence[DirectoryLoad]) -> _Links:
    links = _Links()
    stack: list[int] = []
    host = ("", "")
    for i in sorted(range(len(loads)), key=lambda i: (loads[i].target, loads[i].url)):
        target, url = loads[i].target, loads[i].url
        root = (target, url[: root_length(url)])
        if root != host:
            _close(links, stack, keep=0)
            host = root
        if stack:
            _meet(links, stack, url, len(root[1]))
        stack.append(links.add(target, url, i))
    _close(links, stack, keep=0)
    return links


def _meet(links: _Links, stack: list[int], url: str, root: int) -> None:
    """Pop what does not lie above ``url``; add the directory where it leaves the popped ones."""
    last = NONE
    while stack and not url.startswith(links.urls[stack[-1]][1]):
        if last >= 0:
            links.parents[last] = stack[-1]
        last = stack.pop()
    if last < 0:
        return
    target, meeting = links.urls[last]
    while len(meeting) > root and not url.startswith(meeting):
        meeting = meeting[: meeting.rindex("/", 0, -1) + 1]
    if not stack or links.urls[stack[-1]][1] != meeting:
        stack.append(links.add(target, meeting, NONE))
    links.parents[last] = stack[-1]


def _close(links: _Links, stack: list[int], *, keep: int) -> None:
    while len(stack) > keep:
        last = stack.pop()
        if stack:
            links.parents[last] = stack[-1]
