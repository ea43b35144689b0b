"""
The reference of log events in docs/logs.md: names, levels and fields from the code, meanings manually.

``python -m tests.telemetry.log_events`` prints the page; meanings that stand there are kept, what is
new gets an empty one, and a test then requests it. ``make events`` writes it.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests import ROOT

PAGE = ROOT / "docs" / "logs.md"
LOGGERS = {"log", "_log"}
LEVELS = ("debug", "info", "warning", "error")
FIELDS_TITLE = "## Fields"
ROW = re.compile(r"^\| `([^`]+)` \|(?: ([^|]*) \| ([^|]*) \|)? ?(.*?) ?\|$")


class Event(NamedTuple):
    """One name that log lines have, over all places that write it."""

    name: str
    levels: tuple[str, ...]
    fields: tuple[str, ...]


class Call(NamedTuple):
    """One place that logs."""

    place: str
    name: str | None
    """None where it is no literal."""
    level: str
    fields: tuple[str, ...]


@functools.cache
def calls() -> Sequence[Call]:
    """Return every call of a logger in the package."""
    return tuple(_calls())


def _calls() -> Iterator[Call]:
    for path in sorted((ROOT / "listener").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and (level := _level(node.func)):
                first = node.args[0] if node.args else None
                name = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
                fields = tuple(keyword.arg or "**" for keyword in node.keywords)
                if level == "exception":
                    level, fields = "error", (*fields, "exception")
                yield Call(f"{path.relative_to(ROOT)}:{node.lineno}", name, level, fields)


def _level(function: ast.expr) -> str:
    if not isinstance(function, ast.Attribute) or function.attr not in (
        *LEVELS,
        "exception",
        "critical",
        "log",
        "bind",
    ):
        return ""
    owner = function.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return function.attr if name in LOGGERS else ""


def events() -> dict[str, Event]:
    """Return every event by name."""
    found: dict[str, Event] = {}
    for call in calls():
        name = call.name or ""
        levels, fields = (found[name].levels, found[name].fields) if name in found else ((), ())
        more = tuple(field for field in call.fields if field not in fields)
        both = tuple(level for level in LEVELS if level in (*levels, call.level))
        found[name] = Event(name, both, (*fields, *more))
    return dict(sorted(found.items()))


def meanings(text: str) -> dict[str, str]:
    """Return what the page says of each event and field by its name."""
    rows = (ROW.match(line) for line in text.splitlines())
    return {row[1]: row[4].strip() for row in rows if row}


def page(text: str) -> str:
    """Return the page again, with its introduction and its meanings kept."""
    known, found = meanings(text), events()
    stages = sorted({name.partition(".")[0] for name in found})
    parts = [text.partition("\n## ")[0].rstrip()]
    for stage in stages:
        rows = [event for event in found.values() if event.name.partition(".")[0] == stage]
        parts.append(f"## {stage}\n\n| event | level | fields | meaning |\n|---|---|---|---|\n{_rows(rows, known)}")
    fields = sorted({field for event in found.values() for field in event.fields})
    table = "\n".join(f"| `{field}` | {known.get(field, '')} |" for field in fields)
    parts.append(f"{FIELDS_TITLE}\n\n| field | meaning |\n|---|---|\n{table}")
    return "\n\n".join(parts) + "\n"


def _rows(rows: list[Event], known: dict[str, str]) -> str:
    lines = []
    for name, levels, fields in rows:
        lines.append(f"| `{name}` | {', '.join(levels)} | {', '.join(fields) or 'none'} | {known.get(name, '')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page(PAGE.read_text("utf-8")))
