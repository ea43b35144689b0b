"""How long to wait before the next attempt after failures."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["back_off_seconds"]

FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 60.0


def back_off_seconds(
    failures: int,
    *,
    first: float | None = None,
    longest: float = LONGEST_SECONDS,
    randomness: random.Random | None = None,
) -> float:
    """Return a random wait with full jitter: between 0 and a bound that doubles with each failure up to ``longest``."""
    bound = min(longest, (FIRST_SECONDS if first is None else first) * 2.0 ** min(failures, 32))
    return (randomness or random).uniform(0, bound)
