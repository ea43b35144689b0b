"""
What each attempt of a group holds or has spent of which allowance: written with the group, booked when its state says.

A group has it as a text of JSON, since groups are split and their charges with them: a list of
``[allowance, window, units]``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from listener.allowances import Allowance
from listener.refresh import RefreshKind

__all__ = ["BookingKey", "Charge", "charges_of", "decoded", "encoded"]

BookingKey = tuple[str, str, int]
"""Account, allowance, window: the key of a row of the ledger."""


class Charge(NamedTuple):
    """What one attempt takes of one allowance."""

    allowance: str
    window: int
    """The start of the row of the ledger that it is booked in, in seconds since the epoch."""
    units: int


def charges_of(allowances: Iterable[Allowance], kind: RefreshKind, now: float) -> tuple[Charge, ...]:
    """Return what an attempt of this kind takes now; nothing where the kind is unlimited."""
    # In one order, so that two transactions lock the same rows of the ledger one after the other.
    return tuple(
        sorted(Charge(one.name, one.window.start(now), one.costs[kind]) for one in allowances if kind in one.costs)
    )


def encoded(charges: Sequence[Charge]) -> str:
    """Return charges as a group keeps them."""
    return json.dumps(charges, separators=(",", ":"))


@lru_cache(maxsize=4_096)
def decoded(text: str | None, kind: str, window: int) -> tuple[Charge, ...]:
    """
    Return the charges of a group.

    A group that a program of version 15 made has no such text: it takes a unit of the allowance that is called as its
    kind, in the window of its own column.
    """
    if text is None:
        return (Charge(kind, window, 1),)
    return tuple(Charge(*one) for one in json.loads(text))
