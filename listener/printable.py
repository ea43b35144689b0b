"""Makes text with hostile names safe to show: no terminal control, no change of text direction."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]


def printable(text: str, *, keep: str = "") -> str:
    r"""
    Return the text with every character that cannot be seen written as an escape such as ``\x1b``.

    That is C0 and C1 controls, marks that change the direction of text, other format characters, and
    lone surrogates. Characters in ``keep`` (such as a line break) stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep or unicodedata.category(char) == "Zs" else ascii(char)[1:-1]
        for char in text
    )
