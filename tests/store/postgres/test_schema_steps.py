"""A schema of an older version takes each step, and programs of that version go on beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest

from listener.refresh import AttemptState
from listener.store import open_store
from listener.store.postgres.migrations import SCHEMA, prepare
from listener.store.sqlite.migrations import VERSION
from listener.store.store import StoreOptions
from tests.postgres.cluster import Cluster
from tests.store.databases import prepare_schema
from tests.store.steps import Bench, FakeClock, content, file

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


async def test_a_schema_of_version_14_goes_on_with_its_attempts(url: str) -> None:
    """It gets the tokens of requests; active file refreshes say that they evict; a second instance finds it done."""
    clock = FakeClock()
    async with open_store(url, options=StoreOptions(instance="a"), clock=clock) as store:
        bench = Bench(store, clock, cast("Any", object()))
        await bench.change(content("a.html"))
        await bench.send(file("a.html"))
    with psycopg.connect(url, autocommit=True) as connection:
        new = connection.execute(COLUMNS).fetchall()
        connection.execute(f"ALTER TABLE {SCHEMA}.attempt_group DROP COLUMN token")
        connection.execute(f"UPDATE {SCHEMA}.attempt_group SET force = 0")
        connection.execute(f"UPDATE {SCHEMA}.schema_version SET version = 14")
        for _ in range(2):
            prepare(connection, SCHEMA)
            assert connection.execute(COLUMNS).fetchall() == new
            found = connection.execute(f"SELECT version, min_program FROM {SCHEMA}.schema_version").fetchone()
            assert found == (VERSION, 14)
    async with open_store(url, options=StoreOptions(instance="b"), clock=clock) as store:
        (attempt,) = await store.attempts_in(AttemptState.ACCEPTED)
        assert attempt.force
        assert await store.token_of([attempt.id]) == ""
