"""
Logs on stderr: readable on a terminal, one JSON object a line elsewhere, and no secret in either.

Events are named ``<stage>.<what_happened>`` and carry fields, never formatted sentences; ``docs/logs.md``
lists them. What other libraries log through :mod:`logging` comes out in the same form.

Where stderr leads to systemd's journal (``$JOURNAL_STREAM`` names it, see systemd.exec(5)) each line begins
with its priority as ``<N>`` (sd-daemon(3)), so that ``journalctl -p warning`` works.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, TextIO

import structlog

from listener.errors import ConfigurationError
from listener.redaction import masked

__all__ = ["LEVEL_VARIABLE", "configure_logging", "leads_to_journal", "level_of"]

LEVEL_VARIABLE: Final = "LISTENER_LOG_LEVEL"
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""As syslog(3) numbers them."""


def level_of(environ: Mapping[str, str], default: str) -> str:
    """Return the level that ``$LISTENER_LOG_LEVEL`` names, else the default; raise ConfigurationError for no level."""
    level = environ.get(LEVEL_VARIABLE, "").lower() or default
    if level not in _LEVELS:
        raise ConfigurationError(f"{LEVEL_VARIABLE}: {level!r} is no level", hint=f"Levels are {', '.join(_LEVELS)}.")
    return level


def leads_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether the stream is the connection to systemd's journal that ``$JOURNAL_STREAM`` names."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def configure_logging(
    *,
    level: str = "info",
    stream: TextIO | None = None,
    terminal: bool | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """
    Set up logging for this process; may be called again.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        stream: where to write; stderr by default.
        terminal: whether people read it; by default, whether the stream is a terminal.
        environ: where ``$JOURNAL_STREAM`` stands.
    """
    stream = stream or sys.stderr
    people = stream.isatty() if terminal is None else terminal
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
    ]
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        _redact,
        structlog.dev.ConsoleRenderer(colors=people) if people else structlog.processors.JSONRenderer(default=str),
    ]
    if not people and leads_to_journal(stream, environ):
        last[-1] = _with_priority
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _route_standard_library(stream, shared, last, level)


def _route_standard_library(
    stream: TextIO, shared: list[structlog.typing.Processor], last: list[structlog.typing.Processor], level: str
) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries say at "info" what only they care for.
    root.setLevel(_LEVELS[level] if level == "debug" else max(_LEVELS[level], logging.WARNING))


def _name(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Give a foreign record an event name and keep its sentence as a field."""
    record: logging.LogRecord | None = event.get("_record")
    event["message"] = event.get("event")
    event["event"] = f"library.{record.name if record else 'unknown'}"
    return event


def _redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    clean: dict[str, Any] = masked(event)
    return clean


def _with_priority(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    """Return the line as the journal reads it: its priority, then the same JSON as elsewhere."""
    text = structlog.processors.JSONRenderer(default=str)(_logger, _method, event)
    return f"<{_PRIORITIES.get(str(event.get('level')), 6)}>{text!s}"
