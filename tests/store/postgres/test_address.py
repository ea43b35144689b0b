"""The URL of a PostgreSQL store: what libpq knows of it works, and no password is in an error."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg import sql

from listener.errors import ConfigurationError, StoreError
from listener.store.postgres import address
from listener.store.postgres.address import connect, parameters_of
from tests.postgres.cluster import SYSTEM_USER, Cluster
from tests.postgres.fixtures import MakeCluster, MakeStandby, MakeWire
from tests.postgres.pool import Pool

PASSWORD = "pa:ss/w@rd hunter2"


def opened(url: str, **parameters: object) -> list[object]:
    """Connect, and return the user, the database and the name that the server shows."""
    with connect(url, instance="web-1", **parameters) as connection:
        row = connection.execute("SELECT current_user, current_database(), current_setting('application_name')")
        return list(row.fetchone() or ())


@pytest.fixture(scope="module")
def guarded(initial_cluster: tuple[Path, Path]) -> Iterator[Cluster]:
    """A server with a user who needs a password over TCP, and TLS."""
    cluster = Cluster.copied(*initial_cluster)
    try:
        _certificate(cluster)
        cluster.start()
        with cluster.connect() as connection:
            connection.execute(sql.SQL("CREATE ROLE listener LOGIN PASSWORD {}").format(sql.Literal(PASSWORD)))
        rules = cluster.data / "pg_hba.conf"
        rules.write_text(f"host all listener 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        cluster.configure(ssl="on")
        yield cluster
    finally:
        cluster.remove()


def _certificate(cluster: Cluster) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    own, public = cluster.data / "server.key", cluster.data / "server.crt"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    own.write_bytes(key.private_bytes(*pem))
    own.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(own, SYSTEM_USER, SYSTEM_USER)
        shutil.chown(public, SYSTEM_USER, SYSTEM_USER)


def test_the_password_comes_from_the_url_the_environment_or_a_passfile(
    guarded: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each way works by itself."""
    plain = guarded.url(user="listener")
    expected = ["listener", "postgres", "cdn-listener web-1"]
    assert opened(guarded.url(user=f"listener:{quote(PASSWORD, safe='')}")) == expected
    passfile = tmp_path / "passfile"
    passfile.write_text(f"127.0.0.1:{guarded.port}:*:listener:{PASSWORD.replace(':', chr(92) + ':')}\n")
    passfile.chmod(0o600)
    assert opened(f"{plain}?passfile={quote(str(passfile))}") == expected
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert opened(plain) == expected


@pytest.mark.parametrize("password", ["", "wrong-hunter3"])
def test_a_refused_password_is_reported_without_it(
    guarded: Cluster, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """As a setting to correct: the error names server and user, and the hint the ways to give a password."""
    monkeypatch.setenv("HOME", "/nonexistent")
    user = f"listener:{password}" if password else "listener"
    with pytest.raises(
        ConfigurationError,
        match=rf"store\.url: database 'postgres' on PostgreSQL 127\.0\.0\.1:{guarded.port}: .*password",
    ) as refused:
        connect(guarded.url(user=user), instance="web-1")
    assert "PGPASSWORD" in refused.value.hint
    assert ("correct the user" in refused.value.hint) is bool(password)
    assert "hunter3" not in f"{refused.value} {refused.value.hint} {refused.value.__context__!r}"


def test_tls_is_verified_as_the_url_says(guarded: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the server's certificate the connection is encrypted; with another there is none, nor without TLS."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    root = tmp_path / "root.crt"
    root.write_bytes((guarded.data / "server.crt").read_bytes())
    url = guarded.url(user="listener", sslmode="verify-full", sslrootcert=root)
    with connect(url, instance="web-1") as connection:
        row = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert row == (True,)
    other = guarded.url(user="listener", sslmode="verify-full", sslrootcert="/etc/ssl/certs/absent.pem")
    with pytest.raises(ConfigurationError) as refused:
        connect(other, instance="web-1")
    assert "sslrootcert" in refused.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2/x@db/listener",
        "postgresql://u:123/hunter2@db/listener",
        "postgresql://u:%hunter2@db/listener",
        "postgresql://u:hunter2@db/listener?hunter2=1",
        "postgresql://u:hunter2@[db/listener",
        "postgresql://u:hunter2@db:hunter2/listener",
    ],
)
def test_a_url_that_libpq_misreads_shows_no_password(url: str) -> None:
    """A raw special character in the password makes its rest a host, a port or a database: refused before use."""
    with pytest.raises(ConfigurationError, match=r"store.url: .* is not a URL that libpq can use") as refused:
        parameters_of(url)
    shown = f"{refused.value} {refused.value.hint}"
    assert "%XX" in shown
    assert "u:hunter2" not in shown
    assert "hunter2@" not in shown
    assert "hunter2/x" not in shown


def test_of_several_hosts_the_one_that_takes_writes_is_used(
    make_cluster: MakeCluster, make_standby: MakeStandby
) -> None:
    """A standby before it in the list is passed over; alone it is refused, and after its promotion it is found."""
    primary = make_cluster()
    standby = make_standby(primary)
    both = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"
    with connect(both, instance="web-1") as connection:
        assert connection.info.port == primary.port
    with pytest.raises(StoreError, match="is a standby, which takes no writes"):
        connect(standby.url(), instance="web-1")
    primary.stop("immediate")
    with pytest.raises(StoreError) as failed:
        connect(both, instance="web-1")
    assert str(primary.port) in str(failed.value)
    assert str(standby.port) in str(failed.value)
    assert "\n" not in str(failed.value)
    standby.promote()
    with connect(both, instance="web-1") as connection:
        assert connection.info.port == standby.port


def test_a_pool_and_a_socket_are_reached_too(postgres: Cluster, postgres_pool: Pool, postgres_database: str) -> None:
    """None of the options needs what a pool does not know; without prepared statements any number of clients works."""
    assert opened(postgres.socket_url()) == ["postgres", "postgres", "cdn-listener web-1"]
    name = postgres_database.rpartition("/")[2]
    clients = [connect(postgres_pool.url(name), instance="web-1", prepared=False) for _ in range(8)]
    for _ in range(12):
        for client in clients:
            assert client.execute("SELECT %s::int + 1", (1,)).fetchone() == (2,)
    for client in clients:
        client.close()


def test_a_server_that_is_silent_or_away_is_an_error_soon(postgres: Cluster, make_wire: MakeWire) -> None:
    """Within the time for a connection; the place is named."""
    wire = make_wire(postgres.port)
    wire.cut()
    with pytest.raises(StoreError, match=rf"PostgreSQL 127\.0\.0\.1:{wire.port}: .*time"):
        connect(postgres.url(port=wire.port), instance="web-1", connect_timeout=2)
    wire.refuse()
    with pytest.raises(StoreError) as refused_at_once:
        connect(postgres.url(port=wire.port), instance="web-1")
    assert "; " not in str(refused_at_once.value)  # what libpq explains is left out
    wire.mend()
    with pytest.raises(ConfigurationError, match=r"^store\.url: database 'absent' on PostgreSQL 127") as refused:
        connect(postgres.url("absent", port=wire.port), instance="web-1")
    assert "correct the name of the database" in refused.value.hint


def test_a_server_that_falls_silent_after_the_login_is_an_error_too(
    postgres: Cluster, make_wire: MakeWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks of a new connection have a time limit as well."""
    monkeypatch.setattr(address, "CHECK_SECONDS", 0.3)
    wire = make_wire(postgres.port)
    check = address._check

    def cut_before(*arguments: Any) -> None:
        wire.cut()
        check(*arguments)

    monkeypatch.setattr(address, "_check", cut_before)
    with pytest.raises(StoreError, match=rf"PostgreSQL 127\.0\.0\.1:{wire.port}"):
        connect(postgres.url(port=wire.port), instance="web-1")


def test_a_database_in_another_encoding_is_refused(postgres: Cluster) -> None:
    """Keys are UTF-8; the hint says how such a database is made."""
    with postgres.connect() as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        with pytest.raises(ConfigurationError, match="database latin has encoding SQL_ASCII") as refused:
            connect(postgres.url("latin"), instance="web-1")
        assert "ENCODING 'UTF8'" in refused.value.hint
    finally:
        postgres.value("DROP DATABASE latin")


def test_nothing_that_shows_a_connection_shows_its_password(guarded: Cluster) -> None:
    """Its representation and its errors name host, user and database only."""
    with connect(guarded.url(user=f"listener:{quote(PASSWORD, safe='')}"), instance="web-1") as connection:
        assert "hunter2" not in f"{connection!r} {connection.info.dsn}"
        with pytest.raises(psycopg.Error) as failed:
            connection.execute("SELECT absent")
        assert "hunter2" not in repr(failed.value)
