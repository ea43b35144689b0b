"""Attempts that share the row of what happened to them are no different from attempts with a row each."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from listener.refresh import Attempt, AttemptState, RefreshKind
from listener.store import attempts, retention, transitions
from listener.store.groups import own_groups, update_groups
from listener.store.names import Names
from listener.store.reserve import hold
from listener.store.sqlite.database import prepare
from listener.store.sqlite.maintenance import check
from listener.store.transitions import AttemptRequest
from listener.urls import host_of
from tests.store.steps import ALLOWANCES, BASE

WINDOW = 864_000
COUNT = 40
Operation = Callable[[sqlite3.Connection, list[int], float], object]


def made(connection: sqlite3.Connection, ids: list[int]) -> list[Attempt]:
    """Return the attempts of these ids that are active."""
    found = attempts.attempts_in(connection, list(AttemptState))
    return [one for one in found if one.id in ids]


TOGETHER: list[Operation] = [
    lambda c, ids, now: transitions.mark_sending(
        c, ids, now=now, token=f"request {now}"
    ),  # each request has a time of its own
    lambda c, ids, now: transitions.set_looks_back(c, after=now, seconds=1.0),
]
OPERATIONS: list[Operation] = [
    *TOGETHER,
    lambda c, ids, _: attempts.back_to_held(c, ids),
    lambda c, ids, now: attempts.accept(c, {n: f"task-{n % 3}" for n in ids}, now=now, next_look_at=now + 9),
    lambda c, ids, now: attempts.accept(c, dict.fromkeys(ids, "t"), now=now, next_look_at=now + 9, inferred=True),
    lambda c, ids, now: attempts.mark_unknown(c, ids, next_look_at=now + 5, error="no answer"),
    lambda c, ids, _: attempts.refund(c, [n for n in ids if n < 9]),
    lambda c, ids, now: attempts.look_again(c, [(n, now + n % 2) for n in ids]),
    lambda c, ids, now: attempts.postpone(c, [(n, now + 3) for n in ids]),
    lambda c, ids, _: attempts.end_backoff(c, [one.id for one in made(c, ids) if one.state is AttemptState.FAILED]),
    lambda c, ids, now: attempts.presume_spent(c, [n for n in ids if n < 12], now=now, error="not known"),
    lambda c, ids, now: transitions.complete(c, made(c, [n for n in ids if n % 4 == 0]), now=now),
    lambda c, ids, now: retention.end_directory_attempts(c, ids, now=now),
    lambda c, ids, now: attempts.fail(c, ids, now=now, retry_at=now + 8, error="failed"),
    lambda c, ids, now: attempts.park(c, ids, now=now, error="refused"),
    lambda c, ids, now: attempts.unconfirm(c, ids, next_look_at=now + 7, error="never ended"),
]


def a_file(path: Path, group_of: Callable[[int], int]) -> sqlite3.Connection:
    """Make a file with reserved attempts, each in the group that is given."""
    file = prepare(path)
    file.execute("PRAGMA synchronous = OFF")
    file.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    file.execute("INSERT INTO directory (id, target, url) VALUES (1, 1, ?)", (BASE,))
    file.execute(
        "INSERT INTO ledger (account, kind, window_start, quota, held) VALUES ('main', 'file', ?, 1000, ?)",
        (WINDOW, COUNT),
    )
    for number in range(1, COUNT + 1):
        file.execute(
            "INSERT INTO attempt_group (id, target, kind, force, account, window_start, watermark, created_at, state,"
            " held) VALUES (?, 1, 'file', 0, 'main', ?, 5, 1, 'held', 1) ON CONFLICT DO NOTHING",
            (group_of(number), WINDOW),
        )
        file.execute(
            "INSERT INTO attempt_item (id, group_id, url) VALUES (?, ?, ?)",
            (number, group_of(number), f"{BASE}{number}"),
        )
        file.execute(
            "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open, attempt)"
            " VALUES (1, ?, 0, 5, 1, 1, 2, 0, ?)",
            (f"{number}", number),
        )
    return file


def contents(file: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    """Return all that depends on what happened to attempts."""
    columns = (
        "id, kind, url, force, watermark, state, account, window_start, held, task_id, created_at, sent_at,"
        " accepted_at, finished_at, next_look_at, looks, active, error"
    )
    return [
        file.execute(f"SELECT {columns} FROM attempt ORDER BY id").fetchall(),
        file.execute(
            "SELECT i.id, g.token FROM attempt_item i JOIN attempt_group g ON g.id = i.group_id ORDER BY i.id"
        ).fetchall(),
        file.execute("SELECT name, state, attempt, reason FROM need ORDER BY name").fetchall(),
        file.execute("SELECT held, spent, presumed FROM ledger").fetchall(),
        file.execute("SELECT ready FROM directory").fetchall(),
    ]


@pytest.fixture
def two_files(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """The same attempts: in two groups, and each in a group of its own."""
    with ExitStack() as opened:
        shared = opened.enter_context(closing(a_file(tmp_path / "shared.db", lambda n: n % 2 + 1)))
        single = opened.enter_context(closing(a_file(tmp_path / "single.db", lambda n: n)))
        yield shared, single


@pytest.mark.parametrize("seed", range(120))
def test_what_happens_to_some_attempts_happens_to_no_other(
    two_files: tuple[sqlite3.Connection, sqlite3.Connection], tmp_path: Path, seed: int
) -> None:
    """After operations on several at once, whole groups and parts, or on each in turn, the files hold the same."""
    chance = random.Random(seed)
    shared, single = two_files
    for step in range(12):
        operation = chance.choice(OPERATIONS)
        count = chance.choice([1, 2, COUNT // 2, COUNT])
        ids = chance.sample(range(1, COUNT + 3), count)  # some are not there
        if chance.random() < 0.3:
            ids = [number for number in range(1, COUNT + 1) if number % 2]  # a whole group, at first
        operation(shared, list(ids), 100.0 + step)
        for part in [ids] if operation in TOGETHER else [[number] for number in ids]:
            operation(single, list(part), 100.0 + step)
        assert contents(shared) == contents(single)
    assert check(tmp_path / "shared.db") == check(tmp_path / "single.db")
    empty = "SELECT count(*) FROM attempt_group WHERE id NOT IN (SELECT group_id FROM attempt_item)"
    assert shared.execute(empty).fetchone() == single.execute(empty).fetchone() == (0,)


def test_a_whole_group_is_not_split(two_files: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """What happens to all attempts of a request changes as few rows as there are groups."""
    shared, _ = two_files
    before = shared.total_changes
    ids = list(range(1, COUNT + 1))
    assert transitions.mark_sending(shared, ids, now=3.0) == ids
    attempts.accept(shared, dict.fromkeys(ids, "task"), now=4.0, next_look_at=9.0)
    assert shared.total_changes - before == 2 + 2 + 1  # the groups twice, and the ledger


def test_only_what_meets_the_condition_is_split_off(
    two_files: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """Attempts in another state stay where they are."""
    shared, _ = two_files
    update_groups(shared, own_groups(shared, [1, 3, 5]), "state = 'sending'")
    groups = own_groups(shared, [1, 2, 3], "state = 'sending'")
    assert [group.attempts for group in groups] == [2]
    assert shared.execute("SELECT count(*) FROM attempt_group").fetchone() == (4,)


def test_reserved_attempts_of_a_host_share_a_group(tmp_path: Path) -> None:
    """A batch is of one target, kind and force, and of few hosts: so it is a few whole groups."""
    hosts = [f"https://{number}.example.com/" for number in range(3)]
    with closing(prepare(tmp_path / "state.db")) as file:
        file.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
        file.executemany("INSERT INTO directory (id, target, url) VALUES (?, 1, ?)", enumerate(hosts))
        file.executemany(
            "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open)"
            " VALUES (?, ?, 0, 1, 1, 1, 1, 0)",
            [(number, f"{name}") for number in range(3) for name in range(20)],
        )
        wanted = [
            AttemptRequest("cdn", RefreshKind.FILE, f"{host}{name}", name % 2 == 0, "why", 1.0)
            for name in range(20)
            for host in hosts
        ]
        held = hold(file, Names(), wanted, account="main", now=9.0, allowances=ALLOWANCES)
        groups: dict[int, set[tuple[bool, str]]] = {}
        for group, force, url in file.execute("SELECT group_id, force, url FROM attempt"):
            groups.setdefault(group, set()).add((bool(force), host_of(url)))
        assert len(held) == 60
        assert sorted(groups.values(), key=str) == sorted(
            [{(force, host_of(host))} for force in (False, True) for host in hosts], key=str
        )


def test_a_request_has_one_token(two_files: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """However many groups its attempts are in, and whoever crashed since; attempts of two requests have none."""
    for file in two_files:
        transitions.mark_sending(file, [1, 2, 3], now=3.0, token="one")
        transitions.mark_sending(file, [4], now=4.0, token="two")
        attempts.recover(file, now=5.0)
        assert attempts.token_of(file, [1, 2, 3]) == "one"
        assert attempts.token_of(file, [3, 4]) == attempts.token_of(file, []) == ""
