"""Batches: what is recorded together, in one transaction under one sequence, and what came of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from listener.change import Change, ChangeKind
from listener.refresh import Priority, Scope

__all__ = ["Batch", "NeedInput", "Recorded", "Route", "joined", "next_sequence", "slices"]


class NeedInput(NamedTuple):
    """What the router makes of a change: one URL of one target."""

    target: str
    url: str
    scope: Scope = Scope.EXACT
    delay_seconds: float = 0.0
    """How much later than us the origin has the change."""
    ignore_rewrites: bool = False
    """Whether the same content once more makes no need, by the word of whoever answers for changed headers."""


Route = Callable[[Change], Sequence[NeedInput]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes to be recorded together."""

    changes: Sequence[Change]
    scan_sequence: int | None = None
    seed: bool = False
    priority: Priority = Priority.LIVE
    message_ids: Sequence[str] = ()
    """Ids of the messages of which these changes are the last to be recorded."""


@dataclass(slots=True)
class Recorded:
    """What recording a batch came to."""

    sequence: int
    needs: int = 0
    outdated: int = 0
    """Findings of a scan that the index knew better."""
    suppressed: int = 0
    """Changes without need: received before, or the same content once more where that is to be ignored."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Keys that can never be a URL, each with the reason."""


def slices(batch: Batch, most: int, *, subtree: int) -> Iterator[Batch]:
    """
    Cut a batch into such of at most so many rows; a subtree may become ``subtree`` of them.

    An empty one stays; one that is cut loses its message ids.
    """
    start = rows = 0
    for at, change in enumerate(batch.changes):
        weight = subtree if change.kind is ChangeKind.SUBTREE_DELETED else 1
        if rows and rows + weight > most:
            yield replace(batch, changes=batch.changes[start:at], message_ids=())
            start, rows = at, 0
        rows += weight
    yield replace(batch, changes=batch.changes[start:], message_ids=()) if start else batch


def joined(parts: Sequence[Recorded]) -> Recorded:
    """Return what the slices of one batch came to."""
    whole = parts[-1]
    for part in parts[:-1]:
        whole.needs += part.needs
        whole.outdated += part.outdated
        whole.suppressed += part.suppressed
    whole.rejected = [one for part in parts for one in part.rejected]
    return whole


def next_sequence(connection: sqlite3.Connection) -> int:
    """Take the next number of the store-wide sequence."""
    return int(connection.execute("UPDATE meta SET sequence = sequence + 1 RETURNING sequence").fetchone()[0])
