"""The ledger: what each account may still spend of each kind today (promise 4; the package's page has the rules)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from listener.clock import QUOTA_DAY_SECONDS, window_start
from listener.refresh import QuotaReading, RefreshKind

__all__ = [
    "Budget",
    "book_presumed",
    "book_refund",
    "book_share",
    "book_spent",
    "budget",
    "correct",
    "hold_units",
]


class Budget(NamedTuple):
    """One account's quota of one kind in one day, in units (one URL or one directory each)."""

    limit: int
    spent: int
    held: int
    resets_at: int
    """Seconds since the epoch."""
    share_booked: int = 0
    """What backfills booked of their share; part of it may be spent or held already."""

    @property
    def left(self) -> int:
        """What may still be held."""
        return max(0, self.limit - self.spent - self.held)


def budget(connection: sqlite3.Connection, account: str, kind: RefreshKind, *, now: float, default: int) -> Budget:
    """Return today's budget; of a day that has no row yet, the latest day's limit, else ``default``."""
    window = window_start(now)
    row = connection.execute(
        "SELECT CASE WHEN read_at IS NULL THEN NULL ELSE quota END, spent + others, held, share_booked FROM ledger"
        " WHERE account = ? AND kind = ? AND window_start = ?",
        (account, kind, window),
    ).fetchone()
    limit, spent, held, share_booked = row or (None, 0, 0, 0)
    if limit is None:
        limit = _last_limit(connection, account, kind, default)
    return Budget(limit, spent, held, window + QUOTA_DAY_SECONDS, share_booked)


def _last_limit(connection: sqlite3.Connection, account: str, kind: RefreshKind, default: int) -> int:
    row = connection.execute(
        "SELECT quota FROM ledger WHERE account = ? AND kind = ? AND read_at IS NOT NULL"
        " ORDER BY window_start DESC LIMIT 1",
        (account, kind),
    ).fetchone()
    return default if row is None else int(row[0])


def _open_window(connection: sqlite3.Connection, account: str, kind: RefreshKind, window: int, default: int) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO ledger (account, kind, window_start, quota) VALUES (?, ?, ?, ?)",
        (account, kind, window, _last_limit(connection, account, kind, default)),
    )


def hold_units(
    connection: sqlite3.Connection, account: str, kind: RefreshKind, wanted: int, *, now: float, default: int
) -> int:
    """Hold up to ``wanted`` units of today's quota; return how many were granted."""
    window = window_start(now)
    _open_window(connection, account, kind, window, default)
    granted = min(wanted, budget(connection, account, kind, now=now, default=default).left)
    if granted:
        connection.execute(
            "UPDATE ledger SET held = held + ?, moves = moves + 1 WHERE account = ? AND kind = ? AND window_start = ?",
            (granted, account, kind, window),
        )
    return granted


def book_share(
    connection: sqlite3.Connection,
    units: Mapping[tuple[str, RefreshKind], int],
    most: Mapping[tuple[str, RefreshKind], int],
    *,
    now: float,
) -> bool:
    """
    Book units of the backfills' share of today where all of them are left; return whether they were.

    Args:
        connection: the writing connection, inside a transaction: other backfills book, too.
        units: by account and kind.
        most: what all backfills together may book today, by account and kind.
        now: in the day that it is booked in, in seconds since the epoch.
    """
    window = window_start(now)
    for (account, kind), wanted in units.items():
        if budget(connection, account, kind, now=now, default=0).share_booked + wanted > most[account, kind]:
            return False
    for (account, kind), wanted in units.items():
        _open_window(connection, account, kind, window, 0)
        connection.execute(
            "UPDATE ledger SET share_booked = share_booked + ? WHERE account = ? AND kind = ? AND window_start = ?",
            (wanted, account, kind, window),
        )
    return True


Place = tuple[str, str, int]
"""Account, kind, window."""


def book_spent(connection: sqlite3.Connection, units: Mapping[Place, int]) -> None:
    """Move held units to spent: the CDN accepted them."""
    _book(connection, units, "held = held - :n, spent = spent + :n")


def book_presumed(connection: sqlite3.Connection, units: Mapping[Place, int]) -> None:
    """Move held units to spent although it is not known whether the CDN accepted them."""
    _book(connection, units, "held = held - :n, spent = spent + :n, presumed = presumed + :n")


def book_refund(connection: sqlite3.Connection, units: Mapping[Place, int]) -> None:
    """Give held units back: the CDN surely did not accept them."""
    _book(connection, units, "held = held - :n")


def _book(connection: sqlite3.Connection, units: Mapping[Place, int], change: str) -> None:
    connection.executemany(
        f"UPDATE ledger SET {change}, moves = moves + 1"
        " WHERE account = :account AND kind = :kind AND window_start = :window",
        [{"n": n, "account": account, "kind": kind, "window": window} for (account, kind, window), n in units.items()],
    )


def correct(
    connection: sqlite3.Connection,
    account: str,
    readings: Mapping[RefreshKind, QuotaReading],
    *,
    now: float,
) -> None:
    """Take a live reading, made while nothing of this account was being sent."""
    window = window_start(now)
    for kind, reading in readings.items():
        _open_window(connection, account, kind, window, reading.limit)
        _correct_kind(connection, (account, kind, window), reading, now)


def _correct_kind(
    connection: sqlite3.Connection, key: tuple[str, RefreshKind, int], reading: QuotaReading, now: float
) -> None:
    spent, presumed, others, moves, read_remaining, read_moves, old_limit = connection.execute(
        "SELECT spent, presumed, others, moves, read_remaining, read_moves, quota FROM ledger"
        " WHERE account = ? AND kind = ? AND window_start = ?",
        key,
    ).fetchone()
    unsettled = connection.execute(
        "SELECT count(*) FROM attempt WHERE active = 1 AND held = 1 AND state IN ('sending', 'unknown')"
        " AND account = ? AND kind = ? AND window_start = ?",
        key,
    ).fetchone()[0]
    counted = reading.limit - reading.remaining
    agree = read_remaining == reading.remaining and read_moves == moves and old_limit == reading.limit
    if counted > spent + others + unsettled:
        others = counted - spent - unsettled
    elif counted < spent + others and agree and not unsettled:
        others = max(counted - spent, -presumed)
    connection.execute(
        "UPDATE ledger SET quota = ?, others = ?, read_remaining = ?, read_moves = moves, read_at = ?"
        " WHERE account = ? AND kind = ? AND window_start = ?",
        (max(0, reading.limit), others, reading.remaining, now, *key),
    )
