"""What can be set for a filesystem source, and the root that the parts of a session share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from listener.contracts import IndexView
from listener.settings import FilePath
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.names import DEFAULT_IGNORE, Ignore

__all__ = ["FilesystemSettings", "Root"]


class FilesystemSettings(BaseModel):
    """``[sources.NAME]`` with ``type = "filesystem"``: a tree of files, watched and compared with the index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["filesystem"] = "filesystem"
    """Selects this source."""

    path: FilePath
    """The directory whose files are served; it may be a symbolic link (``/srv/app/current``), and begin with ``~``.
    A relative path begins in the current directory."""

    backend: Literal["auto", "inotify", "fanotify", "polling"] = "auto"
    """
    How changes are noticed. ``auto``: inotify, or polling where the kernel reports nothing (NFS, SMB, FUSE, …).
    ``fanotify`` marks the whole file system, so that no limit on watches applies however many directories there
    are; it takes CAP_SYS_ADMIN, Linux 5.17, and a file system that can be marked (ext4, xfs, tmpfs; not overlayfs).
    """

    ignore: tuple[str, ...] = DEFAULT_IGNORE
    """
    What is no content, as globs: ``*.bak`` files of such a name at any depth, ``cache/`` directories and all below,
    ``build/tmp/**`` a path from the root. A list given here replaces the default one; ignored directories are
    not watched. ``cdn-listener check --ignored`` lists what is ignored, and why.
    """

    follow_symlinks: bool = True
    """
    Whether directories behind symbolic links belong to the tree, as most web servers take them; loops are cut. Set it
    to false where uploaders who are not trusted can make links. No link leads into
    ``/proc``, ``/sys``, ``/dev`` or the state directory.
    """

    skip_unchanged: Literal["never", "content", "always"] = "content"
    """
    Whether a file whose bytes are those that the index knows (by digest) is no change. ``content``: what was
    replaced as a whole, by a rename or with its tree, and what a scan finds. ``always``: also what was written
    in place; a cache that fetched the half-written file keeps that. ``never``: every file that was touched counts.
    """

    hash_max_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Larger files are not read to be compared: they count as changed whenever they were touched."""

    replicas: Literal["one", "each"] = "one"
    """
    In a fleet: ``one``: the instances see one tree (NFS, EFS); one of them watches it, another takes over when that one
    ends, and begins with a scan. ``each``: every instance has a copy of its own. A change is refreshed when the
    copies agree, or after ``fleet.replica_wait_seconds``.
    """

    rescan_interval_seconds: float = Field(default=3600.0, ge=0)
    """How often the tree is compared with the index although nothing seems missed; 0: never."""

    rescan_jitter: float = Field(default=0.25, ge=0, lt=1)
    """By which share the interval varies, so that many listeners do not scan one storage at once."""

    poll_interval_seconds: float = Field(default=30.0, gt=0)
    """With polling: how long to rest between scans."""

    root_check_seconds: float = Field(default=2.0, gt=0)
    """
    How often to check whether the path is still the same directory, and what is mounted and linked there. While the
    kernel would report any change of the path and reports none, the interval is twelve times as long, up to 24 s.
    """

    stable_seconds: float = Field(default=2.0, ge=0)
    """A file without a close event counts as finished once its size and times are stable for this long."""

    unfinished_cap_seconds: float = Field(default=60.0, gt=0)
    """A file that is written to all the time counts as finished after so long, and again at each such time."""

    max_delete_share: float = Field(default=0.5, gt=0, le=1)
    """When more than this share of the known files is gone at once, nothing is deleted until they are back."""

    min_delete_count: int = Field(default=100, ge=0)
    """So many files may be gone at once whatever their share, unless the whole tree is empty."""

    batch_changes: int = Field(default=2000, ge=1)
    """How many changes one delivery holds at most."""

    max_pending: int = Field(default=500_000, ge=1000)
    """How many changed names to keep while nobody takes them; beyond, whole directories are scanned again instead."""

    @property
    def most_compared_bytes(self) -> int:
        """Up to which size files are read to be compared; negative: none is."""
        return -1 if self.skip_unchanged == "never" else self.hash_max_bytes

    @field_validator("ignore")
    @classmethod
    def _names_something(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if any(not pattern.strip("/") for pattern in patterns):
            raise ValueError('a pattern must name something: write "name" for files, "name/" for directories')
        return patterns


@dataclass(frozen=True, slots=True)
class Root:
    """The tree that all parts of a session work on."""

    name: str
    path: bytes
    """Ends with ``/``."""
    settings: FilesystemSettings
    ignore: Ignore
    links: Links
    index: IndexView
