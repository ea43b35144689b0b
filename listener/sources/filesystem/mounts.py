"""Which file system a path lies on, and whether the kernel reports every change of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "TABLE",
    "Mount",
    "holder_of",
    "is_at_or_below",
    "mount_of",
    "mount_table",
    "mounts_below",
    "parse_mounts",
]

_DEAF = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "davfs", "gfs2", "glusterfs", "gpfs"}
    | {"lustre", "beegfs", "ocfs2", "orangefs", "prl_fs", "vboxsf", "vmhgfs", "virtiofs", "ncpfs"}
)
"""Other machines change these without a word to this kernel."""
TABLE = Path("/proc/self/mountinfo")
_DELETED = "//deleted"
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of the mount table."""

    point: str
    kind: str
    """Type of the file system, such as ``ext4`` or ``fuse.s3fs``."""
    source: str
    shown: str = "/"
    """
    What of its file system is shown: ``/``, or the directory or file that was bind-mounted.

    Follows when that is renamed, and ends in ``//deleted`` when it is removed or replaced.
    """
    number: str = ""
    """Of this mount; given to another one once this one is gone."""

    @property
    def is_deleted(self) -> bool:
        """Whether what was mounted (a bind mount's directory or file) was removed or replaced since."""
        return self.shown.endswith(_DELETED)

    @property
    def is_heard(self) -> bool:
        """Whether inotify tells of every change; through FUSE it tells only of those made through this mount."""
        return self.kind not in _DEAF and self.kind != "fuse" and not self.kind.startswith("fuse.")


def parse_mounts(text: str) -> list[Mount]:
    """Parse ``/proc/self/mountinfo`` (proc(5)); a later mount of one point hides the earlier."""
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields, ends = head.split(), tail.split()
        if len(fields) >= 5 and len(ends) >= 2:
            point = _unescaped(fields[4])
            found[point] = Mount(point, ends[0], ends[1], _unescaped(fields[3]), fields[0])
    return list(found.values())


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def mount_table() -> list[Mount]:
    """Return the mounts that this process sees; none where the kernel does not report them."""
    try:
        return parse_mounts(TABLE.read_text(errors="surrogateescape"))
    except OSError:
        return []


def mount_of(path: str | os.PathLike[str]) -> Mount | None:
    """Return the mount that holds the path, symbolic links followed; ``None`` when the kernel does not report it."""
    return holder_of(mount_table(), os.path.realpath(path))


def holder_of(mounts: Iterable[Mount], real: str) -> Mount | None:
    """Return which of the mounts holds a path without symbolic links."""
    above = [mount for mount in mounts if is_at_or_below(mount.point, real)]
    return max(above, key=lambda mount: len(mount.point), default=None)


def mounts_below(path: str | os.PathLike[str]) -> list[Mount]:
    """Return the mounts strictly below the path."""
    real = os.path.realpath(path)
    return [mount for mount in mount_table() if mount.point != real and is_at_or_below(real, mount.point)]


def is_at_or_below(point: str, path: str) -> bool:
    """Return whether the path is the point or lies below it."""
    return path == point or path.startswith(point.rstrip("/") + "/")
