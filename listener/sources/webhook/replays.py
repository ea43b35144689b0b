"""Messages that are durable already, by the names that their senders gave them, or by their digests."""

from __future__ import annotations

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
        self._until: OrderedDict[str, float] = OrderedDict()

    def is_known(self, message_id: str, now: float) -> bool:
        """Tell whether this message is durable, and is still remembered at ``now``."""
        return bool(message_id) and self._until.get(message_id, float("-inf")) > now

    def note(self, message_id: str, until: float) -> None:
        """Remember until then that this message is durable."""
        if message_id:
            self._until[message_id] = until
            self._until.move_to_end(message_id)
            if len(self._until) > MOST:
                self._until.popitem(last=False)
