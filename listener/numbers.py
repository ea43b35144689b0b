"""Numbers and times in text from outside."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["MAX_OBJECTS", "header_time", "is_too_large", "whole_number"]

MOST_DIGITS: Final = 15
"""More than any size, time or count has; Python refuses to convert some thousands."""
MAX_OBJECTS: Final = 100_000
"""Objects and lists in one JSON text: more than the longest answer has, and any message."""


def is_too_large(text: bytes | str) -> bool:
    """Return whether a JSON text has more than :data:`MAX_OBJECTS` brackets: parsed, it takes fifty times its size."""
    if isinstance(text, bytes):
        return text.count(b"{") + text.count(b"[") > MAX_OBJECTS
    return text.count("{") + text.count("[") > MAX_OBJECTS


def whole_number(text: str) -> int | None:
    """Return the number that ASCII digits write, blanks around them allowed; None for anything else."""
    digits = text.strip(" \t\r\n")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS else None


def header_time(date: str) -> float | None:
    """Return the time in a header such as ``Date``, in seconds since the epoch; None for anything else."""
    try:
        found = parsedate_to_datetime(date)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
