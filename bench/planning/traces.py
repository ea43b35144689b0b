"""Change histories and the windows in which their changes merge."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from listener.coalescer import due_at
from listener.settings import CoalescerSettings

DATA = Path(__file__).resolve().parent.parent / "data"
QUIET_SECONDS = 30.0
_COALESCER = CoalescerSettings(quiet_seconds=QUIET_SECONDS, cap_seconds=86_400.0)


class Window(NamedTuple):
    """Changes that merged until none came for :data:`QUIET_SECONDS`."""

    at: float
    """When it closed, in seconds since the epoch."""
    changes: dict[str, bool]
    """Path to whether the object exists after its last change."""
    last_change: float


def find_trace(name: str) -> Path:
    """Return the file of a trace that is given by path or by the name of a bundled one."""
    given = Path(name)
    if given.exists():
        return given
    bundled = DATA / f"{name}.tsv.gz"
    if bundled.exists():
        return bundled
    names = ", ".join(sorted(path.name.removesuffix(".tsv.gz") for path in DATA.glob("*.tsv.gz")))
    raise SystemExit(f"no trace at {name}; bundled are: {names}")


def read_changes(path: Path) -> Iterator[tuple[float, bool, str]]:
    """Yield time, whether the object exists afterwards, and path of each change."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            when, kind, key = line.rstrip("\n").split("\t", 2)
            yield float(when), kind != "D", key


def read_windows(path: Path) -> list[Window]:
    """Merge the changes of a trace by the product's own rule, as one coalescer of the whole account."""
    windows: list[Window] = []
    changes: dict[str, bool] = {}
    first = last = closes = 0.0
    for when, exists, key in read_changes(path):
        if changes and when > closes:
            windows.append(Window(closes, changes, last))
            changes = {}
        first = when if not changes else first
        last = when
        closes = due_at(first=first, last=last, finished=True, settings=_COALESCER)
        changes[key] = exists
    if changes:
        windows.append(Window(closes, changes, last))
    return windows
