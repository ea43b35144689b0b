"""Large plans without the garbage collector: its walk over a million rows would hold up the event loop."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["gc_paused"]

_lock = threading.Lock()
_users: list[bool] = []
"""For each that has it off now, whether it was on before."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """
    Keep the cyclic collector from running, in all threads, until the last that asked for it is done.

    A full pass looks at every container there is and holds the interpreter meanwhile: 60 to 130 ms with the input of
    a plan for a million needs. What a plan makes is freed by its reference counts; it leaves no cycles of note.
    """
    with _lock:
        _users.append(gc.isenabled() if not _users else _users[0])
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            was_on = _users.pop()
            if not _users and was_on:
                gc.enable()
