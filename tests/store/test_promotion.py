"""Needs become due in slices, the earliest first, however many are due at one moment."""

from __future__ import annotations

import random

import pytest

from listener.refresh import NeedState, Priority, Scope
from listener.store.transitions import Promoted, promote_due
from tests.store.databases import Database, disagreements
from tests.store.steps import BASE

NOW = 50.0


@pytest.mark.parametrize("seed", range(60))
def test_what_is_due_becomes_ready_in_slices(database: Database, seed: int) -> None:
    """A slice holds no more than its limit and nothing later than what it leaves; one that was open is new."""
    chance = random.Random(seed)
    limit, moments = chance.choice([1, 7, 30]), chance.choice([[10.0], [10.0, 20.0, 50.0], range(1, 60)])
    file = database.connect()
    file.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    file.executemany("INSERT INTO directory (id, target, url) VALUES (?, 1, ?)", [(1, BASE), (2, BASE + "d/")])
    due = {
        (directory, str(name), int(scope)): (float(chance.choice(moments)), chance.choice([0, 0, 1, 2]))
        for directory in (1, 2)
        for name in range(chance.choice([0, 3, 30]))
        for scope in Scope
    }
    due |= {(1, "later", int(scope)): (NOW + 1, 0) for scope in Scope}
    file.executemany(
        "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, due_at, state, open,"
        " priority) VALUES (?, ?, ?, 0, 1, 1, ?, 0, ?, ?)",
        [(*key, at, is_open, chance.choice([*Priority])) for key, (at, is_open) in due.items()],
    )
    total: Promoted = Promoted()
    left = dict(due)
    while promoted := promote_due(file, now=NOW, limit=limit):
        total += promoted
        waiting = {row[:3] for row in file.execute("SELECT directory, name, scope FROM need WHERE state = 0")}
        taken = {key: left.pop(key) for key in set(left) - waiting}
        assert len(taken) == promoted.total() <= limit
        assert max(at for at, _ in taken.values()) <= min(at for at, _ in left.values())
    rows = file.execute("SELECT directory, name, scope, state, due_at, open, sequence FROM need").fetchall()
    for *key, state, due_at, is_open, sequence in rows:
        at, was_open = due[tuple(key)]
        if at > NOW:
            assert (state, due_at, is_open, sequence) == (NeedState.WAITING, at, was_open, 0)
        else:
            assert (state, due_at, is_open) == (NeedState.READY, None, 0)
            assert (sequence > 0) == bool(was_open)
    counted = file.execute("SELECT scope, priority, count(*) FROM need WHERE state = 1 GROUP BY 1, 2").fetchall()
    assert total == {("cdn", Scope(scope), Priority(priority)): count for scope, priority, count in counted}
    assert disagreements(database) == []
