"""
Signal handlers for the time before the daemon's event loop runs, installed before the slow imports.

======================= =====================================================================
SIGHUP                  remembered: the configuration is reloaded once the daemon runs
SIGTERM, SIGINT         end the process at once, with status 0 and 130: nothing is open yet
SIGUSR1, SIGUSR2        do nothing, then and later
======================= =====================================================================

A handler is used where ``SIG_IGN`` would do, because programs that this process starts inherit the latter.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

__all__ = ["install", "take_reload_request"]

_reload_requested = False


def install() -> None:
    """Install the handlers; call it in the main thread, before anything that takes time."""
    signal.signal(signal.SIGHUP, _remember_reload)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGUSR1, _ignore)
    signal.signal(signal.SIGUSR2, _ignore)


def take_reload_request() -> bool:
    """Return whether SIGHUP came since the last call."""
    global _reload_requested
    requested, _reload_requested = _reload_requested, False
    return requested


def _remember_reload(_number: int, _frame: FrameType | None) -> None:
    global _reload_requested  # noqa: PLW0603
    _reload_requested = True


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(130 if number == signal.SIGINT else 0)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""
