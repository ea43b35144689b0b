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
    "*___jb_tmp___",  # JetBrains
    "*___jb_old___",
    "*___jb_bak___",
    ".nfs*",
    "..*",  # Kubernetes volumes: ..data and the time-stamped directory behind it
)
"""Names that programs give to files before they rename them or beside those that they edit."""

_RANDOM_LENGTH = 6
_WILD = re.compile(r"[*?]")


def is_transfer_name(name: str) -> bool:
    """Tell whether rsync may have given this name (``.NAME.XXXXXX``) to a file that it is writing."""
    tail = name[-_RANDOM_LENGTH:]
    return name[:1] == "." and len(name) > 8 and name[-7] == "." and tail.isalnum() and tail.isascii()


def _is_surely_transfer_name(name: str) -> bool:
    """Tell it for sure: ``.site.config`` has the shape too, but six random characters are mixed in 99 of 100 cases."""
    if not is_transfer_name(name):
        return False
    tail = name[-_RANDOM_LENGTH:]
    return not (tail.isdigit() or (tail.isalpha() and (tail.islower() or tail.isupper())))


def _glob(pattern: str) -> str:
    """Translate one glob: ``*`` and ``?`` stay within a segment, ``**`` crosses them."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(table.get(part) or re.escape(part) for part in parts)


def _either(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(_glob, patterns)), re.DOTALL) if patterns else None


class _Names:
    """Globs for names, sorted by what they ask for: nearly every name is let through by three looks at its ends."""

    def __init__(self, patterns: Sequence[str]) -> None:
        plain = [pattern for pattern in patterns if not _WILD.search(pattern)]
        ends = [pattern for pattern in patterns if pattern[:1] == "*" and not _WILD.search(pattern[1:])]
        rest = [pattern for pattern in patterns if pattern not in plain and pattern not in ends]
        starts = sorted({pattern[0] for pattern in rest if not _WILD.match(pattern)})
        self._plain = frozenset(plain)
        self._ends = tuple(pattern[1:] for pattern in ends)
        self._by_start = {start: _either([each for each in rest if each[0] == start]) for start in starts}
        self._any = _either([pattern for pattern in rest if _WILD.match(pattern)])

    def match(self, name: str) -> bool:
        if name in self._plain or name.endswith(self._ends):
            return True
        pattern = self._by_start.get(name[0])
        if pattern is not None and pattern.fullmatch(name):
            return True
        return self._any is not None and self._any.fullmatch(name) is not None


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
        self._files = _Names([pattern for pattern in named if not pattern.endswith("/")])
        self._directories = _Names([pattern.rstrip("/") for pattern in named])
        self._file_paths = _either([path for path in paths if not path.endswith("/")])
        self._directory_paths = _either([path.rstrip("/").removesuffix("/**") for path in paths])

    def file(self, prefix: str, name: str) -> bool:
        """Tell whether the file ``name`` directly in the directory ``prefix`` (``""`` or ``"a/"``) is no content."""
        if self._files.match(name) or (self._temporary and name[0] == "." and _is_surely_transfer_name(name)):
            return True
        return self._file_paths is not None and self._file_paths.fullmatch(prefix + name) is not None

    def directory(self, prefix: str, name: str) -> bool:
        """Tell whether nothing below the directory ``name`` in ``prefix`` is content."""
        if self._directories.match(name):
            return True
        return self._directory_paths is not None and self._directory_paths.fullmatch(prefix + name) is not None
