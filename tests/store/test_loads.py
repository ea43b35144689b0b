"""What planning reads of directories is what their needs come to, each taken by itself."""

from __future__ import annotations

import random

import pytest

from listener.refresh import Attempt, Need, NeedState, Priority, RefreshKind, Scope, covers
from listener.store.connection import Connection
from listener.store.needs import Load, Marks, Snapshot
from tests.store.databases import Database
from tests.store.steps import BASE, add_attempt

PLACES = {number: BASE + place for number, place in enumerate(["", "a/", "a/b/", "a/c/", "d/", "e/"], 1)}


def fill(file: Connection, chance: random.Random) -> tuple[list[Attempt], dict[int, list[tuple[Need, int]]]]:
    """Make needs, and directory attempts above some of them; return the attempts and what is ready, with priorities."""
    file.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    file.executemany("INSERT INTO directory (id, target, url) VALUES (?, 1, ?)", PLACES.items())
    made = [
        Attempt(n, "cdn", RefreshKind.DIRECTORY, BASE + chance.choice(["a/", "a/b/", "d/"]), chance.random() < 0.4, n)
        for n in range(1, chance.choice([1, 2, 4, 6]))
    ]
    for one in made:
        about = {"kind": "directory", "force": one.force, "watermark": one.watermark, "state": "accepted"}
        add_attempt(file, one.url, id=one.id, **about)
    newest, priorities = chance.choice([4, 12]), chance.choice([[0], [0], [1], [0, 1], [0, 1, 2]])
    ready: dict[int, list[tuple[Need, int]]] = {number: [] for number in PLACES}
    for number, place in PLACES.items():
        for name in range(chance.choice([0, 1, 6])):
            need = Need(
                "cdn",
                f"{place}{name}",
                chance.choice([Scope.EXACT, Scope.EXACT, *Scope]),
                chance.randint(1, newest),
                float(chance.randint(1, 99)),
                False,
                chance.random() < 0.2,
            )
            state, priority = chance.choice([NeedState.READY] * 4 + [NeedState.WAITING]), chance.choice(priorities)
            file.execute(
                "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open,"
                " needs_force, priority) VALUES (?, ?, ?, ?, ?, 1, ?, 0, ?, ?)",
                (number, f"{name}", need.scope, need.sequence, need.stale_since, state, need.needs_force, priority),
            )
            if state is NeedState.READY:
                ready[number].append((need, priority))
    return made, ready


def expected(made: list[Attempt], ready: dict[int, list[tuple[Need, int]]], *, apart: bool) -> list[Load]:
    """Return the loads of these needs."""
    found = []
    for number, needs in ready.items():
        above = [one for one in made if PLACES[number].startswith(one.url)]
        marks = Marks(
            max((one.watermark for one in above), default=0),
            max((one.watermark for one in above if one.force), default=0),
        )
        due = [(need, priority) for need, priority in needs if not any(covers(one, need) for one in made)]
        backfills = {priority for _, priority in needs if priority > Priority.LIVE}
        is_mixed = apart and len({priority for _, priority in needs}) > 1 and bool(backfills)
        for wanted in sorted({priority for _, priority in due}) if is_mixed else [None] * bool(due):
            part = [need for need, priority in due if wanted in (None, priority)]
            forced = part if is_mixed else [need for need, _ in needs]
            scopes = [need.scope for need in part]
            lowest = wanted if wanted is not None else min(backfills, default=0)
            found.append(
                Load(
                    number,
                    "cdn",
                    PLACES[number],
                    scopes.count(Scope.EXACT),
                    scopes.count(Scope.ALL_PARAMS),
                    scopes.count(Scope.SUBTREE),
                    scopes.count(Scope.PREFETCH),
                    min(need.stale_since for need in part),
                    marks,
                    sum(need.needs_force and need.scope is Scope.EXACT for need in forced),
                    sum(need.needs_force and need.scope is Scope.ALL_PARAMS for need in forced),
                    Priority(lowest) if apart else None,
                )
            )
    return found


@pytest.mark.parametrize("seed", range(150))
def test_loads_are_what_no_directory_attempt_covers(database: Database, seed: int) -> None:
    """Whether a directory was counted by its needs, by its own figures, or not at all."""
    file = database.connect()
    made, ready = fill(file, random.Random(seed))
    for apart in (True, False):
        assert sorted(Snapshot(file).loads(apart=apart)) == sorted(expected(made, ready, apart=apart))
