"""Tables of commands as text."""

from __future__ import annotations

import random

import pytest

from listener.cli.table import shortened, table_lines, text_width

TEXTS = ("", "a", "fresh", "https://example.org/a/long/path", "中文字", "e\u0301", "two words")


def test_columns_are_aligned() -> None:
    """Also below and after characters that take two places, and without blanks at the ends of lines."""
    rows = [("name", "state", ""), ("文字", "ok", "x"), ("e\u0301", "stale", "")]
    assert table_lines(rows) == ["name state", "文字 ok    x", "e\u0301    stale"]


def test_the_widest_column_is_folded_first() -> None:
    """A short column keeps its width, and no character is lost."""
    assert table_lines([("id", "url"), ("12", "https://example.org/")], width=13) == [
        "id url",
        "12 https://ex",
        "   ample.org/",
    ]


def test_a_wide_character_is_not_divided() -> None:
    """One that is wider than its column stands out of it."""
    assert table_lines([("a", "文字"), ("b", "x")], width=3) == ["a 文", "  字", "b x"]


@pytest.mark.parametrize("seed", range(20))
def test_folded_lines_fit_and_contain_everything(seed: int) -> None:
    """Each cell can be read in its column from top to bottom."""
    chance = random.Random(seed)
    columns = chance.randrange(1, 5)
    rows = [[chance.choice(TEXTS) for _ in range(columns)] for _ in range(chance.randrange(1, 6))]
    width = chance.randrange(3 * columns, 80)
    lines = table_lines(rows, width=width)
    assert all(text_width(line) <= width for line in lines)
    shown = sorted("".join(lines).replace(" ", ""))
    assert shown == sorted("".join(cell for row in rows for cell in row).replace(" ", ""))


def test_one_line_a_row_is_cut() -> None:
    """At the end, and in the middle of a URL, whose end makes it unique."""
    rows = [("id", "url", "reason"), ("1", "https://www.example.com/a/long/path.html", "covers 40 due, evicts nothing")]
    lines = table_lines(rows, width=30, one_line=True)
    assert [len(line) <= 30 for line in lines] == [True, True]
    assert lines[1].startswith("1  https:…")
    assert lines[1].endswith("…")
    assert table_lines(rows, width=200, one_line=True) == table_lines(rows)


@pytest.mark.parametrize("width", range(1, 12))
def test_what_is_cut_is_no_wider(width: int) -> None:
    """Also where characters take two places."""
    for text in (*TEXTS, "https://中文字/文字.html"):
        assert text_width(shortened(text, width)) <= max(width, 1)
        assert text_width(text) > width or shortened(text, width) == text
