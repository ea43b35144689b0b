"""Numbers in text from outside."""

from __future__ import annotations

from typing import Final

__all__ = ["whole_number"]

MOST_DIGITS: Final = 15
"""More than any size, time or count has; Python refuses to convert some thousands."""


def whole_number(text: str) -> int | None:
    """Return the number that ASCII digits write, blanks around them allowed; None for anything else."""
    digits = text.strip(" \t\r\n")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS else None
