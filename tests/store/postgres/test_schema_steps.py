"""A schema of an older version takes each step, and programs of that version keep working."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from listener.errors import StoreUnusable
from listener.refresh import AttemptState
from listener.store import open_store
from listener.store.leadership import leadership_of
from listener.store.postgres import migrations
from listener.store.postgres.address import connect
from listener.store.postgres.migrations import LOCK_MILLISECONDS, MIN_PROGRAM, SCHEMA, STEPS, Program, Step, prepare
from listener.store.sqlite.migrations import VERSION
from listener.store.store import StoreOptions
from tests.postgres.cluster import Cluster
from tests.store.databases import PostgresDatabase, prepare_schema
from tests.store.steps import ALLOWANCES, DAY, Bench, FakeClock, content, file
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
COLUMNS = (
    "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name"
    f" FROM information_schema.columns WHERE table_schema = '{SCHEMA}' ORDER BY 1, 2"
)


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    """A database of its own, with an empty schema."""
    with postgres.database() as name:
        prepare_schema(postgres.url(name))
        yield postgres.url(name)


SHAPE = (
    COLUMNS,
    f"SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = '{SCHEMA}' ORDER BY 1",
    f"SELECT viewname, definition FROM pg_views WHERE schemaname = '{SCHEMA}' ORDER BY 1",
    f"SELECT proname, prosrc FROM pg_proc WHERE pronamespace = '{SCHEMA}'::regnamespace ORDER BY 1",
    (
        f"SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = '{SCHEMA}'::regnamespace"
        " ORDER BY 1"
    ),
    (
        "SELECT pg_get_triggerdef(t.oid) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        f" WHERE c.relnamespace = '{SCHEMA}'::regnamespace AND NOT t.tgisinternal ORDER BY 1"
    ),
)
"""What a schema consists of."""
REGISTER_14 = (
    f"INSERT INTO {SCHEMA}.instance (name, incarnation, until, version, started_at)"
    " VALUES ('old', 1, clock_timestamp(), '0.1.0', clock_timestamp())"
)


def shape(connection: psycopg.Connection[Any]) -> list[Any]:
    """Return what the schema consists of."""
    return [connection.execute(query.encode()).fetchall() for query in SHAPE]


async def test_a_schema_of_version_14_goes_on_with_its_attempts(postgres: Cluster, url: str) -> None:
    """
    It becomes what a new one is; an active file refresh says that it evicts; a second instance finds it done.

    An instance of the version before, which does not know the new columns, registers as before.
    """
    with psycopg.connect(url) as connection:
        new = shape(connection)
    clock = FakeClock()
    with postgres.database() as name, psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute((Path(__file__).parent / "version_14.sql").read_bytes())
        connection.execute(MADE_14.encode())
        for _ in range(2):
            prepare(connection, SCHEMA)
            assert shape(connection) == new
            found = connection.execute(f"SELECT version, min_program FROM {SCHEMA}.schema_version").fetchone()
            assert found == (VERSION, MIN_PROGRAM)
        connection.execute(REGISTER_14.encode())
        async with open_store(postgres.url(name), options=StoreOptions(instance="b"), clock=clock) as store:
            (attempt,) = await store.attempts_in(AttemptState.ACCEPTED)
            assert attempt.force
            assert await store.token_of([attempt.id]) == ""


MADE_14 = f"""
INSERT INTO {SCHEMA}.installation (id, created_at) VALUES (1, 1.0);
INSERT INTO {SCHEMA}.schema_version SELECT 1, 14, 14, system_identifier FROM pg_control_system();
INSERT INTO {SCHEMA}.target (id, name) VALUES (1, 'cdn');
INSERT INTO {SCHEMA}.attempt_group (id, target, kind, force, account, window_start, watermark, created_at, state, held,
  task_id, next_look_at) VALUES (4096, 1, 'file', 0, 'main', 0, 1, 1.0, 'accepted', 0, 'task', 2.0);
INSERT INTO {SCHEMA}.attempt_item (id, group_id, url) VALUES (4096, 4096, 'https://www.example.com/a.html');
"""
"""What version 14 wrote into a new schema, and a file refresh that was accepted."""


ADDED_BY_15 = f"""
INSERT INTO {SCHEMA}.ledger (account, kind, window_start, quota) VALUES ('main', 'file', %(day)s, 100)
  ON CONFLICT DO NOTHING;
UPDATE {SCHEMA}.ledger SET held = held + 2, moves = moves + 1 WHERE account = 'main' AND kind = 'file'
  AND window_start = %(day)s;
INSERT INTO {SCHEMA}.attempt_group (id, target, force, kind, account, window_start, watermark, created_at, state, held)
  VALUES (900, 1, 1, 'file', 'main', %(day)s, 5, %(now)s, 'held', 1);
INSERT INTO {SCHEMA}.attempt_item (id, group_id, url, tries, stale_since, reason, covered, urgent, priority)
  VALUES (901, 900, 'https://www.example.com/b', 1, 1.0, '', 1, 0, 0),
  (902, 900, 'https://www.example.com/c', 1, 1.0, '', 1, 0, 0);
UPDATE {SCHEMA}.attempt_group SET state = 'sending', sent_at = %(now)s WHERE id = 900;
INSERT INTO {SCHEMA}.late_answer (attempt, account, term, kind, window_start, task_id, at)
  VALUES (903, 'main', 1, 'file', %(day)s, '7', clock_timestamp());
"""
"""What version 15 writes when it reserves and sends two files, and when an answer comes after its term."""
SPLIT_BY_15 = f"""
INSERT INTO {SCHEMA}.attempt_group (id, target, kind, force, account, window_start, watermark, created_at, state, held,
  active, task_id, sent_at, accepted_at, finished_at, next_look_at, looks, error, token)
  SELECT 950, target, kind, force,
  account, window_start, watermark, created_at, state, held, active, task_id, sent_at, accepted_at, finished_at,
  next_look_at, looks, error, token FROM {SCHEMA}.attempt_group WHERE id = %(group)s;
UPDATE {SCHEMA}.attempt_item SET group_id = 950 WHERE id = %(item)s;
UPDATE {SCHEMA}.ledger SET held = held - 1, spent = spent + 1, moves = moves + 1 WHERE account = 'main'
  AND kind = 'file' AND window_start = (SELECT window_start FROM {SCHEMA}.attempt_group WHERE id = 950);
UPDATE {SCHEMA}.attempt_group SET state = 'accepted', held = 0, task_id = 't' WHERE id = 950;
"""
"""What version 15 writes when one file of a group is accepted that this version made."""


def run(connection: psycopg.Connection[Any], statements: str, **values: object) -> None:
    """Run statements one by one with these values."""
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.execute(statement.encode(), values)


async def test_instances_of_version_15_and_this_one_take_over_from_each_other(url: str) -> None:
    """What one has reserved or sent the other books as the first would have: no unit is lost, none is booked twice."""
    clock = FakeClock()
    options = StoreOptions(instance="new")
    with psycopg.connect(url, autocommit=True) as connection, closing(PostgresDatabase(url)) as database:
        connection.execute(f"INSERT INTO {SCHEMA}.target (id, name) VALUES (1, 'cdn')".encode())
        run(connection, ADDED_BY_15, day=DAY.start(clock.now()), now=clock.now())
        async with open_store(url, options=options, clock=clock, owner=True) as store:
            bench = Bench(store, clock, database)
            keeper = leadership_of(store, url, accounts=["main"], options=options)
            looking = asyncio.create_task(keeper.run())
            await until(lambda: "main" in keeper.terms)
            term = keeper.term("main")
            await term.take_over()
            assert await bench.budget() == (100, 0, 2)
            assert await term.book_late_answers() == 1
            assert await bench.budget() == (100, 1, 2)
            await term.store.accept({901: "t"}, next_look_at=1.0)
            await term.store.refund([902])
            assert await bench.budget() == (100, 2, 0)
            await bench.change(content("d"), content("e"))
            made = await term.store.hold([file("d"), file("e")], account="main", allowances=ALLOWANCES)
            (group,) = connection.execute(
                f"SELECT DISTINCT group_id FROM {SCHEMA}.attempt_item WHERE id = ANY(%s)".encode(),
                ([one.id for one in made],),
            ).fetchall()
            run(connection, SPLIT_BY_15, group=group[0], item=made[0].id)
            assert await bench.budget() == (100, 3, 1)
            await term.store.refund([made[1].id])
            assert await bench.budget() == (100, 3, 0)
            bench.assert_counted()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await keeper.leave()


NEXT = VERSION + 1
ADDED = Step(
    (
        "ALTER TABLE {schema}.source ADD COLUMN note bigint NOT NULL DEFAULT 0",
        "ALTER TABLE {schema}.need ADD COLUMN note bigint NOT NULL DEFAULT 0",
        "CREATE TABLE {schema}.note (id bigint PRIMARY KEY)",
    ),
    least_program=VERSION,
)
INCOMPATIBLE = ADDED._replace(least_program=NEXT)


def newer(step: Step) -> Program:
    """A program of the next version."""
    return Program(NEXT, {**STEPS, VERSION: step})


def upgrade(url: str, step: Step = ADDED) -> None:
    """Start such a program."""
    with closing(connect(url, instance="newer")) as connection:
        prepare(connection, program=newer(step))


def version_of(url: str) -> Any:
    """Return the version of the schema, and the oldest of programs that may use it."""
    with closing(psycopg.connect(url)) as connection:
        return connection.execute(f"SELECT version, min_program FROM {SCHEMA}.schema_version").fetchone()


def test_every_version_has_a_step() -> None:
    """What a state file gets by a migration, a schema gets by a step."""
    assert sorted(STEPS) == list(range(min(STEPS), VERSION))
    assert all(step.least_program <= number + 1 for number, step in STEPS.items())


async def test_instances_go_on_while_newer_ones_start(url: str) -> None:
    """Three start at once: one takes the steps. One of the version before records all the time, and more may start."""
    clock, done = FakeClock(), asyncio.Event()
    recorded: list[str] = []
    async with open_store(url, options=StoreOptions(instance="old"), clock=clock, owner=True) as old:
        bench = Bench(old, clock, cast("Any", object()))

        async def record() -> None:
            while not done.is_set() or len(recorded) < 5:
                recorded.append(f"{len(recorded)}.html")
                await bench.change(content(recorded[-1]))

        recording = asyncio.create_task(record())
        await asyncio.gather(*(asyncio.to_thread(upgrade, url) for _ in range(3)))
        done.set()
        await recording
        assert version_of(url) == (NEXT, VERSION)
        await bench.send(file(recorded[0]))
        counts = await old.counts()
        assert (counts.pending + counts.in_flight, counts.in_flight) == (len(recorded), 1)
    async with open_store(url, options=StoreOptions(instance="late"), clock=clock, owner=True) as late:
        assert (await late.counts()).pending + (await late.counts()).in_flight == len(recorded)


async def test_three_instances_make_one_schema(postgres: Cluster) -> None:
    """They start at once on an empty database."""
    with postgres.database() as name:
        url = postgres.url(name)
        await asyncio.gather(*(asyncio.to_thread(upgrade, url) for _ in range(3)))
        assert version_of(url) == (NEXT, VERSION)


def test_a_step_that_does_not_get_its_lock_lets_others_go_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came behind it would wait as well; so it is taken back, and tried again once the table is free."""
    monkeypatch.setattr(migrations, "STEP_LOCK_MILLISECONDS", 100)
    tries: list[float] = []
    with psycopg.connect(url) as reading:
        reading.execute(f"SELECT count(*) FROM {SCHEMA}.need".encode())

        def pause(seconds: float) -> None:
            tries.append(seconds)
            if len(tries) == 3:
                reading.rollback()

        monkeypatch.setattr(migrations.time, "sleep", pause)
        began = time.monotonic()
        upgrade(url)
        assert time.monotonic() - began < LOCK_MILLISECONDS / 1000
    assert len(tries) == 3
    assert version_of(url) == (NEXT, VERSION)


async def test_a_step_that_others_could_not_bear_waits_until_they_have_stopped(url: str) -> None:
    """It is refused with their names, and changes nothing. Afterwards an instance of the old version is refused."""
    clock = FakeClock()
    heartbeat = f"UPDATE {SCHEMA}.instance SET until = clock_timestamp() + interval"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(REGISTER_14.replace("'old'", "'web-1'").encode())
        connection.execute(f"{heartbeat} '1 hour'".encode())
        async with open_store(url, options=StoreOptions(instance="web-1"), clock=clock, owner=True) as cut_off:
            bench = Bench(cut_off, clock, cast("Any", object()))
            await bench.change(content("a.html"))
            with pytest.raises(StoreUnusable, match="instances that run: web-1"):
                upgrade(url, INCOMPATIBLE)
            assert version_of(url) == (VERSION, MIN_PROGRAM)
            connection.execute(f"{heartbeat} '-1 second'".encode())
            upgrade(url, INCOMPATIBLE)
            assert version_of(url) == (NEXT, NEXT)
            with pytest.raises(StoreUnusable, match=f"needs version {NEXT}"):
                await bench.change(content("b.html"))
        for is_owner in (True, False):
            with pytest.raises(StoreUnusable, match=f"needs version {NEXT}"):
                open_store(url, owner=is_owner)


async def test_an_instance_that_was_cut_off_takes_no_lease_of_a_newer_schema(url: str) -> None:
    """It would hold accounts that it cannot lead."""
    async with open_store(url, options=StoreOptions(instance="old"), owner=True) as store:
        keeper = leadership_of(store, url, accounts=["main"], options=StoreOptions(instance="old"))
        upgrade(url, INCOMPATIBLE)
        running = asyncio.create_task(keeper.run())
        await until(lambda: bool(keeper.trouble))
        assert f"needs version {NEXT}" in keeper.trouble
        assert not keeper.terms
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await keeper.leave()
