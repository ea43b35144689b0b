"""Paths that could not be looked at: nothing is known of them, so that what the index says of them stays."""

from __future__ import annotations

from collections import Counter

__all__ = ["Unread"]

_MOST_NAMES = 16
"""Beyond so many names of one directory the directory stands for all of them."""
_MOST_PATHS = 4096
"""Beyond so many paths the root stands for all of them."""


class Unread:
    """A bounded set of keys and directories (these end with ``/``; ``""`` is the root), each with an errno."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.paths: dict[str, int] = {}
        self._names: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.paths)

    def __len__(self) -> int:
        """How many paths are held."""
        return len(self.paths)

    def note(self, path: str, error: int) -> None:
        """Remember that a look at this path failed."""
        if path in self.paths:
            return
        directory = _directory_of(path)
        if directory != path:
            self._names[directory] += 1
            if self._names[directory] > _MOST_NAMES:
                path = directory
        if len(self.paths) >= _MOST_PATHS:
            self.paths.clear()
            path = ""
        self.paths[path] = error

    def covers(self, directory: str) -> bool:
        """Return whether nothing is known of what is in a directory, because it or one above could not be read."""
        return any(directory.startswith(path if path[-1:] in ("", "/") else path + "/") for path in self.paths)

    def replace(self, prefix: str, found: Unread) -> None:
        """Take what a scan of ``prefix`` could not read in place of what was held there."""
        kept = {path: error for path, error in self.paths.items() if not path.startswith(prefix)}
        self.paths, self._names = {}, Counter()
        for path, error in (*kept.items(), *found.paths.items()):
            self.note(path, error)

    def directories(self) -> list[str]:
        """Return the directories to compare with the index once more."""
        return sorted({_directory_of(path) for path in self.paths})


def _directory_of(path: str) -> str:
    return path[: path.rfind("/") + 1]
