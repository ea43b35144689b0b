"""Lease tables on a real server, in real time or in virtual time: there ``clock_timestamp()`` is the test's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from listener.store.postgres.migrations import prepare

SCHEMA = "fleet"
VIRTUAL_CLOCK = """
CREATE SCHEMA virtual;
CREATE TABLE virtual.time (now timestamptz NOT NULL);
INSERT INTO virtual.time VALUES ('2026-01-01 00:00:00+00');
CREATE FUNCTION virtual.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT now FROM virtual.time';
"""

Connection = psycopg.Connection[tuple[Any, ...]]


def create_tables(connection: Connection) -> None:
    """Make the schema with the tables of leases."""
    prepare(connection, SCHEMA)


@contextmanager
def connections(url: str, count: int, *, is_virtual: bool = False) -> Iterator[list[Connection]]:
    """Open connections, each of whose statements is a transaction of its own, and close them."""
    opened: list[Connection] = []
    try:
        for _ in range(count):
            opened.append(connection := psycopg.connect(url, autocommit=True))
            if is_virtual:
                connection.execute("SET search_path = virtual, pg_catalog")
        yield opened
    finally:
        for connection in opened:
            connection.close()


def holders(connection: Connection) -> Mapping[str, tuple[str | None, int]]:
    """Return who holds each lease, in which term."""
    rows = connection.execute(sql.SQL("SELECT name, instance, term FROM {}.lease").format(sql.Identifier(SCHEMA)))
    return {name: (instance, term) for name, instance, term in rows}
