"""Whether a failed look at a path proves that nothing is there: only three errors do."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["is_absent", "is_directory_gone", "means_absent"]

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""No such name, a file on the way, or a link in a circle that leads no server anywhere."""


def means_absent(error: OSError) -> bool:
    """Return whether this error of a look proves absence; after any other nothing is known (EACCES, EIO, ESTALE, …)."""
    return error.errno in _ABSENT


def is_absent(path: bytes) -> bool:
    """Return whether there is surely no such name, not even a link."""
    try:
        os.lstat(path)
    except OSError as error:
        return means_absent(error)
    return False


def is_directory_gone(path: bytes, *, follow: bool = True) -> bool:
    """Return whether there is surely no directory at this path; with ``follow``, one behind a link counts as well."""
    try:
        return not stat.S_ISDIR(os.stat(path.rstrip(b"/") or b"/", follow_symlinks=follow).st_mode)  # noqa: PTH116 - bytes
    except OSError as error:
        return means_absent(error)
