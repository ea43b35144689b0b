"""How the configuration states the addresses of a key: suffixes, patterns and URL spellings."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

__all__ = ["PATH", "AlsoPattern", "Spelling", "also_pattern", "stripped_suffix"]

PATH: Final = "{path}"
"""Matches any non-empty text in a pattern, slashes included."""
ARROW: Final = "->"
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]*\}")

Spelling = Literal["browser", "plus", "encoded", "strict", "nfc", "nfd"]
"""A way to write a key as a URL, in addition to the canonical one; ``listener.router.addresses`` has the table."""


class AlsoPattern(NamedTuple):
    """One rule from a key to another path under which it is served."""

    text: str
    """As written in the configuration, for ``plan --explain``."""
    before: str
    after: str
    """What a key starts and ends with; together the whole key where ``exact``."""
    exact: bool
    """True where the left side has no ``{path}``: one key."""
    result: str
    """The path, with ``{path}`` where the matched text goes."""

    def matched(self, key: str) -> str | None:
        """Return what ``{path}`` matches in this key: empty for an exact rule, None if the key does not match."""
        if self.exact:
            return "" if key == self.before else None
        fits = key.startswith(self.before) and key.endswith(self.after)
        text_end = len(key) - len(self.after)
        return key[len(self.before) : text_end] if fits and text_end > len(self.before) else None

    def path(self, text: str) -> str:
        """Return the path for the matched text."""
        return self.result.replace(PATH, text)


def also_pattern(text: str) -> AlsoPattern:
    """
    Return the rule that a text like ``{path}.gz -> {path}`` states.

    Both sides are relative to the site: after ``prefix`` was cut off the key, below the base URL; a leading ``/`` is
    dropped. Raises :class:`ValueError`, saying what is wrong with it.
    """
    left, arrow, right = text.partition(ARROW)
    left, right = (side.strip() for side in (left, right))
    if not arrow or not left or not right:
        raise ValueError(f'{text!r}: write a key, an arrow and a path, as in "{PATH}.gz {ARROW} {PATH}"')
    if unknown := set(_PLACEHOLDER.findall(left + right)) - {PATH}:
        raise ValueError(f"{text!r}: {min(unknown)} is unknown; {PATH} stands for any text")
    left, right = (side.removeprefix("/") for side in (left, right))
    before, found, after = left.partition(PATH)
    if PATH in after:
        raise ValueError(f"{text!r}: {PATH} occurs twice before the arrow; use it once")
    if PATH in right and not found:
        raise ValueError(f"{text!r}: {PATH} occurs only after the arrow; use it before the arrow, too")
    if "?" in right or "#" in right:
        raise ValueError(f"{text!r}: a path has no ? and no #; name queries in query_variants")
    if left == right:
        raise ValueError(f"{text!r}: both sides are the same, so it adds no address")
    return AlsoPattern(text, before, after, not found, right)


def stripped_suffix(text: str) -> str:
    """Return a suffix for ``strip_suffixes``; raise :class:`ValueError` where it cannot be one."""
    if not text.startswith(".") or "/" in text or len(text) < len(".x"):
        raise ValueError(f'{text!r}: a suffix starts with a dot and has no slash, as in ".html"')
    return text
