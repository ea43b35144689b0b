"""Creates files for the current user only, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["PRIVATE", "create_file", "make_private"]

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
