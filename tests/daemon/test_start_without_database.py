"""A daemon that starts while its PostgreSQL server is away waits for it; what no waiting repairs ends it at once."""

from __future__ import annotations

import json
import signal

import pytest

from tests.daemon.test_start import reasons, started
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeCluster
from tests.stand import Stand, fetch, until
from tests.store.databases import prepare_schema

pytestmark = pytest.mark.timeout(240)  # real processes on a busy machine take their time


def use(stand: Stand, url: str) -> None:
    """Name this store in the configuration."""
    text = stand.config.read_text().splitlines()
    stand.put("\n".join(f'url = "{url}"' if line.startswith("url = ") else line for line in text))


@pytest.fixture
def away(make_cluster: MakeCluster, stand: Stand) -> Cluster:
    """A server that is down; the configuration names it."""
    stand.configure()
    cluster = make_cluster(durable=True)
    use(stand, cluster.url())
    cluster.stop()
    return cluster


def test_a_server_that_comes_later_is_waited_for(stand: Stand, away: Cluster) -> None:
    """Alive and not ready, with the place in every view, until the server is there; logged once, and its end."""
    place = f"PostgreSQL 127.0.0.1:{away.port}: "
    with started(stand, STATE_DIRECTORY=str(stand.root)) as process:
        until(lambda: place in reasons(stand), what="it says what it waits for")
        for path in ("/healthz", "/api/status", "/metrics"):
            status, text = fetch(stand.admin + path)
            assert (status, place in text) == (503, True), path
        assert fetch(f"{stand.admin}/livez")[0] == 200
        status, out, err = stand.run("status")
        assert (status, place in out + err) == (1, True)
        assert process.poll() is None
        away.start()
        until(stand.ready, what="it is ready")
        stand.write("a.html", "one")
        until(lambda: stand.url("a.html") in stand.paths())
        process.terminate()
        _, err = process.communicate(timeout=60)
    lines = [json.loads(line) for line in err.splitlines()]
    assert process.returncode == 0
    refused = [one for one in lines if one["event"] == "store.failed" and "refused" in one["error"]]
    assert (len(refused), refused[0]["doing"]) == (1, "open")
    assert sum(one["event"] == "store.opened" for one in lines) == 1


def test_a_stop_ends_the_wait(stand: Stand, away: Cluster) -> None:
    """In order, and at once."""
    with started(stand) as process:
        until(lambda: "PostgreSQL" in reasons(stand))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, "daemon.ended" in err) == (0, True)


def test_a_reload_may_name_another_server(stand: Stand, away: Cluster, postgres_database: str) -> None:
    """While it waits for the wrong one; an invalid configuration is refused, and it waits on."""
    with started(stand, STATE_DIRECTORY=str(stand.root)) as process:
        until(lambda: "PostgreSQL" in reasons(stand))
        valid = stand.config.read_text()
        stand.put("nonsense")
        process.send_signal(signal.SIGHUP)
        stand.put(valid)
        use(stand, postgres_database)
        process.send_signal(signal.SIGHUP)
        until(stand.ready, what="it is ready")
        assert process.poll() is None


def test_what_no_waiting_repairs_ends_it(stand: Stand, postgres: Cluster, postgres_database: str) -> None:
    """A database that is not there with 2, as any wrong setting; a schema of a newer version with 1."""
    stand.configure()
    use(stand, postgres.url("lisener"))
    status, _, err = stand.run("run")
    assert (status, "store.url: database 'lisener' on PostgreSQL" in err) == (2, True)
    name = postgres_database.rpartition("/")[2]
    prepare_schema(postgres_database)
    postgres.value("UPDATE cdn_listener.schema_version SET min_program = 9999", database=name)
    use(stand, postgres_database)
    status, _, err = stand.run("run")
    assert (status, "needs version 9999 or newer" in err) == (1, True)


def test_what_turns_out_later_ends_the_wait_too(stand: Stand, away: Cluster) -> None:
    """The server comes back, and the database is not there."""
    use(stand, away.url("lisener"))
    with started(stand) as process:
        until(lambda: "PostgreSQL" in reasons(stand))
        away.start()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "store.url: database 'lisener' on PostgreSQL" in err) == (2, True)
