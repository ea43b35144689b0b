"""
Fuzz one parser, guided by coverage: ``python tests/fuzz/fuzz_parsers.py PARSER FOLDER CORPUS``.

Further arguments are libFuzzer's (``-max_total_time=600``). What breaks a parser belongs into its folder of the corpus.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["listener"]):
    from parsers import PARSERS

NAME = sys.argv.pop(1)


def one(raw: bytes) -> None:
    """Parse."""
    try:
        PARSERS[NAME].parse(raw)
    except PARSERS[NAME].errors:
        return


atheris.Setup(sys.argv, one)
atheris.Fuzz()
