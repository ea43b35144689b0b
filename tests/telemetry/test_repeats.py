"""Whoever can cause an event over and over does not fill the disk, and nothing suppressed is left uncounted."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from listener.telemetry import configure_logging, report_repeats
from listener.telemetry.repeats import INTERVAL_SECONDS, MOST_IDENTICAL, MOST_OF_ONE_NAME, RepeatLimiter


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Log as JSON into it, and give pytest its handlers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(level="debug", stream=stream, terminal=False)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the lines as objects."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_identical_events_are_counted(stream: io.StringIO) -> None:
    """Ten are written, the rest is one line with its count; other events go on."""
    log = structlog.get_logger()
    for _ in range(1000):
        log.warning("webhook.turned_out", peer="192.0.2.1")
    log.warning("webhook.turned_out", peer="192.0.2.2")
    report_repeats(at_once=True)
    *written, other, summary = lines(stream)
    assert len(written) == MOST_IDENTICAL
    assert other["peer"] == "192.0.2.2"
    assert (summary["event"], summary["repeated"], summary["count"]) == (
        "log.repeated", "webhook.turned_out", 1000 - MOST_IDENTICAL,
    )  # fmt: skip
    assert summary["level"] == "warning"


def test_events_of_one_name_are_bounded(stream: io.StringIO) -> None:
    """Other fields each time do not help; the count of all is right, and each level is stated."""
    log = structlog.get_logger()
    for at in range(1000):
        log.info("admin.refused", path=f"/{at}")
    for at in range(1000):
        logging.getLogger("library").warning("over %d", at)
    report_repeats(at_once=True)
    *_, ours, foreign = found = lines(stream)
    assert len(found) == 2 * MOST_OF_ONE_NAME + 2
    assert (ours["level"], ours["repeated"], ours["count"]) == ("info", "admin.refused", 800)
    assert (foreign["level"], foreign["repeated"], foreign["count"]) == ("warning", "library.library", 800)


def test_debug_is_complete(stream: io.StringIO) -> None:
    """Whoever requests ``debug`` gets every event."""
    for _ in range(1000):
        structlog.get_logger().debug("notify.nothing")
    assert len(lines(stream)) == 1000


def test_an_interval_begins_again() -> None:
    """After 30 seconds the same event is written again; nothing is summarized twice."""
    now = [0.0]
    limiter = RepeatLimiter(lambda: now[0])
    assert [limiter.admit("a.b", "info", ()) for _ in range(12)] == [True] * 10 + [False] * 2
    now[0] = INTERVAL_SECONDS - 1
    assert limiter._take(at_once=False) == []
    now[0] = INTERVAL_SECONDS
    assert [(one.name, one.times) for one in limiter._take(at_once=False)] == [("a.b", 2)]
    assert limiter.admit("a.b", "info", ())
    assert limiter._take(at_once=True) == []


def test_the_next_event_reports_an_interval_that_is_over(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is logged first after it."""
    log = structlog.get_logger()
    for _ in range(20):
        log.error("store.failed")
    monkeypatch.setattr("listener.telemetry.repeats.INTERVAL_SECONDS", 0.0)
    report_repeats(at_once=True)
    for _ in range(20):
        log.error("store.failed")
    assert [line["count"] for line in lines(stream) if line["event"] == "log.repeated"] == [10]
    assert lines(stream)[-1]["event"] == "store.failed"


@pytest.mark.looptime(False)
def test_threads_lose_no_count(stream: io.StringIO) -> None:
    """Written and counted are all, by four threads at once."""
    log = structlog.get_logger()
    threads = [
        threading.Thread(target=lambda: [log.warning("source.lost", key="a") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report_repeats(at_once=True)
    found = lines(stream)
    assert len(found) - 1 + found[-1]["count"] == 2000
