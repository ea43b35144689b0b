"""What attempts settle together is what the rule of coverage says of each need by itself."""

from __future__ import annotations

import random

import pytest

from listener.refresh import COVERAGE, Attempt, Need, NeedState, RefreshKind, Scope, covers, strip_query
from listener.store.transitions import complete
from tests.store.databases import Database
from tests.store.steps import BASE, add_attempt

NAMES = ["a", "a?w=1", "a?w=2", "a@", "b", "b?", "c", ""]
PLACES = {1: BASE, 2: BASE + "d/"}
ENDED = (NeedState.ATTEMPTED, NeedState.UNCONFIRMED)


@pytest.mark.parametrize("seed", range(100))
def test_needs_are_settled_by_whatever_covers_them(database: Database, seed: int) -> None:
    """What no attempt covers is due again if one of them marked it, and stale since its later change."""
    chance = random.Random(seed)
    file = database.connect()
    file.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    file.executemany("INSERT INTO directory (id, target, url) VALUES (?, 1, ?)", PLACES.items())
    kinds = [RefreshKind.FILE, RefreshKind.IGNORE_PARAMS, RefreshKind.PREFETCH]
    made = [
        Attempt(
            number,
            "cdn",
            chance.choice(kinds),
            chance.choice([*PLACES.values(), BASE + "gone/"]) + chance.choice(NAMES),
            chance.random() < 0.5,
            chance.randint(1, 9),
        )
        for number in range(1, chance.choice([2, 9, 40]))
    ]
    for one in made:
        about = {"kind": one.kind, "force": one.force, "watermark": one.watermark, "state": "accepted"}
        add_attempt(file, one.url, id=one.id, **about)
    before: dict[tuple[int, str, int], tuple[object, ...]] = {}
    expected: dict[tuple[int, str, int], tuple[object, ...]] = {}
    for directory, place in PLACES.items():
        for name in NAMES:
            for scope in Scope:
                state = chance.choice([*NeedState])
                mark = chance.randint(1, len(made) + 1) if state in ENDED else None
                later = chance.choice([None, 500.0])
                need = Need(
                    "cdn",
                    place + name,
                    scope,
                    chance.randint(1, 12),
                    chance.choice([100.0, 900.0]),
                    chance.random() < 0.2,
                    chance.random() < 0.3,
                )
                row = (need.sequence, need.stale_since, later, int(state), int(need.open), int(need.needs_force), mark)
                before[directory, name, int(scope)] = row
                if any(covers(one, need) for one in made):
                    continue
                newer = any(scope in COVERAGE[one.kind].scopes and reaches(one, need) for one in made)
                if newer and later is not None:
                    row = (row[0], max(need.stale_since, later), None, *row[3:])
                if mark is not None and mark <= len(made):
                    row = (*row[:3], int(NeedState.READY), *row[4:6], None)
                expected[directory, name, int(scope)] = row
    file.executemany(
        "INSERT INTO need (directory, name, scope, window_first, sequence, stale_since, later_since, state, open,"
        " needs_force, attempt) VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?)",
        [(*key, *row) for key, row in before.items()],
    )
    complete(file, made, now=5.0)
    columns = "sequence, stale_since, later_since, state, open, needs_force, attempt"
    rows = file.execute(f"SELECT directory, name, scope, {columns} FROM need").fetchall()
    ended = file.execute("SELECT count(*) FROM attempt WHERE state = 'complete' AND active = 0 AND finished_at = 5.0")
    assert ended.fetchone() == (len(made),)
    assert {row[:3]: row[3:] for row in rows} == expected


def reaches(attempt: Attempt, need: Need) -> bool:
    """Return whether a need has a newer change than an attempt at its URL."""
    plain = attempt.kind is RefreshKind.IGNORE_PARAMS
    same = strip_query(attempt.url) == strip_query(need.url) if plain else attempt.url == need.url
    return same and need.sequence > attempt.watermark
