"""Messages that are durable already, by the names that their senders gave them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Replays"]

MOST: Final = 20_000
"""Names that are kept, some 100 bytes each; the oldest go first, and are then merely recorded once more."""


class Replays:
    """
    Knows a message again that was delivered twice, by its sender or by somebody who overheard it.

    Only what is durable is noted, so that answering a second delivery without recording it loses nothing.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._known: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, message_id: str) -> bool:
        """Tell whether this message is durable."""
        return bool(message_id) and message_id in self._known

    def note(self, message_id: str) -> None:
        """Note that this message is durable."""
        if message_id:
            self._known[message_id] = None
            if len(self._known) > MOST:
                self._known.popitem(last=False)
