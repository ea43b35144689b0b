"""
Connections to the server that ``store.url`` names, as libpq reads it, without any secret in what is reported.

The URL may name several hosts, TLS options and anything else that libpq knows. The password is better kept out of it:
libpq takes it from ``PGPASSWORD`` or a passfile. What libpq says of a URL that it cannot parse may quote a part of the
password, so that it is not shown.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from listener.errors import ConfigurationError, StoreError
from listener.redaction import mask_text, mask_url

__all__ = [
    "LEAST_SERVER_VERSION",
    "connect",
    "described_place",
    "ended_after",
    "parameters_of",
    "reported",
    "shut",
]

LEAST_SERVER_VERSION: Final = 130000
"""As libpq counts: 13.0."""
WAIT: Final = {
    "connect_timeout": 3,  # seconds for each host
    "tcp_user_timeout": 5000,  # milliseconds until a cut wire is an error
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}
"""What the URL may override. None of it helps against a server that is frozen: that is for the caller's time limit."""
CHECK_SECONDS: Final = 5.0
"""For a server that falls silent just after it let us in."""
PREPARE_AFTER: Final = 5
"""A statement is prepared when it comes for the sixth time, as psycopg does by default."""
_URL_HINT: Final = (
    "write postgresql://USER@HOST/DATABASE, with %XX for special characters; the password may be in PGPASSWORD or in a"
    " passfile, or the whole URL in the file that LISTENER_STORE__URL_FILE names"
)

_PERMANENT: Final = re.compile(
    r'(database|role) ".*" does not exist|no such (database|user)|(password|SASL) authentication failed|auth failed'
    r"|no password supplied|permission denied for database|is not permitted to log in|no pg_hba\.conf entry"
    r"|certificate verify failed|does not support SSL|root certificate file"
)
"""What no waiting repairs, as PostgreSQL, PgBouncer and libpq say it; in another language it counts as an outage."""


def parameters_of(url: str) -> dict[str, Any]:
    """
    Return what the URL sets, by libpq's names.

    Raises:
        ConfigurationError: libpq cannot parse it, or a part of a password may have been taken for something else.
    """
    try:
        found = dict(conninfo_to_dict(url))
    except psycopg.Error:
        found = {}
    ports = str(found.get("port", "")).replace(",", "")
    misread = "@" in str(found.get("dbname", "")) or not (ports or "0").isdecimal()
    if not found or misread:
        raise ConfigurationError(f"store.url: {mask_url(url)!r} is not a URL that libpq can use", hint=_URL_HINT)
    return found


def connect(
    url: str, *, instance: str, prepared: bool = True, **parameters: Any
) -> psycopg.Connection[tuple[Any, ...]]:
    """
    Connect to the server; each statement outside ``transaction()`` is a transaction of its own.

    Args:
        url: of the store.
        instance: the name under which the server lists the connection.
        prepared: whether statements may be kept prepared, which a pool in transaction mode may not allow.
        parameters: what overrides the URL, by libpq's names.

    Raises:
        ConfigurationError: the URL is none, the server refuses it for good, or cannot hold a store.
        StoreError: the server was not reached, or takes no connections at present.
    """
    given = {**parameters_of(url), **parameters}
    several = "," in str(given.get("host", given.get("hostaddr", "")))
    defaults: dict[str, Any] = {**WAIT, "application_name": f"cdn-listener {instance}", "client_encoding": "utf8"}
    if several:
        defaults["target_session_attrs"] = "read-write"  # finds the server that was promoted
    try:
        connection = psycopg.connect(
            **{**defaults, **given}, autocommit=True, prepare_threshold=PREPARE_AFTER if prepared else None
        )
        try:
            with ended_after(connection, CHECK_SECONDS):
                _check(connection, given)
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        if _PERMANENT.search(str(error)):
            what = f"store.url: database {_database(given)!r} on PostgreSQL {_place(given)}: {_reason(error)}"
            raise ConfigurationError(what, hint=_hint(error)) from None
        raise StoreError(f"PostgreSQL {_place(given)}: {_reason(error)}", hint=_hint(error)) from None
    return connection


def shut(connection: psycopg.Connection[Any]) -> None:
    """End the connection under whoever waits for an answer; the driver's own close would wait for its lock."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=socket.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def reported(error: psycopg.Error) -> StoreError:
    """Return what an operator reads of an error of the server or the driver: what happened, and its detail."""
    lines = [line.strip() for line in str(error).splitlines()[:2] if line.strip()]
    return StoreError(f"PostgreSQL: {mask_text('; '.join(lines))}")


@contextmanager
def ended_after(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """End the connection under whoever waits for an answer for so long."""
    timer = threading.Timer(seconds, shut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check(connection: psycopg.Connection[Any], given: dict[str, Any]) -> None:
    """Raise ConfigurationError for a server that cannot hold a store, StoreError for one that is a standby now."""
    version = connection.info.server_version
    if version < LEAST_SERVER_VERSION:
        raise ConfigurationError(
            f"store.url: {_place(given)} is PostgreSQL {version // 10000}", hint="upgrade it to 13 or later"
        )
    row = connection.execute("SELECT current_setting('server_encoding'), pg_is_in_recovery()").fetchone()
    encoding, is_standby = row or ("?", False)
    if encoding != "UTF8":
        hint = "create the database with ENCODING 'UTF8' TEMPLATE template0"
        raise ConfigurationError(f"store.url: database {connection.info.dbname} has encoding {encoding}", hint=hint)
    if is_standby:
        hint = "promote it, or name the primary or all servers: postgresql://USER@HOST1,HOST2/DATABASE"
        raise StoreError(f"store.url: PostgreSQL {_place(given)} is a standby, which takes no writes", hint=hint)


def _place(given: dict[str, Any]) -> str:
    """Return hosts and ports as they are in the URL."""
    hosts = str(given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST", "local socket")).split(",")
    ports = str(given.get("port") or os.environ.get("PGPORT", "5432")).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return ", ".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))


def _database(given: dict[str, Any]) -> str:
    """Return the name of the database, as libpq chooses it."""
    return str(given.get("dbname") or os.environ.get("PGDATABASE") or given.get("user") or os.environ.get("PGUSER", ""))


def described_place(url: str) -> str:
    """Return which database on which server a URL names, for people. Raises ConfigurationError for none."""
    given = parameters_of(url)
    return f"database {_database(given)} on PostgreSQL {_place(given)}"


def _reason(error: psycopg.Error) -> str:
    """Return the error on one line; that of several hosts names each."""
    # libpq explains on lines that begin with a tab; the hint says what to look at.
    said = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    lines = [line.strip().removeprefix("- ") for line in said]
    return mask_text("; ".join(lines).removeprefix("connection failed: "))


def _hint(error: psycopg.Error) -> str:
    """Return what to do. Servers translate their messages; what libpq itself says is English here."""
    text = str(error)
    if 'database "' in text and "does not exist" in text:
        return "correct the name of the database in store.url, or create it: docs/fleet.md has the statements"
    if "authentication failed" in text or "auth failed" in text or "no such user" in text or "role " in text:
        return "correct the user in store.url, or the password: PGPASSWORD, a passfile, or the file with the URL"
    if "no password supplied" in text:
        return "set PGPASSWORD, or a passfile (~/.pgpass, or passfile= in store.url)"
    if "certificate" in text or "SSL" in text:
        return "store.url: check sslmode, sslrootcert, and the server's certificate"
    return "check that the server runs and is reached from here; store.url: user, password and database"
