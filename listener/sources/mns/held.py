"""
What was received and is not yet deleted: which handle deletes it, and whether it is durable. Pure.

::

    received ──▶ waiting ──committed──▶ durable ──taken──▶ deleted
                    │                      ▲
                    └─released             └─ received again after it was durable: only deleted again

A message that comes again while it is held brings a new handle, and nothing else: it is handed out once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from listener.sources.mns.wire import Message

__all__ = ["REMEMBERED", "Held"]

REMEMBERED: Final = 20_000
"""Messages that were durable lately: one whose deletion failed is known again, and deleted without more ado."""


class Held:
    """The messages in hand, by id."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._waiting: dict[str, str] = {}
        self._durable: dict[str, str] = {}
        self._remembered: dict[str, str] = {}

    def __len__(self) -> int:
        """Return how many are not yet durable."""
        return len(self._waiting)

    @property
    def deletable(self) -> int:
        """How many wait to be deleted."""
        return len(self._durable)

    def receive(self, messages: Iterable[Message]) -> list[Message]:
        """Hold these; return those that are new here."""
        fresh = []
        for message in messages:
            if message.id in self._waiting:
                self._waiting[message.id] = message.handle
            elif message.id in self._remembered:
                self._durable[message.id] = self._remembered[message.id] = message.handle
            else:
                self._waiting[message.id] = message.handle
                fresh.append(message)
        return fresh

    def commit(self, ids: Iterable[str]) -> None:
        """Note that these are durable: from now on they may be deleted, and only they."""
        for name in ids:
            handle = self._waiting.pop(name, None)
            if handle is not None:
                self._durable[name] = handle
                self._remember(name, handle)

    def _remember(self, name: str, handle: str) -> None:
        self._remembered[name] = handle
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def take_durable(self, most: int) -> dict[str, str]:
        """Remove and return the oldest that may be deleted, id to handle."""
        names = [name for name, _ in zip(self._durable, range(most), strict=False)]
        return {name: self._durable.pop(name) for name in names}

    def give_back(self, taken: dict[str, str]) -> None:
        """Take back what could not be deleted, under the newest handle that it has by now."""
        self._durable |= {name: self._remembered.get(name, handle) for name, handle in taken.items()}

    def release(self, ids: Sequence[str]) -> list[str]:
        """Hold these no longer; return their handles."""
        return [self._waiting.pop(name) for name in ids if name in self._waiting]
