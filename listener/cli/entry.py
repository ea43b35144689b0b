"""The entry point: runs a command and turns any error into an exit status and one message."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence

import typer

from listener.cli.app import app
from listener.cli.common import INTERRUPTED
from listener.cli.streams import make_safe
from listener.errors import ListenerError
from listener.printable import printable
from listener.redaction import mask_text

__all__ = ["main"]

DEBUG_VARIABLE = "LISTENER_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name (by default the process's own) and return its exit status."""
    make_safe()
    try:
        status = app(
            args=None if arguments is None else list(arguments), prog_name="cdn-listener", standalone_mode=False
        )
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - any error is reported to the operator
        return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: BaseException) -> int:
    leaves = list(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt | typer.Abort) for leaf in leaves):
        _say("interrupted")
        return INTERRUPTED
    expected = [leaf for leaf in leaves if isinstance(leaf, ListenerError)]
    if expected:
        for leaf in expected:
            _report_error(str(leaf), leaf.hint)
        return max(leaf.exit_status for leaf in expected)
    first = leaves[0]
    if isinstance(first, SystemExit):
        return first.code if isinstance(first.code, int) else 1
    if callable(usage := getattr(first, "format_message", None)):  # raised by the parser: wrong usage
        _report_error(str(usage()), "see cdn-listener --help, or cdn-listener COMMAND --help")
        return int(getattr(first, "exit_code", 2))
    return _unexpected(error, first)


def _unexpected(error: BaseException, first: BaseException) -> int:
    if os.environ.get(DEBUG_VARIABLE):
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
