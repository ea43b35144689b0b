"""The golden corpus, read: one case a message, with what it must come to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from listener.change import Change, ChangeKind, Fingerprint

__all__ = ["CASES", "Case"]

_FOLDER = Path(__file__).parent / "corpus"


class Case(NamedTuple):
    """One message and what it must come to."""

    id: str
    shape: str
    body: bytes
    expected: tuple[Change, ...]
    reported: Mapping[str, Any]
    """The rest as the file has it."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``decode`` is given next to the body."""
        return {name: self.reported[name] for name in ("format", "roots") if name in self.reported}


def _change(reported: Mapping[str, Any]) -> Change:
    kind, mtime = ChangeKind(reported["kind"]), reported.get("mtime")
    fingerprint = Fingerprint(
        reported.get("size"), None if mtime is None else mtime * 1_000_000_000, etag=reported.get("etag")
    )
    known = fingerprint if fingerprint != Fingerprint() else None
    return Change(reported["root"], reported["key"], kind, known, reported.get("time"), reported.get("order"))


def _case(file: str, reported: Mapping[str, Any]) -> Case:
    body = reported["text"] if "text" in reported else json.dumps(reported["body"], ensure_ascii=False)
    return Case(
        f"{file}: {reported['name'][:60]}",
        reported["shape"],
        body.encode("utf-8", "surrogatepass"),
        tuple(map(_change, reported["changes"])),
        reported,
    )


CASES = [
    _case(path.stem, reported) for path in sorted(_FOLDER.glob("*.json")) for reported in json.loads(path.read_text())
]
