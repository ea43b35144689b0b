"""What names of several lead to, looked at again: it changes at any hop of a link, or under a name outside the tree."""

from __future__ import annotations

import os
import stat

from listener.change import Fingerprint, key_to_bytes
from listener.sources.filesystem.absence import means_absent

__all__ = ["Targets"]

_NOWHERE = 0
_UNKNOWN = -1


class Targets:
    """Which file or directory each key led to when it was looked at last. Blocking; several threads may call."""

    def __init__(self, root: bytes) -> None:
        """Know nothing yet of the tree at ``root``, which ends with ``/``."""
        self._root = root
        self._seen: dict[str, int] = {}
        self._directories: set[str] = set()

    def note(self, key: str, found: Fingerprint | None) -> None:
        """
        Remember what a key leads to; ``found`` is the file that the caller saw there just before.

        Where that is another one by now, what is there counts as changed at the next look.
        """
        status, is_absent = self._look(key)
        if status is None:
            agreed = _NOWHERE if is_absent and found is None else _UNKNOWN
        elif stat.S_ISREG(status.st_mode):
            agreed = _identity(status) if found is not None and found[:4] == _state(status) else _UNKNOWN
        else:
            agreed = _identity(status) if found is None else _UNKNOWN
        self._seen[key] = agreed
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._directories.add(key)
        else:
            self._directories.discard(key)

    def verify(self, key: str) -> None:
        """
        Check the links on the way to a key or directory; call before and after it is read.

        A link may lead elsewhere only while something behind it is read. The result belongs to another
        place then, so the link counts as changed, although it leads again to where it led when it was noted.
        """
        if not self._seen:
            return
        for end in (position for position, letter in enumerate(key) if letter == "/"):
            seen = self._seen.get(link := key[:end])
            if seen not in (None, _UNKNOWN) and self._now(link) != seen:
                self._seen[link] = _UNKNOWN

    def forget(self, key: str) -> None:
        """Forget a key."""
        self._seen.pop(key, None)
        self._directories.discard(key)

    def leads_to_directory(self, key: str) -> bool:
        """Return whether a key led to a directory when it was noted."""
        return key in self._directories

    def directories(self) -> list[str]:
        """Return the keys that lead to directories."""
        return list(self._directories)

    def changed(self) -> list[str]:
        """Return the keys that lead to something else than noted, or to a file that was written to."""
        found = []
        for key, seen in list(self._seen.items()):
            if self._now(key) not in (None, seen):
                found.append(key)
        return found

    def _now(self, key: str) -> int | None:
        """Return what a key leads to; ``None`` where that cannot be known."""
        status, is_absent = self._look(key)
        if status is None:
            return _NOWHERE if is_absent else None
        return _identity(status)

    def _look(self, key: str) -> tuple[os.stat_result | None, bool]:
        """Return what is there, or ``None`` and whether it is proved that nothing is."""
        try:
            return os.stat(self._root + key_to_bytes(key)), False  # noqa: PTH116 - bytes
        except OSError as error:
            return None, means_absent(error)


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _identity(status: os.stat_result) -> int:
    """
    Return a number that changes with what is served, in little memory.

    Change times are left out: a backup that makes hard links changes those of every file.
    """
    if stat.S_ISDIR(status.st_mode):
        return hash((status.st_dev, status.st_ino))
    if stat.S_ISREG(status.st_mode):
        return hash((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode))
    return _NOWHERE
