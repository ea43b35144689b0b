"""Plain words: the private English of the first version goes, folder by folder, and does not come back."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = re.compile(r"\b(told|tell|heard|hears|asks|anew|beside|by hand|by then)\b", re.IGNORECASE)
PRIVATE = re.compile(
    r"(Briefing|Braked?|Glance|Instructive|Looker|PairedSource|Purse|Teller|Telling|Visitor|WaitingRoom|ChosenListing"
    r"|\b(doomed|namesakes?|ripen|ripens|stubborn|taming|fates|deaf)\b)"
)
"""Names that are no term: words.md has the trade's word for each."""
IDIOMATIC = ("tell apart",)
"""Phrases that are English as everybody writes it."""
MOST_BANNED: dict[str, int] = {
    ".": 5,
    "bench": 3,
    "docs": 5,
    "listener": 360,
    "tests": 10,
}
MOST_PRIVATE: dict[str, int] = {
    "bench": 1,
    "listener": 70,
    "tests": 1,
}
"""The most that each folder may have. Lower it whenever a folder gets cleaner; never raise it."""


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
    """Return how often the words occur below each top-level folder."""
    found: Counter[str] = Counter()
    for path in _files():
        text = path.read_text("utf-8")
        for phrase in IDIOMATIC:
            text = text.replace(phrase, "")
        if count := len(words.findall(text)):
            found[path.relative_to(ROOT).parent.parts[0] if path.parent != ROOT else "."] += count
    return found


@pytest.mark.parametrize(("words", "most"), [(BANNED, MOST_BANNED), (PRIVATE, MOST_PRIVATE)], ids=["banned", "private"])
def test_no_folder_has_more_private_words_than_it_had(words: re.Pattern[str], most: dict[str, int]) -> None:
    """Each folder stays as plain as it has become."""
    found = _counted(words)
    too_many = {folder: count for folder, count in found.items() if count > most.get(folder, 0)}
    assert too_many == {}, "write it plainly: see the list of words at the top of this file"
