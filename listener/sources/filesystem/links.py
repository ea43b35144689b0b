"""
Files with several names: what is written under one name changes under all.

inotify tells the one name that was used. Hard links are known by their inode, symbolic links by
the path that they name and every directory on it, so that ``..data`` of a Kubernetes volume or
``current`` of a release switch brings up all that leads through it.
"""

from __future__ import annotations

import os

from listener.change import key_to_bytes, key_to_text

__all__ = ["Links", "is_loop"]

_MOST = 200_000


class Links:
    """
    Which keys depend on which. Methods may be called from several threads.

    Beyond 200,000 links no more are remembered (``overfull``): scans find what they would have told.
    """

    def __init__(self, root: bytes) -> None:
        """Know nothing yet of the tree at ``root``."""
        self.overfull = False
        self._root = root
        self._real_root = os.path.realpath(root)
        self._by_inode: dict[int, set[str]] = {}
        self._by_path: dict[str, set[str]] = {}
        self._number = 0

    def __bool__(self) -> bool:
        """Whether any are known."""
        return self._number > 0

    def note_hard(self, key: str, inode: int) -> None:
        """Remember a name of a file that has several."""
        self._put(self._by_inode.setdefault(inode, set()), key)

    def note_soft(self, key: str) -> None:
        """Remember a symbolic link by what it names, and by every directory on the way there."""
        raw = key_to_bytes(key)
        try:
            target = os.readlink(self._root + raw)  # noqa: PTH115 - bytes
        except OSError:
            return
        here = os.path.dirname(raw)  # noqa: PTH120 - bytes
        for prefix in (self._root.rstrip(b"/"), self._real_root):
            if target.startswith(prefix + b"/"):
                target, here = target[len(prefix) + 1 :], b""
                break
        path = os.path.normpath(os.path.join(here, target))  # noqa: PTH118 - bytes
        if path.startswith((b"/", b"..")) and not self._is_inside(path):
            return
        while path:
            self._put(self._by_path.setdefault(key_to_text(path), set()), key)
            path = os.path.dirname(path)  # noqa: PTH120 - bytes

    @staticmethod
    def _is_inside(path: bytes) -> bool:
        """Tell ``..data`` from ``../data``."""
        return not path.startswith(b"/") and path.split(b"/", 1)[0] != b".."

    def _put(self, keys: set[str], key: str) -> None:
        if key in keys:
            return
        if self._number >= _MOST:
            self.overfull = True
            return
        self._number += 1
        keys.add(key)

    def depending(self, key: str, inode: int | None = None) -> set[str]:
        """Return the other keys to look at when this key or directory changed, links of links included."""
        found = set(self._by_inode.get(inode, ())) if inode is not None else set()
        waiting = [key.rstrip("/"), *found]
        while waiting:
            for each in list(self._by_path.get(waiting.pop(), ())):
                if each not in found:
                    found.add(each)
                    waiting.append(each)
        found.discard(key)
        return found


def is_loop(root: bytes, prefix: bytes, name: bytes) -> bool:
    """Tell whether the link ``name`` in ``prefix`` leads to a directory that its own path goes through."""
    try:
        status = os.stat(root + prefix + name)  # noqa: PTH116 - bytes
        here = root + prefix
        while len(here) >= len(root):
            above = os.stat(here)  # noqa: PTH116 - bytes
            if (above.st_dev, above.st_ino) == (status.st_dev, status.st_ino):
                return True
            here = here[: here.rstrip(b"/").rindex(b"/") + 1]
    except (OSError, ValueError):
        return True
    # The root's own parents may be linked to as well.
    real, target = os.path.realpath(root), os.path.realpath(root + prefix + name)
    return real == target or real.startswith(target.rstrip(b"/") + b"/")
