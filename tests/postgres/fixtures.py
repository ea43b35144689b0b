"""PostgreSQL for tests: one server for each run and worker, a database for each test, and what stands in front."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from tests.postgres.cluster import Cluster, Standby
from tests.postgres.pool import Pool, pgbouncer
from tests.postgres.wire import Wire, wire

MakeCluster = Callable[..., Cluster]
MakeStandby = Callable[..., Standby]
MakeWire = Callable[[int], Wire]


def postgres_programs(absent: Callable[[str], NoReturn]) -> Path:
    """Return the folder of the newest installed server's programs, which Debian keeps out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = shutil.which("initdb")
    if not found and initdb is None:
        absent("postgresql")
    return found[-1].parent if found else Path(str(initdb)).resolve().parent


@pytest.fixture(scope="session")
def initial_cluster(absent: Callable[[str], NoReturn]) -> Iterator[tuple[Path, Path]]:
    """Run ``initdb`` once; give the programs and the folder of which clusters are copies."""
    programs = postgres_programs(absent)
    folder = Cluster.initialise(programs)
    yield programs, folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(initial_cluster: tuple[Path, Path]) -> Iterator[Cluster]:
    """Run the server that tests share: they take a database of it, and neither stop nor configure it."""
    cluster = Cluster.copied(*initial_cluster)
    try:
        yield cluster.start()
    finally:
        cluster.remove()


@pytest.fixture
def postgres_database(postgres: Cluster) -> Iterator[str]:
    """Give the URL of an empty database."""
    with postgres.database() as name:
        yield postgres.url(name)


@pytest.fixture(scope="session")
def postgres_pool(postgres: Cluster, system_command: Callable[[str], str]) -> Iterator[Pool]:
    """Run PgBouncer in front of the shared server."""
    with pgbouncer(system_command("pgbouncer"), postgres) as pool:
        yield pool


@pytest.fixture
def make_cluster(initial_cluster: tuple[Path, Path]) -> Iterator[MakeCluster]:
    """Return a maker of servers that a test has for itself, to stop and configure; fsync is on if ``durable``."""
    with ExitStack() as made:

        def make(*, durable: bool = False, **settings: str) -> Cluster:
            cluster = Cluster.copied(*initial_cluster, durable=durable, **settings)
            made.callback(cluster.remove)
            return cluster.start()

        yield make


@pytest.fixture
def make_standby() -> Iterator[MakeStandby]:
    """Return a maker of servers that follow another one."""
    with ExitStack() as made:

        def make(primary: Cluster, **settings: str) -> Standby:
            standby = primary.standby(**settings)
            made.callback(standby.remove)
            return standby

        yield make


@pytest.fixture
def make_wire() -> Iterator[MakeWire]:
    """Return a maker of wires to a port, which tests cut, slow down and reset."""
    with ExitStack() as made:
        yield lambda port: made.enter_context(wire(port))
