"""
Include and exclude patterns, compiled once into one regular expression each.

An uploader chooses the keys, so a pattern of many ``*`` must not try every way to share a key among them. What
follows a ``*`` is taken where it comes first, and never tried elsewhere: whatever matches with a later place
matches with the first one too, since the next ``*`` takes up the difference. The same holds for all that stands
between two ``**``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["Filter", "glob_expression"]

# Each "[" looks no further than 100 characters for its end, so that a long row of them takes linear time.
_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|\A)\*\*/)|(?P<any>\*\*)|\*|\?|\[(?P<no>!?)(?P<choice>[^\]]{1,100})\]|.", re.DOTALL
)


class Filter:
    """
    Selects the keys that a site takes: those that match an include pattern and no exclude pattern.

    ``*`` matches within a folder, ``**`` across folders (``**/`` also none), ``?`` one character that
    is no slash, ``[a-z]`` and ``[!a-z]`` a choice. A pattern matches the whole key, as the site sees it.
    """

    __slots__ = ("_exclude", "_exclude_below", "_include")

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        """Compile the patterns."""
        include, exclude = tuple(include), tuple(exclude)
        self._include = None if "**" in include else _compile(include)
        self._exclude = _compile(exclude)
        self._exclude_below = _compile(pattern for pattern in exclude if pattern.endswith("**"))

    @property
    def takes_all(self) -> bool:
        """True where it refuses nothing."""
        return self._include is None and self._exclude is None

    def takes(self, key: str) -> bool:
        """Return whether the key passes."""
        if self._include is not None and not self._include.fullmatch(key):
            return False
        return self._exclude is None or not self._exclude.fullmatch(key)

    def takes_below(self, folder: str) -> bool:
        """Return whether any key below this folder (``""`` or ending with ``/``) could pass."""
        return not folder or self._exclude_below is None or not self._exclude_below.fullmatch(folder)


def glob_expression(pattern: str) -> str:
    """Return the regular expression of one pattern, for ``fullmatch`` with ``re.DOTALL``; it takes linear time."""
    block: list[str] = []
    blocks = [block]
    between: list[str] = []
    for match in _TOKEN.finditer(pattern):
        if match["folders"] or match["any"]:
            between.append(_FOLDERS if match["folders"] else _ANY)
            blocks.append(block := [])
        else:
            block.append(_token(match))
    expression = _block(blocks[0], last=not between)
    for number, wild in enumerate(between, 1):
        last = number == len(between)
        below = wild + _block(blocks[number], last=last)
        expression += below if last else f"(?>{below})"
    return expression


_STAR: Final = "[^/]*"
_FOLDERS: Final = "(?:[^/]*/)*?"
_ANY: Final = ".*?"


def _block(tokens: Sequence[str], *, last: bool) -> str:
    """Return what stands between two ``**``: each ``*`` takes as little as it can, for good, but the very last one."""
    runs = [""]
    for token in tokens:
        if token is _STAR:
            runs.append("")
        else:
            runs[-1] += token
    stars = [f"(?>{_STAR}?{run})" for run in runs[1:]]
    if stars and last:
        stars[-1] = _STAR + runs[-1]
    return runs[0] + "".join(stars)


def _compile(patterns: Iterable[str]) -> re.Pattern[str] | None:
    alternatives = "|".join(glob_expression(pattern) for pattern in patterns)
    return re.compile(alternatives, re.DOTALL) if alternatives else None


def _token(match: re.Match[str]) -> str:
    if match["choice"]:
        choice = re.escape(match["choice"]).replace(r"\-", "-")
        return f"(?!/)[{'^' if match['no'] else ''}{choice}]"
    return {"*": _STAR, "?": "[^/]"}.get(match[0]) or re.escape(match[0])
