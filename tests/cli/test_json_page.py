"""The page docs/reference/json.md names every field that commands print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests import ROOT
from tests.stand import Stand, until

SECTIONS = re.compile(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def documented() -> dict[str, set[str]]:
    """Return the fields that the page names, by the command of the section."""
    page = (ROOT / "docs/reference/json.md").read_text("utf-8")
    found = {}
    for command, text in SECTIONS.findall(page):
        cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
        found[command] = set(re.findall(r"`([^`]+)`", " ".join(cells)))
    return found


def is_named(field: str, names: set[str]) -> bool:
    """Return whether a name of the page is the field, or something in it where it is empty; <…> is any name."""
    forms = [re.sub(r"<\w+>", "[^.]+", re.escape(name)) for name in names]
    return any(re.fullmatch(form, field) or re.fullmatch(form, f"{field}[]") for form in forms) or any(
        name.startswith((f"{field}[]", f"{field}.")) for name in names
    )


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of each field that has no fields itself."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from fields(below, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for below in value:
            yield from fields(below, f"{path}[]")
    else:
        yield path


def test_every_field_is_in_the_reference(stand: Stand) -> None:
    """Of a daemon with something fresh, something held and something rejected."""
    named, unknown = documented(), set[tuple[str, str]]()
    with stand.daemon():
        stand.write("a.html")
        stand.write("back\\slash.html")
        assert stand.run("wait")[0] == 0 or stand.paths()
        assert stand.run("hold", "--json")[0] == 0
        stand.write("d.html")
        until(lambda: json.loads(stand.run("status", "--json")[1])["stale"])
        calls = (
            *(("status",), ("status", "--url", stand.url("a.html")), ("quota",), ("tasks",), ("dead-letters",)),
            *(("check",), ("hold",), ("wait", "--timeout", "1s"), ("plan", "--explain", "a.html")),
            ("refresh", stand.url("a.html")),
        )
        for call in calls:
            printed = json.loads(stand.run(*call, "--json")[1])
            unknown |= {(call[0], field) for field in fields(printed) if not is_named(field, named[call[0]])}
    assert unknown == set()
