"""Which deliveries are not yet durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from listener.change import Change, ChangeKind
from listener.contracts import Delivery

__all__ = ["SETTLE_SECONDS", "Acks"]

SETTLE_SECONDS = 30.0
"""How long to wait for what is under way before going on without."""


class Acks:
    """Makes deliveries and knows which were acknowledged."""

    def __init__(self, *, on_ack: Callable[[], None]) -> None:
        """Call ``on_ack`` at each acknowledgement."""
        self._on_ack = on_ack
        self._open: dict[int, frozenset[str]] = {}
        self._directories: dict[int, list[str]] = {}
        """By delivery: the directories that it reports as gone, with all below them."""
        self._next = 0
        self._settled = asyncio.Event()
        self._settled.set()

    def __len__(self) -> int:
        """How many deliveries are under way."""
        return len(self._open)

    def deliver(self, changes: Sequence[Change], *, scan_sequence: int | None = None, seed: bool = False) -> Delivery:
        """Make a delivery that counts as under way until its ``ack`` was called."""
        number = self._next
        self._next += 1
        self._open[number] = frozenset(change.key for change in changes)
        if directories := [change.key for change in changes if change.kind is ChangeKind.SUBTREE_DELETED]:
            self._directories[number] = directories
        self._settled.clear()

        async def ack() -> None:
            self._open.pop(number, None)
            self._directories.pop(number, None)
            if not self._open:
                self._settled.set()
            self._on_ack()

        return Delivery(changes, ack, scan_sequence, seed)

    def under_way(self) -> frozenset[int]:
        """Return which deliveries are under way, to be asked for later."""
        return frozenset(self._open)

    def is_any_under_way(self, numbers: frozenset[int]) -> bool:
        """Return whether any of these deliveries is still under way."""
        return not numbers.isdisjoint(self._open)

    def keys_under_way(self, keys: Collection[str]) -> frozenset[str]:
        """Return those of these keys of which a change, or one of a directory above, may not be in the index yet."""
        asked = frozenset(keys)
        found = frozenset[str]().union(*(asked & open_ for open_ in self._open.values()))
        directories = tuple(key for each in self._directories.values() for key in each)
        return found.union(key for key in asked if key.startswith(directories)) if directories else found

    async def settled(self, timeout_seconds: float) -> None:
        """Wait until nothing is under way, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._settled.wait()
