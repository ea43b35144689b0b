"""Tables as text: columns that are aligned, and folded where the terminal is narrower."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

__all__ = ["shortened", "table_lines"]

CUT: Final = "…"
"""Where something was left out."""
_GAP: Final = 1
"""Blanks between two columns."""


def table_lines(rows: Sequence[Sequence[str]], *, width: int | None = None, one_line: bool = False) -> list[str]:
    """
    Return the lines of a table, without blanks at their ends.

    With ``width``, the widest columns are folded until each line has at most so many characters, as long as that is
    possible with one character in each column; with ``one_line`` they are cut instead, so that each row is a line.
    """
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        _narrow(widths, width - _GAP * (len(widths) - 1))
        if one_line:
            rows = [[shortened(cell, room) for cell, room in zip(row, widths, strict=True)] for row in rows]
    return [line for row in rows for line in _row_lines(row, widths)]


def shortened(text: str, width: int) -> str:
    """Return a text that is no wider: a URL without its middle, as its end distinguishes it, others without the end."""
    if text_width(text) <= width:
        return text
    end = (width - 1) // 2 if "://" in text else 0
    return _beginning(text, width - 1 - end) + CUT + _beginning(text[::-1], end)[::-1]


def _beginning(text: str, width: int) -> str:
    found = ""
    for character in text:
        if text_width(found + character) > width:
            break
        found += character
    return found


def text_width(text: str) -> int:
    """Return how many characters wide a terminal shows it: wide ones count twice, combining ones do not count."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def _character_width(character: str) -> int:
    return 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")


def _narrow(widths: list[int], room: int) -> None:
    """Reduce the widest columns until all of them have room."""
    while sum(widths) > max(room, len(widths)):
        widths[widths.index(max(widths))] -= 1


def _row_lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    folded = (_folded(cell, width) for cell, width in zip(row, widths, strict=True))
    for cells in zip_longest(*folded, fillvalue=""):
        padded = (cell + " " * (width - text_width(cell)) for cell, width in zip(cells, widths, strict=True))
        yield (" " * _GAP).join(padded).rstrip()


def _folded(cell: str, width: int) -> list[str]:
    """Return a cell in parts that are no wider than the column; one character is never divided."""
    if text_width(cell) <= width:
        return [cell]
    parts, left = [""], width
    for character in cell:
        wide = _character_width(character)
        if wide > left and parts[-1]:
            parts.append("")
            left = width
        parts[-1] += character
        left -= wide
    return parts
