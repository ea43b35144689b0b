"""Searching a tree for the other names of files: needed when a file that had one name is given a second."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress

from listener.change import key_to_text
from listener.sources.filesystem.links import is_followed
from listener.sources.filesystem.names import Ignore

__all__ = ["HardLinks", "find_names"]

_FIRST_SECONDS = 0.2
"""Links are made in numbers: one search answers for all of a moment."""
_REST_FACTOR = 20
"""How many times as long as a search took to rest after it: links made all the time cost a twentieth of a core."""


class HardLinks:
    """Which files to search for, and when. Pure: ``now`` is any clock that only goes forward, in seconds."""

    def __init__(self) -> None:
        """Want nothing yet."""
        self.searches = 0
        self._wanted: dict[int, int] = {}
        self._due = 0.0
        self._rested = 0.0

    def want(self, inodes: Mapping[int, int], now: float) -> None:
        """Ask for all names of these files, given with how many they have."""
        if inodes and not self._wanted:
            self._due = max(now + _FIRST_SECONDS, self._rested)
        self._wanted.update(inodes)

    def next_due(self, now: float) -> float | None:
        """Return in how many seconds to search; ``None`` when nothing is wanted."""
        return max(0.0, self._due - now) if self._wanted else None

    def take(self, now: float) -> dict[int, int]:
        """Return what to search for now; empty when it is not time yet."""
        if self.next_due(now) != 0:
            return {}
        wanted, self._wanted = self._wanted, {}
        return wanted

    def searched(self, began: float, now: float) -> None:
        """Note the end of a search."""
        self.searches += 1
        self._rested = now + _REST_FACTOR * (now - began)


def find_names(
    root: bytes,
    ignore: Ignore,
    inodes: Mapping[int, int],
    *,
    follow: bool,
    is_watched: Callable[[bytes], bool],
    may_enter: Callable[[str], bool],
) -> list[str]:
    """
    Return the keys below ``root`` that are names of these inodes, by what directories say.

    ``may_enter`` tells whether a link to a directory, given as a key, is followed.

    Names in a directory that is not watched yet are left out: whoever reports them would not see
    their end, and they are looked at as soon as the directory is listed.
    """
    found: list[str] = []
    stack = [b""]
    while stack:
        prefix = stack.pop()
        text = key_to_text(prefix)
        with suppress(OSError), os.scandir(root + prefix) as entries:
            for entry in entries:
                if entry.inode() in inodes:
                    name = key_to_text(entry.name)
                    if entry.is_file(follow_symlinks=False) and not ignore.file(text, name) and is_watched(prefix):
                        found.append(text + name)
                elif _leads_on(entry, root, prefix, follow=follow, may_enter=may_enter) and not ignore.directory(
                    text, key_to_text(entry.name)
                ):
                    stack.append(prefix + entry.name + b"/")
    return found


def _leads_on(
    entry: os.DirEntry[bytes], root: bytes, prefix: bytes, *, follow: bool, may_enter: Callable[[str], bool]
) -> bool:
    if entry.is_dir(follow_symlinks=False):
        return True
    if not (follow and entry.is_symlink() and entry.is_dir()):
        return False
    return is_followed(root, prefix, entry.name) and may_enter(key_to_text(prefix + entry.name))
