"""Loads structlog without libraries that it uses where they happen to be installed, and that are not needed here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["without_optional_libraries"]

_NAMES: Final = ("greenlet", "rich")


@contextmanager
def without_optional_libraries() -> Iterator[None]:
    """
    Make structlog find that rich and greenlet are not installed, which it allows for; others can import them later.

    It would import rich, 0.04 s and 3 MiB, for tracebacks on a terminal, which are written as plain text here, and
    greenlet, 0.004 s, for a storage of contexts that is not used.
    """
    absent = [name for name in _NAMES if name not in sys.modules]
    for name in absent:  # with None there the import system raises ModuleNotFoundError
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
