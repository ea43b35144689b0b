"""Waiting for conditions in asynchronous tests that keep real time; ``tests.stand.until`` blocks instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

DEADLINE_SECONDS = 90.0
"""Long enough for a machine that does much else; only a failing test takes it."""


async def until(condition: Callable[[], Any], what: str = "", *, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait, in real time, until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        await asyncio.sleep(0.01)
