"""Which file system a path lies on, and whether the kernel hears every change of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Mount", "mount_of", "mounts_below", "parse_mounts"]

_DEAF = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "davfs", "gfs2", "glusterfs", "gpfs"}
    | {"lustre", "beegfs", "ocfs2", "orangefs", "prl_fs", "vboxsf", "vmhgfs", "virtiofs", "ncpfs"}
)
"""Other machines change these without a word to this kernel."""
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of the mount table."""

    point: str
    kind: str
    """Type of the file system, such as ``ext4`` or ``fuse.s3fs``."""
    source: str
    is_deleted: bool = False
    """Whether what was mounted (a bind mount's directory or file) was removed or replaced since."""

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
            point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
            found[point] = Mount(point, ends[0], ends[1], fields[3].endswith("//deleted"))
    return list(found.values())


def _table() -> list[Mount]:
    try:
        return parse_mounts(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    except OSError:
        return []


def mount_of(path: str | os.PathLike[str]) -> Mount | None:
    """Return the mount that holds the path, symbolic links followed; ``None`` when the kernel does not tell."""
    real = os.path.realpath(path)
    above = [mount for mount in _table() if _holds(mount.point, real)]
    return max(above, key=lambda mount: len(mount.point), default=None)


def mounts_below(path: str | os.PathLike[str]) -> list[Mount]:
    """Return the mounts strictly below the path."""
    real = os.path.realpath(path)
    return [mount for mount in _table() if mount.point != real and _holds(real, mount.point)]


def _holds(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
