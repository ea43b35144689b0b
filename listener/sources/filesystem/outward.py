"""Which links of a tree lead out of it, for `check`. Blocking."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from listener.change import key_to_text
from listener.contracts import Check, CheckState
from listener.sources.filesystem.links import is_followed, is_loop
from listener.sources.filesystem.settings import FilesystemSettings

__all__ = ["links_outside"]

_LONGEST_SECONDS = 10.0
_MOST_NAMED = 10


def links_outside(key: str, settings: FilesystemSettings) -> Iterator[Check]:
    """Yield what is known of links that lead out of the root, with the targets of those to directories."""
    root = os.fsencode(settings.path).rstrip(b"/") + b"/"
    real = os.path.realpath(root) + b"/"
    files, followed, refused = 0, [], []
    for prefix, name in _links(root):
        target = os.path.realpath(root + prefix + name)
        if (target + b"/").startswith(real):
            continue
        if not os.path.isdir(target):  # noqa: PTH112 - bytes
            files += 1
        elif is_followed(root, prefix, name):
            followed.append((prefix + name, target))
        elif not is_loop(root, prefix, name):
            refused.append((prefix + name, target))
    if files or followed:
        does = "are followed" if settings.follow_symlinks else "are not followed (follow_symlinks = false)"
        yield Check(
            key, CheckState.OK,
            f"{len(followed)} links to directories outside of the root {does}{_named(followed)}; {files} lead to files "
            f"outside; what links lead to is looked at every {settings.root_check_seconds:g} s",
        )  # fmt: skip
    if refused:
        yield Check(
            key, CheckState.WARNING,
            f"{len(refused)} links are never followed{_named(refused)}; they lead to /proc, /sys, /dev or the state",
            "remove them, and find out who made them",
        )  # fmt: skip


def _links(root: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each symbolic link below, as directory and name; for some ten seconds at most."""
    stack, end = [b""], time.monotonic() + _LONGEST_SECONDS
    while stack and time.monotonic() < end:
        prefix = stack.pop()
        with suppress(OSError), os.scandir(root + prefix) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield prefix, entry.name
                elif entry.is_dir():
                    stack.append(prefix + entry.name + b"/")


def _named(links: list[tuple[bytes, bytes]]) -> str:
    named = ", ".join(f"{key_to_text(path)!a} -> {key_to_text(to)!a}" for path, to in links[:_MOST_NAMED])
    more = f" and {len(links) - _MOST_NAMED} more" if len(links) > _MOST_NAMED else ""
    return f": {named}{more}" if named else ""
