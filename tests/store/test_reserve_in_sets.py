"""Requests reserved together become what a plain loop makes of them, one after the other; so do accepted ones."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from listener.allowances import for_each_kind
from listener.refresh import SCOPE_OF_KIND, AttemptState, NeedState, RefreshKind, Scope
from listener.store import attempts
from listener.store.connection import Connection
from listener.store.ledger import budget
from listener.store.names import Names
from listener.store.reserve import hold
from listener.store.transitions import AttemptRequest
from tests.store.databases import Database
from tests.store.steps import ALLOWANCE, BASE, DAY, add_attempt

NOW = 1_800_000_000.0
NAMES = [f"{n}" for n in range(90)]
History = dict[str, list[tuple[str, int, float | None]]]
"""State, tries and time of what was sent for each name, the oldest first."""


@pytest.fixture
def file(database: Database) -> Connection:
    """A new store's writing connection."""
    connection = database.connect()
    connection.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    connection.execute("INSERT INTO directory (id, target, url) VALUES (1, 1, ?)", (BASE,))
    return connection


def given(file: Connection, chance: random.Random) -> tuple[dict[tuple[str, Scope], NeedState], History]:
    """Fill the file with needs, and with what was sent for their URLs before; return both."""
    states = [NeedState.READY, NeedState.READY, NeedState.WAITING, NeedState.ATTEMPTED, NeedState.PARKED]
    scopes = [Scope.EXACT, Scope.ALL_PARAMS, Scope.PREFETCH]
    needs = {(name, scope): chance.choice(states) for name in NAMES for scope in scopes if chance.random() < 0.5}
    file.executemany(
        "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, due_at, state, open)"
        " VALUES (1, ?, ?, 1, 1, 1, ?, ?, 0)",
        [(name, scope, 5.0 if state is NeedState.WAITING else None, state) for (name, scope), state in needs.items()],
    )
    history: History = {}
    for _ in range(chance.choice([0, 10, 300])):
        name = chance.choice(NAMES)
        sent = (chance.choice(["failed", "complete"]), chance.randint(1, 4), chance.choice([None, NOW + 9, NOW - 50]))
        history.setdefault(name, []).append(sent)
        state, tries, at = sent
        day = DAY.start(NOW) - chance.choice([0, 86_400])
        add_attempt(file, BASE + name, state=state, created_at=float(day), active=0, tries=tries, sent_at=at)
    return needs, history


@pytest.mark.parametrize("seed", range(100))
def test_requests_reserved_together_are_those_reserved_one_by_one(file: Connection, seed: int) -> None:
    """Only what is due is reserved, in the order given, as far as the quota reaches; what came too soon waits."""
    chance = random.Random(seed)
    needs, history = given(file, chance)
    wanted = [
        AttemptRequest(
            "cdn",
            chance.choice([RefreshKind.FILE, RefreshKind.FILE, RefreshKind.IGNORE_PARAMS, RefreshKind.PREFETCH]),
            BASE + chance.choice(NAMES),
            chance.random() < 0.5,
            f"reason {n}",
            float(n),
            min_interval_seconds=chance.choice([0.0, 0.0, 20.0, 100.0]),
            most_interval_seconds=chance.choice([0.0, 60.0]),
        )
        for n in range(chance.choice([1, 9, 200]))
    ]
    quota = {kind: chance.choice([3, 1_000]) for kind in RefreshKind}
    query = "SELECT url, sum(CASE WHEN created_at >= ? THEN 1 ELSE 0 END) FROM attempt GROUP BY url"
    today = Counter({url.removeprefix(BASE): count for url, count in file.execute(query, (DAY.start(NOW),))})
    expected: list[tuple[RefreshKind, str, bool, str, int]] = []
    waits: dict[tuple[str, Scope], float] = {}
    for kind in dict.fromkeys(one.kind for one in wanted):
        left, before = quota[kind], len(expected)
        for url in dict.fromkeys(one.url for one in wanted if one.kind is kind):
            one = [each for each in wanted if each.kind is kind and each.url == url][-1]
            name, scope = url.removeprefix(BASE), SCOPE_OF_KIND[kind]
            if not left or needs.get((name, scope)) is not NeedState.READY:
                continue
            if kind is RefreshKind.PREFETCH and ((name, Scope.EXACT) in needs or (name, Scope.ALL_PARAMS) in needs):
                continue
            sent = history.get(name, [])
            last = max((at for *_, at in sent if at is not None), default=None)
            doubled = one.min_interval_seconds * 2 ** max(0, today[name] - 1)
            interval = max(one.min_interval_seconds, min(doubled, one.most_interval_seconds))
            if one.min_interval_seconds and last is not None and last <= NOW < last + interval:
                waits[name, scope] = last + interval
                continue
            tries = sent[-1][1] + 1 if sent and sent[-1][0] == "failed" else 1
            expected.append((kind, name, one.force, one.reason, tries))
            left -= 1
        for _, name, *_, tries in expected[before:]:
            history.setdefault(name, []).append(("held", tries, None))
            today[name] += 1
    earlier = [number for (number,) in file.execute("SELECT id FROM attempt")]
    made = hold(file, Names(), wanted, account="main", now=NOW, allowances=for_each_kind(quota, DAY))
    found = [(one.kind, one.url.removeprefix(BASE), one.force, one.reason, one.tries) for one in made]
    assert found == expected
    ids = [one.id for one in made]
    assert ids == sorted(set(ids))
    assert not ids or min(ids) > max(earlier, default=0)
    assert attempts.attempts_in(file, [AttemptState.HELD]) == made
    held = Counter(one.kind for one in made)
    assert {kind: budget(file, "main", ALLOWANCE[kind], now=NOW).held for kind in RefreshKind} == {
        kind: held[kind] for kind in RefreshKind
    }
    attempt_of = {(one.url.removeprefix(BASE), SCOPE_OF_KIND[one.kind]): one.id for one in made}
    for (name, scope), state in needs.items():
        row = file.execute("SELECT state, attempt, due_at FROM need WHERE name = ? AND scope = ?", (name, scope))
        due_at = 5.0 if state is NeedState.WAITING else None
        if (name, scope) in attempt_of:
            assert row.fetchone() == (NeedState.ATTEMPTED, attempt_of[name, scope], None)
        elif (name, scope) in waits:
            assert row.fetchone() == (NeedState.WAITING, None, waits[name, scope])
        else:
            assert row.fetchone() == (state, None, due_at)
    ready = file.execute("SELECT ready FROM directory").fetchone()[0]
    assert ready == file.execute("SELECT count(*) FROM need WHERE state = 1").fetchone()[0]


@pytest.mark.parametrize("seed", range(40))
def test_each_unit_is_booked_once_however_often_it_is_accepted(file: Connection, seed: int) -> None:
    """Answers may come for attempts of several tasks and days, and for such whose units were booked before."""
    chance = random.Random(seed)
    days = [DAY.start(NOW), DAY.start(NOW) - 86_400]
    held = {n: (chance.choice(days), chance.random() < 0.7) for n in range(1, 101)}
    for n, (day, is_held) in held.items():
        add_attempt(file, f"{BASE}{n}", id=n, state="sending", window_start=day, held=is_held)
    units = Counter(day for day, is_held in held.values() if is_held)
    file.executemany(
        "INSERT INTO ledger (account, kind, window_start, quota, held) VALUES ('main', 'file', ?, 1000, ?)",
        [(day, units[day]) for day in days],
    )
    tasks = {n: f"task-{n % 3}" for n in held if chance.random() < 0.8}
    for _ in range(2):
        attempts.accept(file, tasks, now=NOW, next_look_at=NOW + 60)
    spent = Counter(held[n][0] for n in tasks if held[n][1])
    for day in days:
        row = file.execute("SELECT held, spent FROM ledger WHERE window_start = ?", (day,)).fetchone()
        assert row == (units[day] - spent[day], spent[day])
    rows = file.execute("SELECT id, state, task_id, accepted_at, next_look_at, held FROM attempt").fetchall()
    for number, *row in rows:
        if number in tasks:
            assert row == ["accepted", tasks[number], NOW, NOW + 60, 0]
        else:
            assert row == ["sending", None, None, None, held[number][1]]
