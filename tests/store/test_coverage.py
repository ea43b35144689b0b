"""Coverage: the SQL of every reader against the pure rule, over every case of a small world."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from listener.refresh import COVERAGE, AttemptState, NeedState, RefreshKind, Scope
from listener.store import NeedInput
from listener.store.connection import Connection
from listener.store.needs import covered
from tests.store.coverage_model import assert_readers_agree
from tests.store.databases import Database
from tests.store.steps import BASE, Bench, add_attempt, content, file, folder, subtree

FLAGS = (0, 1)
STATES = (AttemptState.ACCEPTED, AttemptState.COMPLETE, AttemptState.FAILED)
ATTEMPTS = list(itertools.product((5, 10), FLAGS, STATES))
STEP = {"sqlite": 1, "postgresql": 7}
"""PostgreSQL runs the same statements, but takes far longer: each seventh pair, among which all values are."""
URL_STEP = 5
"""``status --url`` is asked of each fifth need, of other needs each time: no divisor of the number of attempts."""


@pytest.fixture(params=[7, 12])
def world(database: Database, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A store with needs of each kind in two directories, of sequences below, between and (or not) above watermarks."""
    connection = database.connect()
    connection.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    for directory, url in enumerate(("", "a/", "a/b/"), start=1):
        connection.execute("INSERT INTO directory (id, target, url) VALUES (?, 1, ?)", (directory, BASE + url))
    rows = itertools.product((1, 3), Scope, (3, 4, request.param), FLAGS, ((0, 0), (0, 1), (1, 0)), FLAGS)
    for number, (directory, scope, sequence, force, (state, open_), manual) in enumerate(rows):
        if directory == 3 and scope is Scope.PREFETCH:
            continue
        due = 1.0 if state == NeedState.WAITING else None
        connection.execute(
            "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, due_at, state, open,"
            " needs_force, asked) VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
            (directory, str(number), scope, sequence, 100.0 - number / 10, due, state, open_, force, manual),
        )
    connection.execute("BEGIN")
    yield connection


def add(connection: Connection, kind: str, url: str, watermark: int, force: int, state: AttemptState) -> int:
    """Add an attempt, as the store keeps it."""
    about = {"kind": kind, "watermark": watermark, "force": force, "state": state.value}
    return add_attempt(connection, BASE + url, **about, created_at=0.0, stale_since=0.0)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(["a/", "c/"], ["", "a/b/"])])
def test_readers_agree_for_every_pair_of_directory_attempts(
    world: Connection, database: Database, first: str, second: str
) -> None:
    """Two at or above a directory, of any watermark, force and state."""
    pairs = itertools.islice(itertools.product(ATTEMPTS, ATTEMPTS), 0, None, STEP[database.name])
    for turn, (one, other) in enumerate(pairs):
        add(world, "directory", first, *one)
        add(world, "directory", second, *other)
        assert_readers_agree(world, now=1000.0, urls=slice(turn % URL_STEP, None, URL_STEP))
        world.execute("ROLLBACK")
        world.execute("BEGIN")


def test_readers_agree_on_what_is_marked_or_set_aside(world: Connection) -> None:
    """A need that an attempt marks, is rejected or unconfirmed, below directory attempts of any state."""
    states = (NeedState.ATTEMPTED, NeedState.UNCONFIRMED, NeedState.PARKED)
    cases = itertools.product(states, (AttemptState.ACCEPTED, AttemptState.FAILED), ATTEMPTS)
    for turn, (state, of, directory) in enumerate(cases):
        marked = add(world, "file", "a/b/0", 9, 1, of)
        for step in (NeedState.PARKED, state):  # whoever reserves what is ready counts it: no trigger does
            world.execute(
                "UPDATE need SET state = ?, attempt = ?, due_at = NULL WHERE open = 0 AND sequence <> 4",
                (step, None if step is NeedState.PARKED else marked),
            )
        add(world, "directory", "a/", *directory)
        assert_readers_agree(world, now=1000.0, urls=slice(turn % URL_STEP, None, URL_STEP))
        world.execute("ROLLBACK")
        world.execute("BEGIN")


def test_the_statement_equals_the_rule(world: Connection) -> None:
    """The generated condition selects exactly the rows for which the table says so."""
    for (kind, rule), watermark, force in itertools.product(COVERAGE.items(), (0, 5, 10, 20), FLAGS):
        condition = covered(kind, watermark=":watermark", force=":force")
        values = {"watermark": watermark, "force": force}
        for scope, sequence, is_open, needs_force, found in world.execute(
            f"SELECT scope, sequence, open, needs_force, {condition} FROM need", values
        ):
            assert bool(found) == rule.covers(
                watermark=watermark,
                force=bool(force),
                scope=Scope(scope),
                sequence=sequence,
                is_open=bool(is_open),
                needs_force=bool(needs_force),
            )


async def test_a_url_below_a_stale_directory_is_stale(bench: Bench) -> None:
    """``status --url`` names the directory's need, not only one of exactly this URL."""
    await bench.change(subtree("a/"))
    (need,) = await bench.store.explain(BASE + "a/b/c.html")
    assert (need["url"], need["scope"], need["state"]) == (BASE + "a/", "subtree", "deferred")
    assert await bench.store.explain(BASE + "b.html") == []


async def test_one_that_needs_force_is_not_in_flight_with_an_unforced_directory(bench: Bench) -> None:
    """It is counted and explained as deferred; an urgent request for it goes though the directory is under way."""
    await bench.change(content("a/x"))
    await bench.store._write(lambda connection: connection.execute("UPDATE need SET needs_force = 1, asked = 1"))
    await bench.send(folder("a/", force=False))
    counts = await bench.store.counts()
    (need,) = await bench.store.explain(BASE + "a/x")
    assert (counts.deferred, counts.in_flight, need["state"]) == (1, 0, "deferred")
    assert [row.url for row in await bench.store.read(lambda s: s.manual_rows(5))] == [BASE + "a/x"]


async def test_covered_requests_do_not_use_up_the_limit(bench: Bench) -> None:
    """What a directory attempt covers does not hide a request that nothing covers."""
    await bench.store.request([NeedInput("cdn", BASE + f"a/{n}") for n in range(20)])
    await bench.send(folder("a/"))
    bench.clock.advance(1)
    await bench.store.request([NeedInput("cdn", BASE + "b")])
    assert [row.url for row in await bench.store.read(lambda s: s.manual_rows(1))] == [BASE + "b"]
    assert await bench.store.read(lambda s: s.manual_rows(1)) != []
    made = await bench.send(file("b"))
    assert await bench.store.read(lambda s: s.manual_rows(1)) == []
    assert made[0].kind is RefreshKind.FILE
