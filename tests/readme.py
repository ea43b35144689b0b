"""The shell blocks of the README, so that its recipes are run as they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests import ROOT

__all__ = ["block", "replaced"]

_TEXT = (ROOT / "README.md").read_text("utf-8")


def block(section: str, beginning: str) -> list[str]:
    """Return the lines of the only shell block of a section that begins so; comments are left out."""
    part = _TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = [text for text in re.findall(r"```sh\n(.*?)```", part, re.DOTALL) if text.startswith(beginning)]
    assert len(found) == 1, (section, beginning)
    return [re.sub(r"\s+#.*", "", line) for line in found[0].splitlines()]


def replaced(line: str, texts: Mapping[str, str]) -> str:
    """Return a line with other places; each of them must be in it."""
    for old, new in texts.items():
        assert old in line, (line, old)
        line = line.replace(old, new)
    return line
