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
    told: Mapping[str, Any]
    """The rest as the file has it."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``decode`` is given beside the body."""
        return {name: self.told[name] for name in ("format", "roots") if name in self.told}


def _change(told: Mapping[str, Any]) -> Change:
    kind, mtime = ChangeKind(told["kind"]), told.get("mtime")
    fingerprint = Fingerprint(told.get("size"), None if mtime is None else mtime * 1_000_000_000, etag=told.get("etag"))
    known = fingerprint if fingerprint != Fingerprint() else None
    return Change(told["root"], told["key"], kind, known, told.get("time"), told.get("order"))


def _case(file: str, told: Mapping[str, Any]) -> Case:
    body = told["text"] if "text" in told else json.dumps(told["body"], ensure_ascii=False)
    return Case(
        f"{file}: {told['name'][:60]}",
        told["shape"],
        body.encode("utf-8", "surrogatepass"),
        tuple(map(_change, told["changes"])),
        told,
    )


CASES = [_case(path.stem, told) for path in sorted(_FOLDER.glob("*.json")) for told in json.loads(path.read_text())]
