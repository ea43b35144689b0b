"""
Groups of attempts: what happens to many attempts is written once, in a row of ``attempt_group`` that they share.

Attempts that are reserved together, for one host, begin as one group. Whatever happens to some attempts is written to
the groups that consist of exactly these (:func:`own_groups`): a group that has others, too, is split before. So a
request that is accepted costs a row or two, and a URL that the CDN refuses by itself goes on by itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from listener.store.bulk import Bulk
from listener.store.charges import BookingKey, Charge, decoded
from listener.store.connection import Connection

__all__ = [
    "NEXT_ATTEMPT",
    "NEXT_GROUP",
    "Group",
    "members",
    "next_attempt",
    "next_group",
    "own_groups",
    "units_of",
    "update_groups",
]


class Group(NamedTuple):
    """Attempts that share what happened to them."""

    id: int
    attempts: int
    """How many."""
    held: bool
    """Whether their units stand in the ledger's ``held``."""
    account: str
    charges: tuple[Charge, ...]
    """What each of them takes; nothing where its kind is unlimited."""


_COPIED = (
    "target, kind, force, account, window_start, watermark, created_at, state, held, active, task_id, sent_at,"
    " accepted_at, finished_at, next_look_at, looks, error, token, charges"
)
_COPY = Bulk(
    f"INSERT INTO attempt_group (id, {_COPIED}) SELECT column2, {_COPIED} FROM ({{}}) AS of"
    " JOIN attempt_group ON attempt_group.id = column1",
    "({0}, {1})",
    columns=2,
)
_MOVE = Bulk(
    "UPDATE attempt_item SET group_id = column2 FROM ({}) AS of"
    " WHERE group_id = column1 AND id IN (SELECT value FROM json_each(?1))",
    "({0}, {1})",
    columns=2,
    constants=1,
)


def own_groups(connection: Connection, ids: Sequence[int], condition: str = "TRUE") -> list[Group]:
    """
    Return groups that consist of exactly these attempts, as far as they meet a condition; splits those with others.

    Args:
        connection: the writing connection, inside a transaction.
        ids: of the attempts; those that are not there are left out.
        condition: in SQL, on the columns of ``attempt_group``.
    """
    if not ids:
        return []
    these = json.dumps(list(ids))
    rows = connection.execute(
        "SELECT g.id, count(*), (SELECT count(*) FROM attempt_item AS every WHERE every.group_id = g.id),"
        " g.held, g.account, g.charges, g.kind, g.window_start"
        " FROM attempt_item AS i JOIN attempt_group AS g ON g.id = i.group_id"
        f" WHERE i.id IN (SELECT value FROM json_each(?)) AND {condition} GROUP BY g.id",
        (these,),
    ).fetchall()
    split = [number for number, own, every, *_ in rows if own < every]
    new_ids = _split(connection, split, these) if split else {}
    return [
        Group(new_ids.get(number, number), own, bool(held), account, decoded(charges, kind, window))
        for number, own, _, held, account, charges, kind, window in rows
    ]


def _split(connection: Connection, groups: Sequence[int], these: str) -> dict[int, int]:
    """Move these attempts of each group to a new one with the same state; return the new one of each."""
    first = next_group(connection)
    pairs = [(group, new) for new, group in enumerate(groups, first)]
    _COPY.write(connection, pairs)
    _MOVE.write(connection, pairs, (these,))
    return dict(pairs)


NEXT_GROUP: Final = "SELECT coalesce(max(id), 0) + 1 FROM attempt_group"
NEXT_ATTEMPT: Final = "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'attempt_item'"


def next_group(connection: Connection) -> int:
    """Return the first of the ids for groups that are made in this transaction."""
    return int(connection.execute(NEXT_GROUP).fetchone()[0])


def next_attempt(connection: Connection) -> int:
    """Return the first of the ids for attempts that are made in this transaction; none is ever given out twice."""
    return int(connection.execute(NEXT_ATTEMPT).fetchone()[0])


def update_groups(connection: Connection, groups: Sequence[Group], change: str, values: Sequence[object] = ()) -> None:
    """Change columns of these groups: ``change`` as in SQL after ``SET``, its marks bound to ``values``."""
    these = json.dumps([group.id for group in groups])
    connection.execute(
        f"UPDATE attempt_group SET {change} WHERE id IN (SELECT value FROM json_each(?))", (*values, these)
    )


def units_of(groups: Sequence[Group]) -> Counter[BookingKey]:
    """Return the units that stand in the ledger's ``held`` for these groups."""
    units: Counter[BookingKey] = Counter()
    for group in groups:
        for charge in group.charges if group.held else ():
            units[group.account, charge.allowance, charge.window] += charge.units * group.attempts
    return units


def members(connection: Connection, groups: Sequence[Group]) -> list[int]:
    """Return the ids of the attempts of these groups, in their order."""
    these = json.dumps([group.id for group in groups])
    rows = connection.execute(
        "SELECT id FROM attempt_item WHERE group_id IN (SELECT value FROM json_each(?)) ORDER BY id", (these,)
    )
    return [row[0] for row in rows]
