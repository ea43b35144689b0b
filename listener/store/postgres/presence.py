"""What a command finds out about a database before it opens the store in it: nothing is made or changed."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from psycopg import Error, sql

from listener.store.owner import Owner
from listener.store.postgres.address import connect, ended_after, reported
from listener.store.postgres.migrations import SCHEMA

__all__ = ["described", "exists", "owner_of"]

ASK_SECONDS = 5.0


def exists(url: str) -> bool:
    """Return whether the schema of a store is there. Raises ConfigurationError and StoreError as ``connect`` does."""
    return bool(_asked(url, "SELECT to_regclass('{schema}.schema_version') IS NOT NULL"))


def owner_of(url: str) -> Owner:
    """Return whether any instance is alive, by the heartbeats."""
    if not _asked(url, "SELECT to_regclass('{schema}.instance') IS NOT NULL"):
        return Owner(False)
    return Owner(_asked(url, "SELECT EXISTS (SELECT FROM {schema}.instance WHERE until > clock_timestamp())"))


def described(url: str) -> str:
    """Return which server and database it is, and whether a store is there."""
    there = f"schema {SCHEMA}" if exists(url) else f"schema {SCHEMA} does not exist yet and can be made"
    version, database = _asked(url, "SELECT ARRAY [current_setting('server_version'), current_database()]")
    return f"PostgreSQL {version}, database {database}, {there}"


def _asked(url: str, question: str) -> Any:
    try:
        with (
            closing(connect(url, instance="command", prepared=False)) as connection,
            ended_after(connection, ASK_SECONDS),
        ):
            text = question.replace("{schema}", sql.Identifier(SCHEMA).as_string(None))
            return (connection.execute(text.encode()).fetchone() or (None,))[0]
    except Error as error:
        raise reported(error) from error
