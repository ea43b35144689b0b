"""
Fuzz all parsers, guided by coverage, beginning with the corpus: ``python -m tests.fuzz.fuzz_parsers FOLDER``.

Further arguments are libFuzzer's (``-max_total_time=600``). The first byte of an input chooses the parser; what breaks
one is printed with its name, and belongs, without that byte, into its folder of the corpus.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
with atheris.instrument_imports(
    include=["listener.alibaba.replies", "listener.sources", "listener.formats", "listener.urls"]
):
    from tests.fuzz.parsers import PARSERS

NAMES = sorted(PARSERS)


def one(raw: bytes) -> None:
    """Parse."""
    name = NAMES[raw[0] % len(NAMES)] if raw else NAMES[0]
    try:
        PARSERS[name].parse(raw[1:])
    except PARSERS[name].errors:
        return
    except Exception as error:
        error.add_note(f"parser {name}, input {raw[1:]!r}")
        raise


def main() -> None:
    """Write the corpus as seeds and go on from there."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(NAMES):
        for path in (HERE / "corpus" / name).iterdir():
            (folder / f"{name}-{path.name}").write_bytes(bytes([number]) + path.read_bytes())
    atheris.Setup([sys.argv[0], str(folder), "-timeout=10", "-rss_limit_mb=1024", "-max_len=8192", *sys.argv[2:]], one)
    atheris.Fuzz()


main()
