"""The parts that tests of a fleet are made of do what tests rely on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg
import pytest

from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeCluster, MakeStandby, MakeWire
from tests.postgres.pool import POOL_SIZE, Pool
from tests.stand import until


def test_each_test_has_a_database_of_its_own(postgres: Cluster) -> None:
    """A database is a copy of its template, and nothing of it is left for the next one."""
    prepared: list[str] = []

    def prepare(url: str) -> None:
        prepared.append(url)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (x int)")

    for _ in range(2):
        with postgres.database(postgres.template("prepared", prepare)) as name:
            assert postgres.value("SELECT count(*) FROM kept", database=name) == 0
            postgres.value("INSERT INTO kept VALUES (1)", database=name)
    assert len(prepared) == 1
    assert postgres.value("SELECT count(*) FROM pg_database WHERE datname = %s", name) == 0


def test_the_server_is_reached_by_its_socket_and_is_nobody_elses(postgres: Cluster, postgres_database: str) -> None:
    """Its port is below those of clients; it runs as no root; its files lie in a folder of its own."""
    assert postgres.port < 32768
    with psycopg.connect(postgres.socket_url()) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(postgres.data),)
    with psycopg.connect(postgres_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_class WHERE relname = 'kept'").fetchone() == (0,)
    pid = int((postgres.data / "postmaster.pid").read_text().split()[0])
    assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_a_crashed_server_comes_back_with_what_was_committed(make_cluster: MakeCluster) -> None:
    """A durable cluster stopped at once recovers; connections to it end."""
    cluster = make_cluster(durable=True)
    assert cluster.value("SHOW fsync") == "on"
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE kept (x int)")
        connection.execute("INSERT INTO kept VALUES (7)")
        cluster.stop("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        cluster.value("SELECT 1")
    cluster.start()
    assert cluster.value("SELECT x FROM kept") == 7


def test_more_clients_than_connections_share_the_pool(postgres: Cluster, postgres_pool: Pool) -> None:
    """Clients in front of the pool get different sessions of the server from one transaction to the next."""
    with postgres.database() as name:
        clients = [psycopg.connect(postgres_pool.url(name), autocommit=True, prepare_threshold=None) for _ in range(12)]
        sessions = set()
        for client in clients:
            row = client.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
            sessions.add(row[0])
        with clients[0].transaction():
            clients[0].execute("SELECT 1")
            others = {client.execute("SELECT pg_backend_pid()").fetchone() for client in clients[1:]}
            mine = clients[0].execute("SELECT pg_backend_pid()").fetchone()
        assert mine not in others
        assert len(sessions | {row[0] for row in others if row}) <= POOL_SIZE
        for client in clients:
            client.close()


def test_a_promoted_standby_lacks_what_it_did_not_receive(make_cluster: MakeCluster, make_standby: MakeStandby) -> None:
    """Without a synchronous standby, a commit that returned is lost; clients with both hosts find the new server."""
    primary = make_cluster()
    primary.value("CREATE TABLE acknowledged (n int)")
    standby = make_standby(primary)
    primary.value("INSERT INTO acknowledged VALUES (1)")
    until(lambda: standby.value("SELECT count(*) FROM acknowledged") == 1, what="the standby has the first row")
    standby.stall()
    primary.value("INSERT INTO acknowledged VALUES (2)")
    primary.stop("immediate")
    standby.promote()
    hosts = f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres dbname=postgres"
    with psycopg.connect(f"{hosts} target_session_attrs=read-write") as connection:
        assert connection.execute("SELECT n FROM acknowledged").fetchall() == [(1,)]


def test_a_synchronous_standby_that_stalls_holds_commits_back(
    make_cluster: MakeCluster, make_standby: MakeStandby
) -> None:
    """A commit waits for the stalled standby, and returns when it resumes."""
    primary = make_cluster()
    standby = make_standby(primary)
    primary.configure(synchronous_standby_names="*")
    primary.value("CREATE TABLE acknowledged (n int)")
    standby.stall()
    writer = threading.Thread(target=lambda: primary.value("INSERT INTO acknowledged VALUES (2)"))
    writer.start()
    until(lambda: primary.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == 1)
    standby.resume()
    writer.join(30)
    assert not writer.is_alive()


def test_a_wire_falls_silent_slows_down_and_breaks(postgres: Cluster, make_wire: MakeWire) -> None:
    """What is cut ends nothing and answers nothing; what is mended goes on; a reset is seen at once."""
    wire = make_wire(postgres.port)
    with psycopg.connect(postgres.url(port=wire.port), autocommit=True) as connection:
        wire.delay_seconds = 0.05
        started = time.monotonic()
        connection.execute("SELECT 1")
        assert time.monotonic() - started >= 0.1
        wire.delay_seconds = 0
        wire.cut()
        asked = threading.Thread(target=connection.execute, args=("SELECT 1",))
        asked.start()
        asked.join(0.2)
        assert asked.is_alive()
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(postgres.url(port=wire.port), connect_timeout=2)
        wire.mend()
        asked.join(10)
        assert not asked.is_alive()
        wire.refuse()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgres.url(port=wire.port))
        wire.mend()
        psycopg.connect(postgres.url(port=wire.port)).close()


def test_no_server_outlives_its_test(make_cluster: MakeCluster) -> None:
    """Removing a cluster ends its processes and removes its files."""
    cluster = make_cluster()
    pid = int((cluster.data / "postmaster.pid").read_text().split()[0])
    cluster.remove()
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert not cluster.folder.exists()
