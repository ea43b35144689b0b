"""What a command finds out about a database before it opens the store in it: nothing is made or changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from listener.errors import StoreError
from listener.store.owner import Owner
from listener.store.postgres.address import connect, described_place, ended_after, reported
from listener.store.postgres.migrations import SCHEMA, check_usable

__all__ = ["absent", "described", "exists", "owner_of"]

ASK_SECONDS = 5.0
_TABLES = "FROM pg_class WHERE relnamespace = to_regnamespace('{schema}') AND relkind = 'r'"
"""By the catalogue: ``to_regclass`` fails where the role may not use the schema."""
_LACKING = (
    f"SELECT string_agg(name, ', ') FROM (SELECT relname AS name {_TABLES} AND NOT (has_table_privilege(oid, 'SELECT')"
    " AND has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE')"
    " AND has_table_privilege(oid, 'DELETE')) ORDER BY relname LIMIT 3) AS refused"
)


def exists(url: str) -> bool:
    """Return whether the schema of a store is there. Raises ConfigurationError and StoreError as ``connect`` does."""
    with _connected(url) as connection:
        return _has_table(connection, "schema_version")


def absent(url: str) -> StoreError:
    """Return the error for a database without a store."""
    return StoreError(
        f"store.url: {described_place(url)} has no schema {SCHEMA}: there is no store yet",
        hint="start the daemon first: cdn-listener run; if one runs, it uses another database: correct store.url",
    )


def owner_of(url: str) -> Owner:
    """Return whether any instance is alive, by the heartbeats."""
    with _connected(url) as connection:
        if not _has_table(connection, "instance"):
            return Owner(False)
        living = "SELECT EXISTS (SELECT FROM {schema}.instance WHERE until > clock_timestamp())"
        return Owner(_value(connection, living))


def described(url: str) -> str:
    """
    Return which server and database it is, and whether a store is there.

    Raises:
        StoreUnusable: the store is one that this program must not use.
        StoreError: this role lacks a right that instances need.
    """
    with _connected(url) as connection:
        version, database, role = _value(
            connection, "SELECT ARRAY [current_setting('server_version'), current_database(), current_user]"
        )
        there = f"schema {SCHEMA}"
        if _has_table(connection, "schema_version"):
            _require_tables(connection, role)
            check_usable(connection)
        else:
            _require_creation(connection, database, role)
            there += " does not exist yet and can be made"
    return f"PostgreSQL {version}, database {database}, {there}"


def _require_creation(connection: psycopg.Connection[Any], database: str, role: str) -> None:
    """Raise StoreError where this role cannot make the schema, or the tables in one that was made for it."""
    is_made = _value(connection, "SELECT to_regnamespace('{schema}') IS NOT NULL")
    may_fill = f"SELECT has_schema_privilege('{SCHEMA}', 'USAGE') AND has_schema_privilege('{SCHEMA}', 'CREATE')"
    if is_made and not _value(connection, may_fill):
        raise _refused(role, f"make tables in schema {SCHEMA}", f"ALTER SCHEMA {SCHEMA} OWNER TO {_quoted(role)}")
    if not is_made and not _value(connection, "SELECT has_database_privilege(current_database(), 'CREATE')"):
        grant = f"GRANT CREATE ON DATABASE {_quoted(database)} TO {_quoted(role)}"
        raise _refused(role, f"make schema {SCHEMA} in database {database}", grant)


def _require_tables(connection: psycopg.Connection[Any], role: str) -> None:
    """Raise StoreError where this role cannot read and write the tables."""
    hint = f"use the role that made them, or as a superuser: REASSIGN OWNED BY … TO {_quoted(role)}"
    if not _value(connection, f"SELECT has_schema_privilege('{SCHEMA}', 'USAGE')"):
        raise _refused(role, f"use schema {SCHEMA}", hint)
    if lacking := _value(connection, _LACKING):
        raise _refused(role, f"read and write tables of schema {SCHEMA} ({lacking})", hint)


def _refused(role: str, what: str, hint: str) -> StoreError:
    return StoreError(f"store.url: role {role} has no right to {what}", hint=hint)


def _has_table(connection: psycopg.Connection[Any], name: str) -> bool:
    return bool(_value(connection, f"SELECT EXISTS (SELECT {_TABLES} AND relname = '{name}')"))


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with (
            closing(connect(url, instance="command", prepared=False)) as connection,
            ended_after(connection, ASK_SECONDS),
        ):
            yield connection
    except psycopg.Error as error:
        raise reported(error) from error


def _value(connection: psycopg.Connection[Any], question: str) -> Any:
    text = question.replace("{schema}", _quoted(SCHEMA))
    return (connection.execute(text.encode()).fetchone() or (None,))[0]
