"""
Logs on stderr: readable on a terminal, one JSON object a line elsewhere, and no secret in either.

Events are named ``<stage>.<what_happened>`` and carry fields, never formatted sentences; ``docs/logs.md``
lists them. Warnings of other libraries come out in the same form. Their lower levels are never written: botocore and
aiohttp log headers with session tokens there.

Fields hold what visitors and senders chose: they are masked, escaped and cut to a maximum length, and repeated events
are suppressed and counted (:mod:`listener.telemetry.repeats`).

Where stderr leads to systemd's journal (``$JOURNAL_STREAM`` names it, see systemd.exec(5)) each line begins
with its priority as ``<N>`` (sd-daemon(3)), so that ``journalctl -p warning`` works.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, TextIO

from listener.telemetry.loading import without_optional_libraries

with without_optional_libraries():
    import structlog

from listener.configuration import LEVEL_VARIABLE, LEVELS
from listener.telemetry.fields import LINE_BREAKS, safe_fields
from listener.telemetry.repeats import INTERVAL_SECONDS, RepeatLimiter
from listener.text import printable

__all__ = [
    "INTERVAL_SECONDS",
    "configure_logging",
    "leads_to_journal",
    "progress_logger",
    "report_repeats",
]

_LEVELS: Final = {name: getattr(logging, name.upper()) for name in LEVELS}

_PRIORITIES: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""As syslog(3) numbers them."""

_limiters: Final[list[RepeatLimiter]] = []
"""The one in use, once logging is set up."""


def leads_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether the stream is the connection to systemd's journal that ``$JOURNAL_STREAM`` names."""
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
        environ: has ``$JOURNAL_STREAM``.
    """
    stream = stream or sys.stderr
    people = stream.isatty() if terminal is None else terminal
    limiter = RepeatLimiter()
    _limiters[:] = [limiter]
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if people else "iso", utc=not people),
    ]
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        safe_fields,
        structlog.processors.JSONRenderer(default=str),
    ]
    if people:
        last[-1:] = [_without_controls, structlog.dev.ConsoleRenderer(colors=True)]
    if not people and leads_to_journal(stream, environ):
        last[-1] = _with_priority
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, limiter.process, *shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _route_standard_library(stream, shared, last, level, limiter)


def progress_logger(environ: Mapping[str, str] = os.environ) -> Any:
    """Return a logger of a command whose events of level info are written, unless ``$LISTENER_LOG_LEVEL`` is set."""
    if LEVEL_VARIABLE in environ:
        return structlog.get_logger()
    shown = structlog.make_filtering_bound_logger(logging.INFO)
    return structlog.wrap_logger(structlog.get_config()["logger_factory"](), wrapper_class=shown)


def report_repeats(*, at_once: bool = False) -> None:
    """Log how many repeated events were suppressed, if the interval is over or ``at_once`` is set."""
    for limiter in _limiters:
        limiter.report(at_once=at_once)


def _route_standard_library(
    stream: TextIO,
    shared: list[structlog.typing.Processor],
    last: list[structlog.typing.Processor],
    level: str,
    limiter: RepeatLimiter,
) -> None:
    lowest = max(_LEVELS[level], logging.WARNING)
    handler = logging.StreamHandler(stream)
    handler.setLevel(lowest)  # also for a logger whose own level somebody lowered
    handler.addFilter(limiter.filter)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(lowest)


def _name(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Give a foreign record an event name and keep its sentence as a field."""
    record: logging.LogRecord | None = event.get("_record")
    event["message"] = event.get("event")
    event["event"] = f"library.{record.name if record else 'unknown'}"
    return event


def _without_controls(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape control characters for a terminal; JSON has them escaped already."""
    return {name: _shown(value, keep=LINE_BREAKS.get(name, "")) for name, value in event.items()}


def _shown(value: Any, *, keep: str = "") -> Any:
    if isinstance(value, dict):
        return {printable(name): _shown(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return printable(value, keep=keep) if isinstance(value, str) else value


def _with_priority(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    """Return the line as the journal reads it: its priority, then the same JSON as elsewhere."""
    text = structlog.processors.JSONRenderer(default=str)(_logger, _method, event)
    return f"<{_PRIORITIES.get(str(event.get('level')), 6)}>{text!s}"
