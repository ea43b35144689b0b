"""Messages of queues that were recorded: one that is delivered again is known, also after a crash (promise 1)."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Final

__all__ = ["KEPT_SECONDS", "MOST", "add_messages", "known_messages"]

MOST: Final = 200_000
"""Messages that are kept, some 60 bytes each; the oldest go first. An older one makes its refresh once more."""
KEPT_SECONDS: Final = 15 * 24 * 3600.0
"""How long they are kept: queues redeliver for 14 days at most."""

_TRIM = "DELETE FROM message WHERE number <= (SELECT max(number) FROM message) - ?"


def _digest(message_id: str) -> bytes:
    """Return a short digest: ids are up to 2,048 characters long."""
    return hashlib.sha256(message_id.encode("utf-8", "surrogateescape")).digest()[:16]


def add_messages(connection: sqlite3.Connection, ids: Sequence[str], *, now: float) -> None:
    """Note that everything in these messages is recorded; called in the transaction that records the last of it."""
    if ids:
        rows = [(_digest(one), now) for one in ids]
        connection.executemany("INSERT OR IGNORE INTO message (digest, at) VALUES (?, ?)", rows)
        connection.execute(_TRIM, (MOST,))


def known_messages(connection: sqlite3.Connection, ids: Sequence[str]) -> frozenset[str]:
    """Return which of these messages were recorded."""
    find = "SELECT 1 FROM message WHERE digest = ?"
    return frozenset(one for one in ids if connection.execute(find, (_digest(one),)).fetchone() is not None)
