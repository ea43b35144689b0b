"""Which names are no content: those that the setting ``ignore`` lists, and no other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from listener.router.globs import glob_expression

__all__ = ["DEFAULT_IGNORE", "Ignore"]

DEFAULT_IGNORE: tuple[str, ...] = (
    ".git/",
    ".git",  # of a submodule or a linked working tree: a file that names the directory
    ".svn/",
    ".hg/",
    ".bzr/",
    "lost+found/",
    ".snapshot/",
    ".Trash-*/",
    "$RECYCLE.BIN/",
    "System Volume Information/",
    ".~tmp~/",  # rsync --delay-updates
    ".rsync-partial/",
    "..data",  # Kubernetes volumes: a link to the time-stamped directory with the content
    "..data_tmp",
    "..????_??_??*/",
    ".*.sw?",  # vim
    ".#*",  # emacs: lock
    ".nfs????????????????????????",  # NFS: deleted, and still open somewhere
    ".DS_Store",
    "._*",
    "Thumbs.db",
    "desktop.ini",
)
"""What nobody serves: version control, the file system's own, one tool's own directories, editors' swap files."""

_WILD = re.compile(r"[*?]")


def _glob(pattern: str) -> str:
    """Translate one glob: ``*`` and ``?`` stay within a segment, ``**`` crosses them, brackets are plain."""
    return glob_expression(pattern.replace("[", "[[]"))


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
    Decides by name and path what is no content; built once.

    ``name`` stands for files and symbolic links of that name at any depth, ``name/`` for directories and
    all below; with a ``/`` elsewhere it is a path from the root.
    """

    def __init__(self, patterns: Sequence[str] = DEFAULT_IGNORE) -> None:
        """Compile the patterns."""
        self._patterns = tuple(patterns)
        named = [pattern for pattern in patterns if "/" not in pattern.rstrip("/")]
        paths = [pattern.lstrip("/") for pattern in patterns if "/" in pattern.rstrip("/")]
        self._files = _Names([pattern for pattern in named if not pattern.endswith("/")])
        self._directories = _Names([pattern.rstrip("/") for pattern in named if pattern.endswith("/")])
        self._file_paths = _either([path for path in paths if not path.endswith("/")])
        self._directory_paths = _either([path.rstrip("/").removesuffix("/**") for path in paths])

    def file(self, prefix: str, name: str) -> bool:
        """Return whether the file ``name`` directly in the directory ``prefix`` (``""`` or ``"a/"``) is no content."""
        if self._files.match(name):
            return True
        return self._file_paths is not None and self._file_paths.fullmatch(prefix + name) is not None

    def directory(self, prefix: str, name: str) -> bool:
        """Return whether nothing below the directory ``name`` in ``prefix`` is content."""
        if self._directories.match(name):
            return True
        return self._directory_paths is not None and self._directory_paths.fullmatch(prefix + name) is not None

    def reason(self, prefix: str, name: str, *, is_directory: bool) -> str:
        """Return the first pattern that matches, or an empty string."""
        for pattern in self._patterns:
            one = Ignore((pattern,))
            if (one.directory if is_directory else one.file)(prefix, name):
                return pattern
        return ""
