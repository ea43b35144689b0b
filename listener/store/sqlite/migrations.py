"""
The format of the state file: its version, and the steps that bring an older file up to it.

A new file is made from ``schema.sql``. An older one takes each step from its version on, all in one transaction, so
that a crash leaves it as it was. The version is in SQLite's ``user_version``.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.resources import files

from listener.store.index import bounded_text
from listener.store.letters import bounded_subject

__all__ = [
    "APPLICATION_ID",
    "FILES_EVICT",
    "MIGRATIONS",
    "VERSION",
    "pragma",
    "schema",
    "statements",
    "tables",
    "upgrade",
]


APPLICATION_ID = 0x43444E4C
"""``CDNL`` in the file's header: distinguishes our file from any other SQLite file."""
VERSION = 16
REWRITTEN_PAGES = 16_384
"""A file up to this size (64 MiB) is rewritten once when it is converted, so that its space can be given back."""


def _add(*names: str) -> Callable[[sqlite3.Connection], None]:
    """Return the step that makes these tables and indexes as the schema has them."""

    def step(connection: sqlite3.Connection) -> None:
        for statement in statements(schema()):
            if statement.split()[2] in names:
                connection.execute(statement)

    return step


def _mark_backfills(connection: sqlite3.Connection) -> None:
    for table in ("need", "attempt"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")
    _add("need_backfill")(connection)


def _mark_births_and_access(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE need ADD COLUMN birth INTEGER")
    connection.execute("ALTER TABLE object ADD COLUMN access INTEGER")


def _bound_letters(connection: sqlite3.Connection) -> None:
    """Bound what was kept of long subjects and reasons, and find each by a digest of the whole."""
    connection.create_function("digest_of", 1, lambda raw: hashlib.sha256(raw).digest(), deterministic=True)
    connection.create_function("subject_of", 1, bounded_subject, deterministic=True)
    connection.create_function("text_of", 1, bounded_text, deterministic=True)
    connection.execute("ALTER TABLE dead_letter RENAME TO old_letter")
    _add("dead_letter", "dropped")(connection)
    connection.execute(
        "INSERT INTO dead_letter (id, at, source, kind, digest, subject, reason, body)"
        " SELECT id, at, source, kind, digest_of(subject), subject_of(subject), text_of(reason), body FROM old_letter"
    )
    connection.execute("DROP TABLE old_letter")
    _add("dead_letter_kind", "dead_letter_source", "dead_letter_body")(connection)
    connection.execute("DROP INDEX need_aside")
    _add("need_aside")(connection)
    _add("account")(connection)


def _date_troubles(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE source ADD COLUMN trouble_since REAL")


def _date_roots(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE root ADD COLUMN used_at REAL")


def _add_spenders(connection: sqlite3.Connection) -> None:
    """Make the table again: an earlier step made it as the schema has it, and the daemon writes its rows itself."""
    connection.execute("DROP TABLE account")
    _add("account")(connection)


_SHARE = "share of "


def _book_shares_in_ledger(connection: sqlite3.Connection) -> None:
    """Move the booked shares of backfills from made-up rows of progress to the ledger, and rename two tables."""
    connection.execute("ALTER TABLE gone RENAME TO tombstone")
    connection.execute("ALTER TABLE doomed RENAME TO pending_delete")
    for table in ("need", "attempt"):
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if "backfill" in columns:  # a step from before version 4 makes it under its new name
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN backfill TO priority")
    connection.execute("DROP INDEX need_backfill")
    _add("need_backfill")(connection)
    connection.execute(
        "ALTER TABLE ledger ADD COLUMN share_booked INTEGER NOT NULL DEFAULT 0 CHECK (share_booked >= 0)"
    )
    rows = connection.execute("SELECT id, listed FROM backfill WHERE id LIKE ?", (f"{_SHARE}%",)).fetchall()
    for row_id, booked in rows:
        account, kind, window = row_id.removeprefix(_SHARE).rsplit(", ", 2)
        connection.execute(
            "INSERT INTO ledger (account, kind, window_start, quota, share_booked) VALUES (?1, ?2, ?3, 0, ?4)"
            " ON CONFLICT DO UPDATE SET share_booked = ?4",
            (account, kind, int(window), booked),
        )
    connection.execute("DELETE FROM backfill WHERE id LIKE ?", (f"{_SHARE}%",))


def _rename_tokens(connection: sqlite3.Connection) -> None:
    """Give the order tokens and their columns standard names; a file from before version 3 has them already."""
    if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'heard'").fetchone() is None:
        return
    connection.execute("DROP INDEX heard_at")
    connection.execute("ALTER TABLE heard RENAME TO order_token")
    connection.execute("ALTER TABLE order_token RENAME COLUMN told TO covered")
    connection.execute("ALTER TABLE order_token RENAME COLUMN seen TO newest")
    _add("order_token_at")(connection)


_GROUPED = (
    "target, kind, force, account, window_start, watermark, created_at, state, held, active, task_id, sent_at,"
    " accepted_at, finished_at, next_look_at, looks, error"
)


def _group_attempts(connection: sqlite3.Connection) -> None:
    """Move what attempts have in common to rows that they share; their ids stay, and none is given out again."""
    connection.execute("ALTER TABLE attempt RENAME TO old_attempt")
    for index in ("attempt_active", "attempt_flying", "attempt_url", "attempt_history"):
        connection.execute(f"DROP INDEX {index}")
    _add("attempt_group", "attempt_item")(connection)
    group = f"dense_rank() OVER (ORDER BY {_GROUPED})"
    connection.execute(
        f"INSERT INTO attempt_group (id, {_GROUPED}) SELECT DISTINCT {group}, {_GROUPED} FROM old_attempt"
    )
    kept = "url, tries, stale_since, covered, urgent, priority, reason"
    connection.execute(
        f"INSERT INTO attempt_item (id, group_id, {kept}) SELECT id, {group}, {kept} FROM old_attempt ORDER BY id"
    )
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'attempt_item'")
    connection.execute("UPDATE sqlite_sequence SET name = 'attempt_item' WHERE name = 'old_attempt'")
    connection.execute("DROP TABLE old_attempt")
    _add(
        *("attempt_group_due", "attempt_group_flying", "attempt_group_history"),
        *("attempt_item_group", "attempt_item_url", "attempt"),
    )(connection)
    connection.execute("DROP TRIGGER need_ready_update")
    _add("need_ready_update")(connection)


FILES_EVICT = "UPDATE attempt_group SET force = 1 WHERE kind = 'file' AND active = 1"


def _add_tokens(connection: sqlite3.Connection) -> None:
    """Add the token of a request. A file refresh always evicted until now, which its attempt did not say."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(attempt_group)")}
    if "token" not in columns:  # the step before makes the table as it is now
        connection.execute("ALTER TABLE attempt_group ADD COLUMN token TEXT NOT NULL DEFAULT ''")
    connection.execute(FILES_EVICT)


def _add_charges(connection: sqlite3.Connection) -> None:
    """Add what attempts take of which allowance; until now each took a unit of its kind, as its columns say."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(attempt_group)")}
    if "charges" not in columns:  # the step of version 13 makes the table as it is now
        connection.execute("ALTER TABLE attempt_group ADD COLUMN charges TEXT")
    connection.execute("DROP INDEX IF EXISTS attempt_group_window")
    _add("attempt_group_created")(connection)


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {
    1: _add("control", "audit"),
    2: _add("order_token", "order_token_at"),
    3: _mark_backfills,
    4: _mark_births_and_access,
    5: _bound_letters,
    6: _date_troubles,
    7: _date_roots,
    8: _add("suppressed"),
    9: _add_spenders,
    10: _add("message"),
    11: _book_shares_in_ledger,
    12: _rename_tokens,
    13: _group_attempts,
    14: _add_tokens,
    15: _add_charges,
}
"""Version → the step that brings it one version on, inside one transaction."""


def upgrade(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file, or bring an older one up to this version."""
    if pragma(connection, "user_version") == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_before = pragma(connection, "user_version")
        if not version:
            for statement in statements(schema()):
                connection.execute(statement)
            connection.execute("INSERT INTO meta (id, sequence, created_at) VALUES (1, 0, ?)", (time.time(),))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            version = VERSION
        for step in range(version, VERSION):
            MIGRATIONS[step](connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    if version_before and pragma(connection, "page_count") <= REWRITTEN_PAGES:
        with suppress(sqlite3.OperationalError):  # another process works on it: the next compact does it
            connection.execute("VACUUM")


def schema() -> str:
    """Return the statements that make the tables and indexes of this version."""
    return (files("listener.store.sqlite") / "schema.sql").read_text("utf-8")


def tables() -> tuple[str, ...]:
    """Return the tables of this version, what others refer to first."""
    return tuple(re.findall(r"^CREATE TABLE (\w+)", schema(), re.MULTILINE))


def statements(script: str) -> list[str]:
    """Split a script at the semicolons that end statements (``executescript`` would commit by itself)."""
    statements, pending = [], ""
    for line in script.splitlines():
        pending += line.partition("--")[0].rstrip() + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that SQLite keeps of the file."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
