"""
Files that only their owner may open: created private whatever the umask, and guarded in this process.

POSIX locks are dropped when any descriptor of the file is closed anywhere in the process (fcntl(2)), and without its
locks SQLite cannot keep other processes out. A served tree may contain the state file, or a link to it: the state file
and its companions (WAL, lock, …) are guarded, and no source opens them.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "PRIVATE",
    "create_file",
    "flush",
    "forget_guarded",
    "guard",
    "guarded_directories",
    "is_guarded",
    "make_private",
]

PRIVATE = 0o600


def create_file(path: Path, *, mode: int = PRIVATE) -> int:
    """
    Make an empty file with this mode and return its descriptor, open for reading and writing.

    Raises:
        FileExistsError: there is something at ``path`` already.
        OSError: it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    os.fchmod(descriptor, mode)  # the umask may have taken bits away
    return descriptor


def make_private(path: Path) -> None:
    """
    Make an empty private file unless there is something at ``path``: what opens it afterwards keeps its mode.

    The mode of a file that exists is the operator's. Raises OSError where it cannot be made.
    """
    try:
        os.close(create_file(path))
    except FileExistsError:
        return


def flush(path: Path) -> None:
    """Let a file's content, or a directory's entries, survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SUFFIXES = ("", "-wal", "-shm", "-journal", ".lock")
_paths: set[str] = set()


def guard(path: Path) -> None:
    """Reserve this state file and its companions for their owner, until the process ends."""
    _paths.add(os.path.abspath(path))  # noqa: PTH100 - links are followed at each look


def forget_guarded() -> None:
    """Guard nothing any more: for a process that closed its state files and opens many others, such as a test run."""
    _paths.clear()


def guarded_directories() -> list[str]:
    """Return the directories that hold them, without symbolic links."""
    return sorted({os.path.realpath(os.path.dirname(path)) for path in tuple(_paths)})  # noqa: PTH120


def is_guarded(status: os.stat_result) -> bool:
    """Return whether a file is one of them, by device and inode, at this moment."""
    for path in tuple(_paths):
        for suffix in _SUFFIXES:
            try:
                found = os.stat(path + suffix)  # noqa: PTH116 - a few microseconds for each file that is read
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
                return True
    return False
