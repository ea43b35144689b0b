"""
The ledger: what an account has spent and holds of each allowance (promise 4; the package's page has the rules).

It has a row for each account, allowance and window. Where a window rolls, several rows count. Each unit leaves
``held`` once, in the transaction that moves its attempt, in the row in which it was held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from listener.allowances import Allowance
from listener.refresh import QuotaReading
from listener.store.charges import BookingKey, Charge, decoded
from listener.store.connection import Connection

__all__ = [
    "Budget",
    "ShareBooking",
    "book_others",
    "book_presumed",
    "book_refund",
    "book_share",
    "book_spent",
    "budget",
    "correct",
    "hold_units",
    "mismatches",
    "presume_rest_spent",
]


class Budget(NamedTuple):
    """What an account may spend of one allowance, in its units."""

    limit: int
    spent: int
    held: int
    resets_at: float
    """When units come back, in seconds since the epoch; infinite where they never do."""
    share_booked: int = 0
    """What backfills booked of their share; part of it may be spent or held already."""
    others: int = 0
    """The part of ``spent`` that others spent, as the live quota shows."""

    @property
    def left(self) -> int:
        """What may still be held."""
        return max(0, self.limit - self.spent - self.held)


class _Row(NamedTuple):
    window: int
    limit: int
    spent: int
    """By us, presumed units included."""
    presumed: int
    others: int
    held: int
    moves: int
    read_remaining: int | None
    read_moves: int | None
    read_at: float | None
    share_booked: int


_COLUMNS = (
    "window_start, quota, spent, presumed, others, held, moves, read_remaining, read_moves, read_at, share_booked"
)
_KEY = "account = ? AND kind = ? AND window_start = ?"


def _rows(connection: Connection, account: str, allowance: Allowance, now: float) -> list[_Row]:
    """Return the rows that count now, the present one last where there is one."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM ledger WHERE account = ? AND kind = ? AND window_start BETWEEN ? AND ?"
        " ORDER BY window_start",
        (account, allowance.name, allowance.window.first(now), allowance.window.start(now)),
    )
    return [_Row(*row) for row in rows]


def budget(connection: Connection, account: str, allowance: Allowance, *, now: float) -> Budget:
    """Return what may be spent now, up to the limit that was read last, else that of the allowance."""
    rows = _rows(connection, account, allowance, now)
    read = rows[-1].limit if rows and rows[-1].read_at is not None else _last_limit(connection, account, allowance.name)
    others = sum(row.others for row in rows)
    return Budget(
        limit=allowance.limit if read is None else read,
        spent=sum(row.spent for row in rows) + others,
        held=sum(row.held for row in rows),
        resets_at=allowance.window.end(now),
        share_booked=sum(row.share_booked for row in rows),
        others=max(0, others),
    )


def _last_limit(connection: Connection, account: str, name: str) -> int | None:
    row = connection.execute(
        "SELECT quota FROM ledger WHERE account = ? AND kind = ? AND read_at IS NOT NULL"
        " ORDER BY window_start DESC LIMIT 1",
        (account, name),
    ).fetchone()
    return None if row is None else int(row[0])


def _open(connection: Connection, key: BookingKey, limit: int) -> None:
    """Make a row of the ledger, where there is none yet."""
    connection.execute(
        "INSERT INTO ledger (account, kind, window_start, quota) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*key, limit),
    )


def hold_units(
    connection: Connection, account: str, charges: Sequence[Charge], attempts: int, limits: Mapping[str, int]
) -> None:
    """
    Hold the units of so many attempts, which :func:`budget` has said to be there.

    Args:
        connection: the writing connection, inside the transaction in which the budgets were read.
        account: that spends them.
        charges: what each of the attempts takes.
        attempts: how many.
        limits: of each allowance, for a row that is made now.
    """
    for charge in charges if attempts else ():
        values = (charge.units * attempts, account, charge.allowance, charge.window)
        change = f"UPDATE ledger SET held = held + ?, moves = moves + 1 WHERE {_KEY}"
        if not connection.execute(change, values).rowcount:
            _open(connection, (account, charge.allowance, charge.window), limits[charge.allowance])
            connection.execute(change, values)


class ShareBooking(NamedTuple):
    """What a backfill takes of one allowance of one account."""

    account: str
    allowance: Allowance
    units: int
    most: int
    """What all backfills together may have booked in the window."""


def book_share(connection: Connection, bookings: Iterable[ShareBooking], *, now: float) -> bool:
    """
    Book units of the backfills' share where all of them are left; return whether they were.

    Args:
        connection: the writing connection, inside a transaction: other backfills book, too.
        bookings: one for each account and allowance.
        now: in the window that they are booked in, in seconds since the epoch.
    """
    # In one order: two backfills lock the same rows.
    ordered = sorted(bookings, key=lambda one: (one.account, one.allowance.name))
    for one in ordered:
        key = (one.account, one.allowance.name, one.allowance.window.start(now))
        _open(connection, key, 0)
        connection.execute(f"SELECT 1 FROM ledger WHERE {_KEY} /*! FOR UPDATE */", key).fetchone()
        booked = sum(row.share_booked for row in _rows(connection, one.account, one.allowance, now))
        if booked + one.units > one.most:
            return False
    for one in ordered:
        connection.execute(
            f"UPDATE ledger SET share_booked = share_booked + ? WHERE {_KEY}",
            (one.units, one.account, one.allowance.name, one.allowance.window.start(now)),
        )
    return True


def book_spent(connection: Connection, units: Mapping[BookingKey, int]) -> None:
    """Move held units to spent: the CDN accepted them."""
    _book(connection, units, "held = held - :n, spent = spent + :n")


def book_presumed(connection: Connection, units: Mapping[BookingKey, int]) -> None:
    """Move held units to spent although it is not known whether the CDN accepted them."""
    _book(connection, units, "held = held - :n, spent = spent + :n, presumed = presumed + :n")


def book_others(connection: Connection, units: Mapping[BookingKey, int]) -> None:
    """Count units as spent by others: the CDN charged them, and no attempt has them."""
    _book(connection, units, "others = others + :n")


def book_refund(connection: Connection, units: Mapping[BookingKey, int]) -> None:
    """Give held units back: the CDN surely did not accept them."""
    _book(connection, units, "held = held - :n")


def _book(connection: Connection, units: Mapping[BookingKey, int], change: str) -> None:
    connection.executemany(
        f"UPDATE ledger SET {change}, moves = moves + 1"
        " WHERE account = :account AND kind = :allowance AND window_start = :window",
        [
            {"n": n, "account": account, "allowance": allowance, "window": window}
            for (account, allowance, window), n in sorted(units.items())
        ],
    )


def presume_rest_spent(
    connection: Connection, account: str, allowances: Iterable[Allowance], *, now: float
) -> dict[str, int]:
    """Count all that is left of these allowances as spent by others; return how much that is, by name."""
    left = {}
    for one in allowances:
        left[one.name] = budget(connection, account, one, now=now).left
        key = (account, one.name, one.window.start(now))
        _open(connection, key, one.limit)
        book_others(connection, {key: left[one.name]})
    return left


def correct(
    connection: Connection,
    account: str,
    allowances: Iterable[Allowance],
    readings: Mapping[str, QuotaReading],
    *,
    now: float,
) -> None:
    """
    Take a live reading by allowance, made while nothing of this account was being sent.

    More that is spent is believed at once; less when two readings agree and nothing moved between them.
    """
    unsettled = _unsettled(connection, account)
    for one in allowances:
        if (reading := readings.get(one.name)) is not None:
            _open(connection, (account, one.name, one.window.start(now)), reading.limit)
            _Correction(connection, account, one, now).apply(reading, unsettled)


class _Correction:
    """The correction of one allowance."""

    def __init__(self, connection: Connection, account: str, allowance: Allowance, now: float) -> None:
        self._connection = connection
        self._account = account
        self._name = allowance.name
        self._now = now
        self._rows = _rows(connection, account, allowance, now)
        self._present = self._rows[-1]
        oldest = allowance.window.first(now)
        self._whole = [row for row in self._rows if row.window > oldest] or self._rows
        """Of a rolling window without the oldest row: the CDN may count only a part of it, or nothing."""

    def apply(self, reading: QuotaReading, unsettled: Mapping[tuple[str, int], int]) -> None:
        """Book what others spent, or did not, and keep the reading."""
        present, counted = self._present, reading.limit - reading.remaining
        waiting = sum(unsettled.get((self._name, row.window), 0) for row in self._rows)
        moves = sum(row.moves for row in self._rows)
        agree = (present.read_remaining, present.read_moves, present.limit) == (reading.remaining, moves, reading.limit)
        if (more := counted - waiting - _spent(self._rows)) > 0:
            self._change_others(present, more)
        elif agree and not waiting and (less := _spent(self._whole) - counted) > 0:
            self._give_up(less)
        self._connection.execute(
            f"UPDATE ledger SET quota = ?, read_remaining = ?, read_moves = ?, read_at = ? WHERE {_KEY}",
            (max(0, reading.limit), reading.remaining, moves, self._now, self._account, self._name, present.window),
        )

    def _give_up(self, units: int) -> None:
        """Count so many units less: first those of others that came last, never what the CDN accepted from here."""
        for row in reversed(self._whole):
            less = min(units, row.others + row.presumed)
            if less > 0:
                self._change_others(row, -less)
                units -= less

    def _change_others(self, row: _Row, units: int) -> None:
        self._connection.execute(
            f"UPDATE ledger SET others = others + ? WHERE {_KEY}", (units, self._account, self._name, row.window)
        )


def _spent(rows: Iterable[_Row]) -> int:
    return sum(row.spent + row.others for row in rows)


_HOLDING = (
    "SELECT g.account, g.charges, g.kind, g.window_start, count(*) FROM attempt_item AS i"
    " JOIN attempt_group AS g ON g.id = i.group_id WHERE g.held = 1{} GROUP BY g.id"
)


def _unsettled(connection: Connection, account: str) -> Counter[tuple[str, int]]:
    """Return the units of requests of which nobody knows whether the CDN counts them yet, by allowance and window."""
    condition = " AND g.active = 1 AND g.state IN ('sending', 'unknown') AND g.account = ?"
    found: Counter[tuple[str, int]] = Counter()
    for (_, allowance, window), units in _held(connection, condition, (account,)).items():
        found[allowance, window] += units
    return found


def _held(connection: Connection, condition: str = "", values: Sequence[Any] = ()) -> Counter[BookingKey]:
    """Return the units that attempts hold."""
    found: Counter[BookingKey] = Counter()
    for account, text, kind, window, attempts in connection.execute(_HOLDING.format(condition), values):
        for charge in decoded(text, kind, window):
            found[account, charge.allowance, charge.window] += charge.units * attempts
    return found


def mismatches(connection: Connection) -> list[str]:
    """Return the rows of the ledger that hold what no attempt holds, or less than what attempts hold."""
    rows = connection.execute("SELECT account, kind, window_start, held FROM ledger")
    booked = {(account, name, window): held for account, name, window, held in rows}
    held = _held(connection)
    return [f"{key[0]} {key[1]}" for key in sorted(booked.keys() | held.keys()) if booked.get(key, 0) != held[key]]
