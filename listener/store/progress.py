"""How far each backfill got."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from listener.change import key_to_bytes, key_to_text

__all__ = ["Progress", "load_progress", "save_progress"]


class Progress(NamedTuple):
    """How far a backfill got."""

    after: str
    """The last key whose needs are durable."""
    listed: int
    finished: bool


def load_progress(connection: sqlite3.Connection, listing: str) -> Progress | None:
    """Return how far a backfill of this listing got, ``None`` where none was begun."""
    row = connection.execute("SELECT after, listed, finished FROM backfill WHERE id = ?", (listing,)).fetchone()
    return None if row is None else Progress(key_to_text(row[0]), row[1], bool(row[2]))


def save_progress(connection: sqlite3.Connection, listing: str, state: Progress, *, now: float) -> None:
    """Keep how far a backfill got."""
    connection.execute(
        "INSERT OR REPLACE INTO backfill (id, after, listed, finished, updated_at) VALUES (?, ?, ?, ?, ?)",
        (listing, key_to_bytes(state.after), state.listed, state.finished, now),
    )
