"""Check a PostgreSQL store: that its rows agree, and that the server, or a pool before it, does what is relied on."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any, Final

import psycopg

from listener.errors import ConfigurationError
from listener.store.agreement import disagreements
from listener.store.postgres.address import connect, ended_after, reported
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.migrations import SCHEMA, prepare
from listener.store.postgres.presence import absent, exists
from listener.store.postgres.snapshots import old_snapshots

__all__ = ["backup_advice", "check", "compact_advice"]

CHECK_SECONDS: Final = 600.0
"""Counting every row of a large store takes minutes; a server that does not answer ends it."""
SESSIONS: Final = 3
TRANSACTIONS: Final = 20
_INSTANCE: Final = "store check"


def check(url: str, *, prepared: bool) -> list[str]:
    """
    Return what is wrong with the store, a sentence each; others may go on with it.

    Raises:
        ConfigurationError: the URL is none, or the server cannot hold a store.
        StoreUnusable: the schema is of a newer version, or its numbers are not handed out in order.
        StoreError: the server was not reached, or there is no store.
    """
    if not exists(url):
        raise absent(url)
    connection = PostgresConnection(url, schema=SCHEMA, instance=_INSTANCE, prepared=False)
    try:
        with closing(connection), ended_after(connection.raw, CHECK_SECONDS):
            prepare(connection.raw)
            return [*_of_the_server(connection.raw), *_of_prepared(url, prepared=prepared), *_of_rows(connection)]
    except psycopg.Error as error:
        raise reported(error) from error
    finally:
        connection.end()


def _of_rows(connection: PostgresConnection) -> list[str]:
    connection.raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    found = disagreements(connection)
    connection.rollback()
    return found


def _of_the_server(raw: psycopg.Connection[Any]) -> list[str]:
    found = []
    for name, sound in (("fsync", "on"), ("full_page_writes", "on")):
        row = psycopg.Cursor(raw).execute("SELECT current_setting(%s)", (name,)).fetchone()
        if row and row[0] != sound:
            found.append(f"the server runs with {name} = {row[0]}: a crash of its machine may damage all")
    words = "{} keeps old rows of the database, so that what changes often becomes slow; end it: {}"
    return found + [words.format(one.holder, one.remedy) for one in old_snapshots(raw)]


def _of_prepared(url: str, *, prepared: bool) -> list[str]:
    """Try prepared statements as instances use them, on several sessions in turn: a pool may mix these up."""
    if not prepared:
        return []
    with ExitStack() as opened:
        sessions = [opened.enter_context(connect(url, instance=_INSTANCE)) for _ in range(SESSIONS)]
        try:
            for number in range(TRANSACTIONS):
                for session in sessions:
                    with session.transaction():
                        session.execute("SELECT %s::bigint", (number,), prepare=True)
        except psycopg.Error as error:
            reason = str(error).partition("\n")[0]
            return [f"prepared statements fail, as in some pools ({reason}): set store.prepared = false"]
    return []


def backup_advice() -> ConfigurationError:
    """Return the error that names what makes a backup."""
    return ConfigurationError(
        "store.url: PostgreSQL makes its own backups",
        hint=f"pg_dump --format=custom --schema={SCHEMA} --file=FILE DATABASE, or those of the whole server (PITR)",
    )


def compact_advice() -> ConfigurationError:
    """Return the error that names what gives space back."""
    return ConfigurationError(
        "store.url: autovacuum keeps a PostgreSQL store small",
        hint=f"to give space back to the disk: VACUUM (FULL) {SCHEMA}.need, which locks it meanwhile, or pg_repack",
    )
