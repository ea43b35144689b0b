"""Loads structlog without what only a colored traceback needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_rich"]

_NAME = "rich"


@contextmanager
def without_rich() -> Iterator[None]:
    """
    Make structlog find that rich is not installed, which it allows for; commands that print tables import it later.

    It would import rich, 0.04 s and 3 MiB, for tracebacks on a terminal, which are written as plain text here.
    """
    if _NAME in sys.modules:
        yield
        return
    # With None there the import system raises ModuleNotFoundError.
    sys.modules[_NAME] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_NAME]
