"""The code in docs/extend is that of the example plugin, which is tested."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

import pytest

from tests import ROOT

PAGES = sorted((ROOT / "docs/extend").glob("*.md"))
FILES = [path for path in (ROOT / "examples/plugin").rglob("*") if path.suffix in (".py", ".toml", ".md")]
BLOCK = re.compile(r"^```(?:python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_code_stands_in_the_example(page: Path) -> None:
    """Word for word, so that what a reader copies has run."""
    texts = [path.read_text() for path in FILES]
    blocks = BLOCK.findall(page.read_text())
    assert blocks
    missing = [block for block in blocks if not any(block in text or indent(block, "    ") in text for text in texts)]
    assert missing == []
