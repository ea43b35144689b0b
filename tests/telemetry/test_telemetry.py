"""Promise 9 in logs: one JSON object a line for machines, readable lines for people, a secret in neither."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from listener.configuration import level_of
from listener.errors import ConfigurationError
from listener.telemetry import configure_logging, leads_to_journal
from listener.telemetry.fields import MOST_CHARACTERS, MOST_ITEMS

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give pytest its own log handlers back after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return each line as the object that it is."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("terminal", [False, True], ids=["json", "console"])
def test_no_log_line_holds_a_secret(terminal: bool) -> None:
    """Not as a field, nested, in a URL, in a message of a library, nor in a traceback."""
    stream = io.StringIO()
    configure_logging(stream=stream, terminal=terminal)
    log = structlog.get_logger()
    log.info(
        "target.called", secret=SECRET, headers={"Authorization": SECRET}, url=f"https://u:{SECRET}@h/?token={SECRET}"
    )
    logging.getLogger("library").warning("connecting to postgresql://u:%s@db", SECRET)
    try:
        int(f"postgresql://u:{SECRET}@db")
    except ValueError:
        log.exception("store.failed")
    assert SECRET not in stream.getvalue()
    assert "target.called" in stream.getvalue()
    assert "store.failed" in stream.getvalue()


def test_machines_read_one_object_a_line() -> None:
    """Event name, level, time with zone and fields, line breaks escaped; a library's line has the same form."""
    stream = io.StringIO()
    configure_logging(stream=stream, terminal=False)
    structlog.get_logger().warning("source.lost", key="a\nb", path=object)
    logging.getLogger("aiohttp.client").error("over %d", 9000)
    own, foreign = logged(stream)
    assert (own["event"], own["level"], own["key"]) == ("source.lost", "warning", "a\nb")
    assert own["timestamp"].endswith("Z")
    assert (foreign["event"], foreign["level"], foreign["message"]) == ("library.aiohttp.client", "error", "over 9000")


@pytest.mark.parametrize(("level", "events"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_is_kept(level: str, events: int) -> None:
    """What is below the level is not written; setting up again replaces what was set up before."""
    stream = io.StringIO()
    configure_logging(level="debug", stream=io.StringIO())
    configure_logging(level=level, stream=stream, terminal=False)
    log = structlog.get_logger()
    log.debug("a.b")
    log.info("a.b")
    log.warning("a.b")
    assert len(logged(stream)) == events


def test_lower_levels_of_libraries_are_never_written() -> None:
    """botocore and aiohttp log session tokens at ``debug``: not even where somebody lowers the logger's own level."""
    stream = io.StringIO()
    configure_logging(level="debug", stream=stream, terminal=False)
    botocore = logging.getLogger("botocore.endpoint")
    botocore.setLevel(logging.DEBUG)
    try:
        botocore.debug("Making request with headers: {'X-Amz-Security-Token': %r}", SECRET)
        logging.getLogger("aiohttp.client").info("hello")
        botocore.warning("retrying with {'X-Amz-Security-Token': %r}", SECRET.encode())
    finally:
        botocore.setLevel(logging.NOTSET)
    (only,) = logged(stream)
    assert only["message"] == "retrying with {'X-Amz-Security-Token': b'***'}"


@pytest.mark.parametrize("terminal", [False, True], ids=["json", "console"])
def test_nothing_in_a_field_commands_a_terminal(terminal: bool) -> None:
    """Controls (C0, C1), marks of direction, line separators, lone surrogates: escaped, with or without blanks."""
    stream = io.StringIO()
    configure_logging(stream=stream, terminal=terminal)
    hostile = "\x1b[2J\x9b1m\u202e\u2066\u2028\x07\r\n\x00\udc80\u200f"
    log = structlog.get_logger()
    for key in (f"a{hostile}b", f"a {hostile} b"):
        log.warning("source.lost", key=key, keys=[key], table={key: key}, raw=key.encode("utf-8", "surrogateescape"))
        logging.getLogger("library").warning("key %s", key)
        try:
            int(key)
        except ValueError as error:
            log.exception("store.failed", error=ValueError(key), other=error)
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # the renderer's own colours
    assert not {char for char in text if not char.isprintable()} - {"\n", "\t"}
    for line in text.splitlines():
        assert not line.startswith(("b", "[2J"))


def test_fields_have_a_maximum_length() -> None:
    """Texts, lists, mappings and nested data are cut; a secret is masked before, and none appears at the cut."""
    stream = io.StringIO()
    configure_logging(stream=stream, terminal=False)
    nested: Any = "x"
    for _ in range(1000):
        nested = [nested]
    secret_at_the_cut = "b" * 7_990 + f" https://u:{SECRET * 100}@h/ " + "password=" + "a" * 9_000
    structlog.get_logger().warning(
        "source.lost", key="a" * 1_000_000, keys=["k"] * 1000, table={str(at): at for at in range(1000)}, nested=nested,
        body=b"c" * 1_000_000, error=ValueError(f"https://u:{SECRET}@h/"), other=secret_at_the_cut,
    )  # fmt: skip
    (line,) = logged(stream)
    assert line["key"] == "a" * MOST_CHARACTERS + "… (1000000 characters)"
    assert line["keys"] == ["k"] * MOST_ITEMS + ["… 950 more"]
    assert len(line["table"]) == MOST_ITEMS + 1
    assert line["error"] == "https://***@h/"
    assert SECRET not in stream.getvalue()
    assert len(stream.getvalue()) < 12_000


def test_the_level_of_a_library_is_that_of_the_journal() -> None:
    """An error of a library keeps its level at ``error``, and a warning is left out there."""
    stream = io.StringIO()
    configure_logging(level="error", stream=stream, terminal=False)
    logging.getLogger("library").warning("a")
    logging.getLogger("library").error("b")
    assert [line["message"] for line in logged(stream)] == ["b"]


def test_the_level_comes_from_the_environment() -> None:
    """``LISTENER_LOG_LEVEL`` wins in any case; an unknown level is refused with the list."""
    assert level_of({}, "info") == "info"
    assert level_of({"LISTENER_LOG_LEVEL": "DEBUG"}, "info") == "debug"
    with pytest.raises(ConfigurationError, match="'loud' is not a level") as caught:
        level_of({"LISTENER_LOG_LEVEL": "loud"}, "info")
    assert "warning" in caught.value.hint


def test_the_journal_reads_a_priority() -> None:
    """Where stderr is the connection that ``$JOURNAL_STREAM`` names, each line begins with it, and is JSON else."""
    read, write = os.pipe()
    with os.fdopen(read) as journal, os.fdopen(write, "w") as stream:
        status = os.fstat(write)
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        configure_logging(level="debug", stream=stream, environ=environ)
        log = structlog.get_logger()
        for name in ("debug", "info", "warning", "error"):
            getattr(log, name)("a.b", text="one\ntwo", token=SECRET)
        logging.getLogger("library").critical("gone")
        configure_logging(stream=stream, environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        log.info("a.b")
        stream.flush()
        lines = [journal.readline() for _ in range(6)]
    assert [line[:3] for line in lines[:5]] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert all(json.loads(line[3:])["event"] for line in lines[:5])
    assert json.loads(lines[5])["event"] == "a.b"
    assert SECRET not in "".join(lines)


def test_only_the_journal_is_the_journal() -> None:
    """No variable, another stream, one without a descriptor, and nonsense are none."""
    assert not leads_to_journal(sys.__stderr__, {})
    assert not leads_to_journal(sys.__stderr__, {"JOURNAL_STREAM": "nonsense"})
    assert not leads_to_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
