"""Which paths of a tree are left out, and by which pattern: for people. Blocking."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from listener.change import key_to_text
from listener.contracts import Check, CheckState
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.settings import FilesystemSettings

__all__ = ["Ignored", "ignored_paths", "summary"]

_LONGEST_SECONDS = 20.0
_EXAMPLES = 3


class Ignored(NamedTuple):
    """One path that is left out."""

    path: str
    """Below the root; a directory, which stands for all below it, ends with ``/``."""
    pattern: str


def ignored_paths(settings: FilesystemSettings, *, seconds: float | None = None) -> Iterator[Ignored]:
    """Yield what is left out, walking the tree without following links, for so long at most."""
    ignore, root = Ignore(settings.ignore), os.fsencode(settings.path).rstrip(b"/") + b"/"
    end = None if seconds is None else time.monotonic() + seconds
    stack = [b""]
    while stack and (end is None or time.monotonic() < end):
        prefix = stack.pop()
        text = key_to_text(prefix)
        for name, is_directory, is_link in _entries(root + prefix):
            pattern = _pattern(ignore, text, key_to_text(name), is_directory=is_directory, is_link=is_link)
            if pattern:
                yield Ignored(text + key_to_text(name) + "/" * is_directory, pattern)
            elif is_directory:
                stack.append(prefix + name + b"/")


def _entries(path: bytes) -> list[tuple[bytes, bool, bool]]:
    try:
        with os.scandir(path) as entries:
            return sorted((one.name, one.is_dir(follow_symlinks=False), one.is_symlink()) for one in entries)
    except OSError:
        return []  # reported by the count of directories that cannot be read


def _pattern(ignore: Ignore, prefix: str, name: str, *, is_directory: bool, is_link: bool) -> str:
    if not is_directory and ignore.file(prefix, name):
        return ignore.reason(prefix, name, is_directory=False)
    if (is_directory or is_link) and ignore.directory(prefix, name):
        return ignore.reason(prefix, name, is_directory=True)
    return ""


def summary(key: str, settings: FilesystemSettings) -> Check:
    """Say how many paths are left out, with a few examples."""
    found = list(ignored_paths(settings, seconds=_LONGEST_SECONDS))
    if not found:
        return Check(key, CheckState.OK, "no path is ignored")
    examples = ", ".join(f"{one.path!a} by {one.pattern}" for one in found[:_EXAMPLES])
    count = f"{len(found)} path{'s are' if len(found) > 1 else ' is'}"
    return Check(key, CheckState.OK, f"{count} ignored, such as {examples}; all of them: cdn-listener check --ignored")
