"""The reference of log events is the truth: every event of the code, each with its fields and a meaning."""

from __future__ import annotations

import re

from tests.telemetry import log_events


def test_every_event_has_a_plain_name() -> None:
    """A literal ``stage.what_happened`` with named fields: what monitoring looks for can be found in the code."""
    odd = [
        call
        for call in log_events.calls()
        if not re.fullmatch(r"[a-z_]+\.[a-z_]+", call.name or "")
        or "**" in call.fields
        or call.level in ("log", "bind")
    ]
    assert not odd, odd


def test_the_page_lists_what_the_code_logs() -> None:
    """docs/logs.md has every event with its levels and fields, and none besides."""
    text = log_events.PAGE.read_text("utf-8")
    there, wanted = (
        {line for line in lines.splitlines() if line.startswith("| `")} for lines in (text, log_events.page(text))
    )
    assert there == wanted, f"run `make events`, then write the meanings; new or changed: {sorted(wanted - there)}"
    assert text == log_events.page(text), "run `make events`"


def test_every_event_and_field_means_something() -> None:
    """No row is without its meaning."""
    empty = [name for name, meaning in log_events.meanings(log_events.PAGE.read_text("utf-8")).items() if not meaning]
    assert not empty, f"docs/logs.md: write what these mean: {empty}"
