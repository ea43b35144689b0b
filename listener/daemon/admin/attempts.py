"""How many wrong tokens a client address may give at the page's sign-in."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["FailedAttempts"]

MOST: Final = 10
"""Wrong tokens in a minute; a person who mistypes is far below."""
PER_SECONDS: Final = 60.0
MOST_CLIENTS: Final = 1_024


class FailedAttempts:
    """Counts wrong tokens by client address; forgets the address seen longest ago first."""

    def __init__(self) -> None:
        """Start without any."""
        self._of: OrderedDict[str, list[float]] = OrderedDict()

    def wait_seconds(self, client: str, now: float) -> float:
        """Return how many seconds this client must wait before its next try; 0 for none."""
        times = self._of.get(client, ())
        recent = [at for at in times if now - at < PER_SECONDS]
        return PER_SECONDS - (now - recent[0]) if len(recent) >= MOST else 0.0

    def count(self, client: str, now: float) -> None:
        """Count a wrong token."""
        times = [*(at for at in self._of.get(client, ()) if now - at < PER_SECONDS), now]
        self._of[client] = times[-MOST:]
        self._of.move_to_end(client)
        if len(self._of) > MOST_CLIENTS:
            self._of.popitem(last=False)
