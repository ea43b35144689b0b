"""Which names are content: temporary ones and those that the operator excludes are not."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["TEMPORARY", "Ignore", "is_transfer_name"]

TEMPORARY: tuple[str, ...] = (
    ".~tmp~/",  # rsync --delay-updates
    ".rsync-partial/",
    ".rsync-partial",
    "*.part",
    "*.filepart",  # WinSCP
    "*.crdownload",
    ".*.sw?",  # vim
    "4913",  # vim tries with this name whether a directory can be written to
    "*~",
    ".#*",  # emacs: lock
    "#*#",  # emacs: auto-save
    "*___jb_*___",  # JetBrains
    ".nfs*",
    "..*",  # Kubernetes volumes: ..data and the time-stamped directory behind it
)
"""Names that programs give to files before they rename them or beside those that they edit."""

_TRANSFER = re.compile(r"\..+\.(?P<random>[A-Za-z0-9]{6})", re.DOTALL)
_CLASSES = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))


def is_transfer_name(name: str) -> bool:
    """Tell whether rsync may have given this name (``.NAME.XXXXXX``) to a file that it is writing."""
    return name[:1] == "." and _TRANSFER.fullmatch(name) is not None


def _is_random_transfer_name(name: str) -> bool:
    """Tell it for sure: ``.site.config`` has the shape too, but six random letters mix cases or digits (99 %)."""
    found = _TRANSFER.fullmatch(name)
    return found is not None and sum(bool(kind.search(found["random"])) for kind in _CLASSES) > 1


def _glob(pattern: str) -> str:
    """Translate one glob: ``*`` and ``?`` stay within a segment, ``**`` crosses them."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(table.get(part) or re.escape(part) for part in parts)


def _either(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(_glob, patterns)), re.DOTALL) if patterns else None


class Ignore:
    """
    Decides by name and path; built once.

    A pattern without ``/`` is a name at any depth, with only a trailing one a directory's name,
    with one elsewhere a path from the root.
    """

    def __init__(self, patterns: Sequence[str] = (), *, temporary: bool = True) -> None:
        """Compile the operator's patterns, and the built-in ones unless ``temporary`` is false."""
        every = (*(TEMPORARY if temporary else ()), *patterns)
        named = [pattern for pattern in every if "/" not in pattern.rstrip("/")]
        paths = [pattern.lstrip("/") for pattern in every if "/" in pattern.rstrip("/")]
        self._temporary = temporary
        self._files = _either([pattern for pattern in named if not pattern.endswith("/")])
        self._directories = _either([pattern.rstrip("/") for pattern in named])
        self._file_paths = _either([path for path in paths if not path.endswith("/")])
        self._directory_paths = _either([path.rstrip("/").removesuffix("/**") for path in paths])

    def file(self, prefix: str, name: str) -> bool:
        """Tell whether the file ``name`` directly in the directory ``prefix`` (``""`` or ``"a/"``) is no content."""
        if self._files is not None and self._files.fullmatch(name):
            return True
        if name[:1] == "." and self._temporary and _is_random_transfer_name(name):
            return True
        return self._file_paths is not None and self._file_paths.fullmatch(prefix + name) is not None

    def directory(self, prefix: str, name: str) -> bool:
        """Tell whether nothing below the directory ``name`` in ``prefix`` is content."""
        if self._directories is not None and self._directories.fullmatch(name):
            return True
        return self._directory_paths is not None and self._directory_paths.fullmatch(prefix + name) is not None
