"""Text from outside: what is too large to parse, the numbers and times in it, and how to show hostile names."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC
from typing import Final

__all__ = ["MAX_OBJECTS", "counted", "header_time", "is_too_large", "printable", "span", "whole_number"]

MOST_DIGITS: Final = 15
"""More than any size, time or count has; Python rejects thousands of digits."""
MAX_OBJECTS: Final = 100_000
"""Objects and lists in one JSON text: more than the longest answer has, and any message."""

_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
"""Takes a string that never ends to the end of the text, so that each character is looked at once."""
_RAW_STRING: Final = re.compile(_STRING.pattern.encode(), re.DOTALL)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, which takes an s but for one: ``1 file``, ``2 files``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def is_too_large(text: bytes | str) -> bool:
    """
    Return whether a JSON text has more than :data:`MAX_OBJECTS` objects and lists.

    Parsed, such a text takes fifty times its size. Brackets within strings do not count: a text may carry others.
    """
    if isinstance(text, str):
        return _brackets(text) > MAX_OBJECTS and _brackets(_STRING.sub("", text)) > MAX_OBJECTS
    return _raw_brackets(text) > MAX_OBJECTS and _raw_brackets(_RAW_STRING.sub(b"", text)) > MAX_OBJECTS


def _brackets(text: str) -> int:
    return text.count("{") + text.count("[")


def _raw_brackets(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def whole_number(text: str) -> int | None:
    """Return the number that ASCII digits write, blanks around them allowed; None for anything else."""
    digits = text.strip(" \t\r\n")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS else None


def header_time(date: str) -> float | None:
    """Return the time in a header such as ``Date``, in seconds since the epoch; None for anything else."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - email takes longer to import than most commands run

    try:
        found = parsedate_to_datetime(date)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


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


def span(seconds: float | None) -> str:
    """Return a duration in its two largest units, or a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)
