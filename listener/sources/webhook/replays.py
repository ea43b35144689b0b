"""Messages that are durable already, by the names that their senders gave them, or by their digests."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import Final

__all__ = ["Replays"]

MOST: Final = 20_000
"""Names that are kept, some 150 bytes each; the oldest go first, and are then merely recorded once more."""


class Replays:
    """
    Recognizes a message that was delivered twice, by its sender or by somebody who recorded it.

    Only what is durable is noted, so that answering a second delivery without recording it loses nothing.
    """

    def __init__(self) -> None:
        """Know no message."""
        self._until: OrderedDict[bytes, float] = OrderedDict()
        """By digest: a sender may choose a name of any length."""

    def is_known(self, message_id: str, now: float) -> bool:
        """Return whether this message is durable, and is still remembered at ``now``."""
        return bool(message_id) and self._until.get(_digest(message_id), -math.inf) > now

    def note(self, message_id: str, until: float) -> None:
        """Remember until then that this message is durable."""
        if message_id:
            digest = _digest(message_id)
            self._until[digest] = until
            self._until.move_to_end(digest)
            if len(self._until) > MOST:
                self._until.popitem(last=False)


def _digest(message_id: str) -> bytes:
    return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).digest()
