"""
Fuzz the decoder, guided by coverage, beginning with the corpus: ``python -m tests.formats.fuzz_formats FOLDER``.

Further arguments are libFuzzer's (``-max_total_time=600``). Ends with an error at the first exception that is not
the decoder's own, at the first message that takes ten seconds, and when memory grows past the limit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["listener"]):
    from listener.change import key_to_bytes
    from listener.errors import MalformedNotification
    from listener.formats import FORMATS, decode

from tests.formats.corpus_cases import CASES

_FORMATS = sorted(FORMATS)


def one(body: bytes) -> None:
    """Decode one message; its first byte says as what."""
    try:
        decoded = decode(body[1:], format=_FORMATS[body[0] % len(_FORMATS)] if body else "auto")
    except MalformedNotification:
        return
    for change in decoded.changes:
        key_to_bytes(change.key)
        if not change.key or not change.root:
            raise AssertionError(change)


def main() -> None:
    """Write the corpus as seeds and go on from there."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for at, case in enumerate(CASES):
        (folder / f"{at:04}").write_bytes(bytes([_FORMATS.index("auto")]) + case.body)
    atheris.Setup([sys.argv[0], str(folder), "-timeout=10", "-rss_limit_mb=512", "-max_len=8192", *sys.argv[2:]], one)
    atheris.Fuzz()


main()
