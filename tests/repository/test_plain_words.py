"""Plain words: the private English of the first version does not come back."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

BANNED = re.compile(r"\b(told|tell|heard|hears|asks|anew|beside|by hand|by then)\b", re.IGNORECASE)
PRIVATE = re.compile(
    r"(Briefing|Braked?|Glance|Instructive|Looker|PairedSource|Purse|Teller|Telling|Visitor|WaitingRoom|ChosenListing"
    r"|\b(doomed|namesakes?|ripen|ripens|stubborn|taming|fates|deaf)\b)"
)
"""Names that are no term: words.md has the trade's word for each."""
IDIOMATIC = ("tell apart",)
"""Phrases that are English as everybody writes it."""
MOST_BANNED = 8
"""What is left: table and column names of old state files, old option names, and idiomatic uses."""
MOST_PRIVATE = 2
"""Never raise either; lower it when a word goes."""


def _files() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "listener", "docs", "*README*.md", "CHANGELOG.md", "CONTRIBUTING.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if not name.endswith((".png", ".svg")) and (ROOT / name).exists():
            yield ROOT / name


def _counted(words: re.Pattern[str]) -> Counter[str]:
    """Return how often the words occur in each file."""
    found: Counter[str] = Counter()
    for path in _files():
        text = path.read_text("utf-8")
        for phrase in IDIOMATIC:
            text = text.replace(phrase, "")
        if count := len(words.findall(text)):
            found[path.relative_to(ROOT).as_posix()] += count
    return found


@pytest.mark.parametrize(("words", "most"), [(BANNED, MOST_BANNED), (PRIVATE, MOST_PRIVATE)], ids=["banned", "private"])
def test_the_product_is_written_in_plain_words(words: re.Pattern[str], most: int) -> None:
    """Private words stay out of code, documentation and messages."""
    found = _counted(words)
    assert found.total() <= most, f"write it plainly: {found.most_common(10)}"


def test_tests_have_plain_names() -> None:
    """Files and functions of tests say what is tested, without private words and without where the test came from."""
    private = re.compile(r"(?:^|_)(told|tells?|heard|hears?|asks|anew|beside|by_hand|by_then|review\w*|m\d+)(?:_|\.|$)")
    listed = subprocess.run(["git", "ls-files", "tests"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.splitlines() if name.endswith(".py") and (ROOT / name).exists()]
    names = [path.name for path in paths]
    names += [name for path in paths for name in re.findall(r"def (\w+)", path.read_text("utf-8"))]
    assert [name for name in names if private.search(name)] == []
