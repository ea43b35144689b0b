"""When work came, as far as what was sent shows it."""

from __future__ import annotations

from typing import NamedTuple

from listener.refresh import Priority
from listener.store.connection import Connection

__all__ = ["Moment", "moments"]


class Moment(NamedTuple):
    """What was first sent within one short span."""

    at: float
    """Seconds since the epoch."""
    needs: int


def moments(connection: Connection, account: str, *, since: float, span_seconds: float) -> list[Moment]:
    """
    Return how many needs an account's file and directory refreshes were first sent for, span by span, oldest first.

    What became due is not kept, and what was sent is the nearest to it: retries left out and backfills, which no
    hour brings again; directories by what they covered. A day whose needs waited counts where they were sent.
    """
    rows = connection.execute(
        "SELECT min(created_at), sum(CASE kind WHEN 'directory' THEN covered ELSE 1 END) FROM attempt"
        " WHERE account = ? AND kind IN ('file', 'directory') AND tries = 1"
        f" AND priority = {Priority.LIVE:d} AND created_at >= ?"
        " GROUP BY CAST(created_at / ? AS INTEGER) ORDER BY 1",
        (account, since, span_seconds),
    )
    return [Moment(at, needs) for at, needs in rows]
