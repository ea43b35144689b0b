"""How the processor time of a call grows with the length of its text: proportion, which a busy machine keeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Text = TypeVar("Text", str, bytes)
ROUNDS = 5
MOST_GROWTH = 9.0
"""For four times the length; in proportion it is 4, and 16 where every character is compared with every other."""


def takes_linear_time(run: Callable[[Text], object], text: Text, *, quick_seconds: float) -> bool:
    """
    Return whether a call takes time in proportion to the length of its text.

    Args:
        run: the call.
        text: the longest text; a text of a quarter of the length is its end.
        quick_seconds: processor time that is always short enough: nothing is compared then.
    """
    short = text[len(text) - len(text) // 4 :]
    spans: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        spans.append((_seconds(run, text), _seconds(run, short)))
        longest, shortest = map(min, zip(*spans, strict=True))
        if longest < max(quick_seconds, MOST_GROWTH * shortest):
            return True
    return False


def _seconds(run: Callable[[Text], object], text: Text) -> float:
    start = time.thread_time()
    run(text)
    return time.thread_time() - start
