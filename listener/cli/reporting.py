"""What ends a command: one clear message on stderr, and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from listener.errors import ListenerError
from listener.redaction import mask_text
from listener.text import printable

__all__ = ["INTERRUPTED", "reported"]

DEBUG_VARIABLE = "LISTENER_DEBUG"
INTERRUPTED = 130
"""The exit status of a command that was interrupted."""


def reported(error: BaseException, *, interruptions: tuple[type[BaseException], ...] = (KeyboardInterrupt,)) -> int:
    """Report on stderr what ended a command, and return its exit status."""
    leaves = list(_leaves(error))
    if any(isinstance(leaf, interruptions) for leaf in leaves):
        _say("interrupted")
        return INTERRUPTED
    expected = [leaf for leaf in leaves if isinstance(leaf, ListenerError)]
    if expected:
        for leaf in expected:
            for message, hint in leaf.parts or [(str(leaf), leaf.hint)]:
                _report_error(message, hint)
        return max(leaf.exit_status for leaf in expected)
    first = leaves[0]
    if isinstance(first, SystemExit):
        return first.code if isinstance(first.code, int) else 1
    if callable(usage := getattr(first, "format_message", None)):  # raised by the parser: wrong usage
        _report_usage(first, str(usage()))
        return int(getattr(first, "exit_code", 2))
    return _unexpected(error, first)


def _report_usage(error: BaseException, message: str) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":  # not imported: a daemon starts without the parser
        _say(message)
        return
    command = getattr(getattr(error, "ctx", None), "command_path", "") or "cdn-listener"
    _report_error(message, f"see {command} --help")


def _unexpected(error: BaseException, first: BaseException) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        _say(mask_text("".join(traceback.format_exception(error))))
    what = f"{type(first).__name__}: {first}" if str(first) else type(first).__name__
    if isinstance(first, OSError):
        _report_error(what, "")
    else:
        _report_error(f"unexpected {what}", f"This is a defect. Set {DEBUG_VARIABLE}=1 for a traceback, and report it.")
    return 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _report_error(message: str, hint: str) -> None:
    _say(f"error: {mask_text(message)}")
    if hint:
        _say(f"hint: {mask_text(hint)}")


def _say(line: str) -> None:
    sys.stderr.write(printable(line, keep="\n\t") + "\n")
    sys.stderr.flush()
