"""Include and exclude patterns, compiled once into one regular expression each."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Filter"]

_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|\A)\*\*/)|(?P<any>\*\*)|\*|\?|\[(?P<no>!?)(?P<choice>[^\]]+)\]|.", re.DOTALL
)


class Filter:
    """
    Tells which keys a site takes: those that match an include pattern and no exclude pattern.

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
        """Tell whether the key passes."""
        if self._include is not None and not self._include.fullmatch(key):
            return False
        return self._exclude is None or not self._exclude.fullmatch(key)

    def takes_below(self, folder: str) -> bool:
        """Tell whether any key below this folder (``""`` or ending with ``/``) could pass."""
        return not folder or self._exclude_below is None or not self._exclude_below.fullmatch(folder)


def _compile(patterns: Iterable[str]) -> re.Pattern[str] | None:
    alternatives = "|".join(_expression(pattern) for pattern in patterns)
    return re.compile(alternatives, re.DOTALL) if alternatives else None


def _expression(pattern: str) -> str:
    return "".join(_token(match) for match in _TOKEN.finditer(pattern))


def _token(match: re.Match[str]) -> str:
    if match["folders"]:
        return "(?:.*/)?"
    if match["any"]:
        return ".*"
    if match["choice"]:
        choice = re.escape(match["choice"]).replace(r"\-", "-")
        return f"(?!/)[{'^' if match['no'] else ''}{choice}]"
    return {"*": "[^/]*", "?": "[^/]"}.get(match[0]) or re.escape(match[0])
