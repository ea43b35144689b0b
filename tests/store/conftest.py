"""The store on both databases, with a clock that tests move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from listener.store.sqlite.database import prepare
from tests.postgres.cluster import Cluster
from tests.store.databases import Database, SqliteDatabase, postgres_database, prepare_schema, sqlite_database
from tests.store.steps import Bench, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands until it is moved."""
    return FakeClock()


@pytest.fixture(scope="session")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty state file, of which tests take copies."""
    path = tmp_path_factory.mktemp("state") / "state.db"
    prepare(path).close()
    return path


@pytest.fixture(scope="session")
def store_url(postgres: Cluster) -> Iterator[str]:
    """The URL of a PostgreSQL database with an empty schema."""
    with postgres.database() as name:
        prepare_schema(postgres.url(name))
        yield postgres.url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty store of each kind."""
    if request.param == "sqlite":
        with sqlite_database(tmp_path / "state.db", request.getfixturevalue("state_file")) as file:
            yield file
    else:
        with postgres_database(request.getfixturevalue("store_url")) as schema:
            yield schema


@pytest.fixture
def sqlite(tmp_path: Path, state_file: Path) -> Iterator[SqliteDatabase]:
    """An empty state file, for what only SQLite has."""
    with sqlite_database(tmp_path / "state.db", state_file) as file:
        yield file


@pytest.fixture
async def bench(database: Database, clock: FakeClock) -> AsyncIterator[Bench]:
    """An owned store."""
    async with database.open(clock=clock) as store:
        await store.recover()
        yield Bench(store, clock, database)


@pytest.fixture
async def sqlite_bench(sqlite: SqliteDatabase, clock: FakeClock) -> AsyncIterator[Bench]:
    """An owned store on a state file, for what only SQLite has."""
    async with sqlite.open(clock=clock) as store:
        await store.recover()
        yield Bench(store, clock, sqlite)
