"""The files of a tree in byte order: what a filesystem source holds, read without listening to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from listener.change import Change, ChangeKind, key_to_bytes, key_to_text
from listener.errors import ConfigurationError, SourceUnavailable
from listener.sources.filesystem import FilesystemSettings
from listener.sources.filesystem.names import Ignore, fingerprint_of
from listener.sources.filesystem.outstanding import means_absent
from listener.sources.listing.listing import digest_of

__all__ = ["TreeListing", "status_of"]


class _Entry(NamedTuple):
    """A name in a directory; ``order`` sorts it as its whole key would be."""

    order: bytes
    path: bytes
    is_directory: bool


class TreeListing:
    """The files of a filesystem source, with its own rules on what is no content."""

    def __init__(
        self, root: str, settings: FilesystemSettings, *, prefix: str = "", since: float | None = None
    ) -> None:
        """List what is below ``prefix`` and was changed since then (seconds since the epoch)."""
        self.root = root
        self.prefix = prefix
        self.complete = since is None
        self._base = os.fsencode(settings.path).rstrip(b"/") + b"/"
        self._since = since
        self._ignore = Ignore(settings.ignore)

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return os.fsdecode(self._base) + self.prefix

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        return digest_of(["tree", self.root, os.fsdecode(self._base), self.prefix, repr(self._since)])

    def close(self) -> None:
        """Release nothing: what a walk opens it closes by itself."""

    def changes(self, after: str = "") -> Iterator[Change]:
        """
        Yield a change for each file above ``after``, in byte order; blocking.

        Raises :class:`~listener.errors.ConfigurationError` where the root is no directory, and
        :class:`~listener.errors.SourceUnavailable` where something below cannot be looked at.
        """
        if not Path(os.fsdecode(self._base)).is_dir():
            raise ConfigurationError(
                f"sources.{self.root}.path: {os.fsdecode(self._base)} is no directory that can be listed",
                hint="correct the path, or mount what belongs there",
            )
        start, _, _ = self.prefix.rpartition("/")
        yield from self._below(start + "/" if start else "", key_to_bytes(after))

    def _below(self, directory: str, after: bytes) -> Iterator[Change]:
        prefix = key_to_bytes(self.prefix)
        for entry in self._entries(directory):
            key = key_to_bytes(directory) + entry.order
            wanted = key.startswith(prefix) or (entry.is_directory and prefix.startswith(key))
            if not wanted or (key <= after and not (entry.is_directory and after.startswith(key))):
                continue
            if entry.is_directory:
                yield from self._below(key_to_text(key), after)
            elif (status := status_of(entry.path)) is not None and self._is_recent(status):
                yield Change(self.root, key_to_text(key), ChangeKind.CONTENT, fingerprint_of(status))

    def _is_recent(self, status: os.stat_result) -> bool:
        return self._since is None or max(status.st_mtime, status.st_ctime) >= self._since

    def _entries(self, directory: str) -> list[_Entry]:
        path = self._base + key_to_bytes(directory)
        try:
            with os.scandir(path) as names:
                return sorted(self._entry(entry) for entry in names if self._is_content(directory, entry))
        except OSError as error:
            if means_absent(error):
                return []
            raise unreadable(path, error) from error

    def _is_content(self, directory: str, entry: os.DirEntry[bytes]) -> bool:
        ignored = self._ignore.directory if entry.is_dir(follow_symlinks=False) else self._ignore.file
        return not ignored(directory, key_to_text(entry.name))

    @staticmethod
    def _entry(entry: os.DirEntry[bytes]) -> _Entry:
        is_directory = entry.is_dir(follow_symlinks=False)
        return _Entry(entry.name + b"/" if is_directory else entry.name, entry.path, is_directory)


def status_of(path: bytes) -> os.stat_result | None:
    """Return the status of a regular file (a link counts as what it leads to), None for anything else."""
    try:
        status = os.stat(path)  # noqa: PTH116 - names that are no UTF-8 come as bytes
    except OSError as error:
        if means_absent(error):
            return None
        raise unreadable(path, error) from error
    return status if stat.S_ISREG(status.st_mode) else None


def unreadable(path: bytes, error: OSError) -> SourceUnavailable:
    """Return the error that ends a listing: what cannot be looked at must not be taken for absent."""
    return SourceUnavailable(
        f"{os.fsdecode(path)!r} cannot be read: {error.strerror}",
        hint=f"let user {os.geteuid()} read and enter what is below the path, or ignore it",
    )
