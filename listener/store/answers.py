"""
What the answer to one request says of each of its attempts, booked in one transaction.

So a crash leaves the whole request with an unknown outcome, or none of it: one that is sent again with its token has
the same URLs as before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from listener.store import attempts
from listener.store.connection import Connection
from listener.store.index import bounded_text

__all__ = ["Answer", "Unfinished", "book"]


class Unfinished(NamedTuple):
    """Attempts that are to be made again, and when (seconds since the epoch)."""

    ids: Sequence[int]
    retry_at: float
    reason: str


class Answer(NamedTuple):
    """What became of each attempt of a request."""

    accepted: Mapping[int, str]
    """Attempt to the ids of its tasks, separated by commas."""
    next_look_at: float
    """When these are looked at, in seconds since the epoch."""
    refused: Mapping[str, Sequence[int]]
    """By reason: attempts at URLs that will never be accepted."""
    unfinished: Sequence[Unfinished] = ()


def book(connection: Connection, answer: Answer, *, now: float) -> None:
    """Book all of it."""
    for reason, ids in answer.refused.items():
        attempts.park(connection, ids, now=now, error=bounded_text(reason))
    for ids, retry_at, reason in answer.unfinished:
        attempts.fail(connection, ids, now=now, retry_at=retry_at, error=bounded_text(reason))
    if answer.accepted:
        attempts.accept(connection, answer.accepted, now=now, next_look_at=answer.next_look_at)
