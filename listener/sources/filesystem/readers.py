"""
Who may read a file, as a number: an origin that may not read it answers 403, whatever the bytes.

Only what decides about reading counts: the read bits of the file and the search bits of every
directory on its path, and where these do not let everybody, the owner and the group too. So a
change of modes that lets nobody in or out (``chmod g+w``) is none.
"""

from __future__ import annotations

import os

__all__ = ["Directories", "has_access_list", "joined", "of_directory", "of_file"]

_READ, _SEARCH = 0o444, 0o111
_MOST_CACHED = 10_000


def of_file(status: os.stat_result) -> int:
    """Return who may read a file, 0 for everybody."""
    return 0 if status.st_mode & _READ == _READ else _packed(status, _READ)


def of_directory(status: os.stat_result) -> int:
    """Return who may enter a directory, 0 for everybody."""
    return 0 if status.st_mode & _SEARCH == _SEARCH else _packed(status, _SEARCH)


def joined(above: int, here: int) -> int:
    """Return who gets past both."""
    return here if not above else (above * 1_000_003 + here) & 0x3FFF_FFFF_FFFF_FFFF | 1


def _packed(status: os.stat_result, bits: int) -> int:
    owners = (status.st_uid * 1_000_003 + status.st_gid) & 0xFFFF_FFFF_FFFF
    return owners << 10 | (status.st_mode & bits) << 1 | 1


def has_access_list(path: bytes) -> bool:
    """Return whether an access list says more about a file than its mode does."""
    try:
        os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return False
    return True


class Directories:
    """Who may enter the directories of a tree, remembered for one walk or one batch. Blocking."""

    def __init__(self, root: bytes) -> None:
        """Know nothing yet of the tree at ``root``, whose own parents do not count."""
        self._root = root
        self._known: dict[bytes, int] = {}

    def of(self, prefix: bytes) -> int:
        """Return who may come as far as into a directory (``b""`` or ending with ``/``)."""
        found = self._known.get(prefix)
        if found is None:
            above = self.of(prefix[: prefix.rfind(b"/", 0, -1) + 1]) if prefix else 0
            if len(self._known) >= _MOST_CACHED:
                self._known.clear()
            found = self._known[prefix] = joined(above, self._look(prefix))
        return found

    def _look(self, prefix: bytes) -> int:
        try:
            return of_directory(os.stat(self._root + prefix))  # noqa: PTH116 - bytes
        except OSError:
            return 0  # what is in it cannot be looked at either
