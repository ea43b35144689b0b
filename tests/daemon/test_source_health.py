"""One source on several instances: a row for each, and the worst of them as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from listener.contracts import SourceHealth, SourceState
from listener.daemon.source_health import CHECK, SILENT_SECONDS, Reported, is_blind, source_rows, troubles_of
from listener.settings import Settings, parse_settings
from listener.store.fleet import Instance

NOW = 1_000.0


def instance(name: str, *, alive: bool = True) -> Instance:
    """Return an instance of the fleet."""
    return Instance(name, "1", 0.0, alive, 3.0, ())


def row(state: SourceState = SourceState.LISTENING, **fields: Any) -> dict[str, Any]:
    """Return what an instance reported."""
    ready = state in (SourceState.LISTENING, SourceState.STANDBY)
    known = {"state": state.value, "ready": ready, "last_event_at": None, "lost_events": 1, "rescans": 2, "detail": ""}
    return {**known, "figures": {}, "told_at": NOW - 10, "trouble_since": None, **fields}


@pytest.fixture
def settings() -> Settings:
    """Settings of instance web-1 with one source."""
    table = {
        "instance": {"name": "web-1"},
        "sources": {"www": {"type": "filesystem", "path": "/srv/www"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": "www", "target": "cdn", "base_urls": ["http://cdn.example/"]}],
    }
    return parse_settings(table, {})


def rows_of(settings: Settings, stored: dict[str, dict[str, Any]], *instances: Instance, **live: SourceHealth) -> Any:
    """Return the row of the source."""
    return source_rows(settings, Reported({"www": stored}, instances, live, is_running=True), NOW)["www"]


def test_each_instance_has_a_row_and_the_worst_is_that_of_all(settings: Settings) -> None:
    """Counters are added; the detail says where."""
    stored = {
        "web-1": row(last_event_at=5.0),
        "web-2": row(SourceState.DEGRADED, detail="no watches left", last_event_at=3.0, trouble_since=7.0),
    }
    found = rows_of(settings, stored, instance("web-1"), instance("web-2"))
    assert (found["state"], found["ready"], found["last_event_at"]) == ("degraded", False, 5.0)
    assert (found["lost_events"], found["rescans"], found["detail"]) == (2, 4, "web-2: no watches left")
    assert {name: one["state"] for name, one in found["instances"].items()} == {
        "web-1": "listening",
        "web-2": "degraded",
    }
    assert list(troubles_of({"www": found}, is_running=True)) == [("source www on web-2: no watches left", 7.0, CHECK)]


def test_who_stands_by_leaves_the_state_to_the_one_that_reads(settings: Settings) -> None:
    """In whichever order."""
    for first, second in (("web-1", "web-2"), ("web-2", "web-1")):
        stored = {first: row(SourceState.STANDBY), second: row(SourceState.SCANNING)}
        assert rows_of(settings, stored, instance(first), instance(second))["state"] == "scanning"


def test_who_died_or_left_does_not_count(settings: Settings) -> None:
    """That an instance is dead is a problem by itself; one that left in order is none."""
    stored = {name: row(SourceState.FAILED, detail="old") for name in ("dead", "left")} | {"web-2": row()}
    found = rows_of(settings, stored, instance("dead", alive=False), instance("web-2"))
    assert (found["state"], found["detail"], list(found["instances"])) == ("listening", "", ["web-2"])
    assert is_blind(stored, [instance("dead", alive=False)]) is True
    assert is_blind(stored, [instance("web-2")]) is False
    assert is_blind({}, [instance("web-2")]) is True


def test_one_that_runs_and_reports_no_more_is_stopped(settings: Settings) -> None:
    """On that instance; the present state of this process's own source is no report."""
    stored = {name: row(told_at=NOW - SILENT_SECONDS - 1) for name in ("web-1", "web-2")}
    health = SourceHealth(SourceState.LISTENING, ready=True)
    found = rows_of(settings, stored, instance("web-1"), instance("web-2"), www=health)
    assert {name: one["state"] for name, one in found["instances"].items()} == {
        "web-1": "listening",
        "web-2": "stopped",
    }
    assert list(troubles_of({"www": found}, is_running=True)) == [("source www on web-2: stopped", None, CHECK)]


def test_of_a_state_file_there_is_one_row(settings: Settings) -> None:
    """As ever, without instances."""
    found = rows_of(settings, {"": row(detail="trouble")})
    assert (found["state"], found["detail"], found["instances"]) == ("listening", "trouble", {})
    assert list(troubles_of({"www": found}, is_running=True)) == [("source www: trouble", None, CHECK)]
    assert rows_of(settings, {})["state"] == "stopped"
