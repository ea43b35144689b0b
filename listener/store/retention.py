"""Removal of what is of no more use, in slices, and the file's free space back to the disk."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from listener.clock import window_start
from listener.refresh import AttemptState
from listener.store.database import INCREMENTAL
from listener.store.index import remove_pending
from listener.store.messages import KEPT_SECONDS
from listener.store.names import Names
from listener.store.order_tokens import TOKEN_SECONDS
from listener.store.settle import presume_spent

__all__ = ["Configured", "give_back", "remove_empty", "remove_old", "retire"]

TOMBSTONE_SECONDS = 24 * 3600.0
"""How long a deleted key is remembered: longer than any scan runs."""

_OLD = (
    """DELETE FROM attempt WHERE id IN
       (SELECT id FROM attempt WHERE active = 0 AND finished_at < :before LIMIT :limit)""",
    """DELETE FROM ledger WHERE (account, kind, window_start) IN
       (SELECT account, kind, window_start FROM ledger WHERE window_start < :before AND held = 0 LIMIT :limit)""",
    """DELETE FROM backfill WHERE id IN (SELECT id FROM backfill WHERE updated_at < :before LIMIT :limit)""",
    """DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < :before LIMIT :limit)""",
    """DELETE FROM control WHERE (kind, target, prefix) IN
       (SELECT kind, target, prefix FROM control WHERE until <= :now LIMIT :limit)""",
    """DELETE FROM dropped WHERE (source, kind) IN
       (SELECT source, kind FROM dropped WHERE last_at < :before LIMIT :limit)""",
    """DELETE FROM tombstone WHERE (root, key, below) IN
       (SELECT root, key, below FROM tombstone WHERE at < :tombstone_before LIMIT :limit)""",
    """DELETE FROM heard WHERE (root, key) IN (SELECT root, key FROM heard WHERE at < :heard_before LIMIT :limit)""",
    """DELETE FROM message WHERE number IN
       (SELECT number FROM message WHERE at < :message_before ORDER BY number LIMIT :limit)""",
)
_EMPTY = (
    """DELETE FROM directory WHERE id > :after AND id <= :to AND ready = 0
       AND NOT EXISTS (SELECT 1 FROM need WHERE need.directory = directory.id)""",
    """DELETE FROM tree WHERE id > :after AND id <= :to AND objects = 0
       AND NOT EXISTS (SELECT 1 FROM object WHERE object.tree = tree.id)""",
)


def remove_old(connection: sqlite3.Connection, *, before: float, now: float, limit: int) -> bool:
    """
    Remove one slice of what is older than ``before`` or of no more use; return whether to go on.

    What the running quota day was spent on is still to be counted, and stays however short the history is.
    """
    if remove_pending(connection, limit):
        return True
    # An unconfirmed file attempt whose need was changed, settled or discarded since covers nothing any more.
    connection.execute(
        "UPDATE attempt SET active = 0, finished_at = :now WHERE active = 1 AND state = 'unconfirmed'"
        " AND kind <> 'directory' AND NOT EXISTS (SELECT 1 FROM need WHERE need.attempt = attempt.id)",
        {"now": now},
    )
    left = limit
    for statement in _OLD:
        values = {
            "before": min(before, window_start(now)),
            "tombstone_before": now - TOMBSTONE_SECONDS,
            "heard_before": now - TOKEN_SECONDS,
            "message_before": now - KEPT_SECONDS,
            "now": now,
            "limit": left,
        }
        left -= connection.execute(statement, values).rowcount
    return left <= 0


class Configured(NamedTuple):
    """The names that the configuration has."""

    sources: frozenset[str]
    accounts: frozenset[str]
    roots: frozenset[str]
    """Of storages, as changes name them."""
    targets: frozenset[str]


def retire(
    connection: sqlite3.Connection, *, names: Names, configured: Configured, before: float, now: float, limit: int
) -> bool:
    """
    Remove one slice of what is kept of names that are configured no longer, and were not since ``before``.

    Of a storage that is its index; a source that returns later begins with a first scan. Needs stay: a URL is stale
    whatever the configuration says. The attempts that cover them for a target without configuration end, since nobody
    follows these: their needs are due again. Return whether to go on.
    """
    sources, accounts, roots, targets = (json.dumps(sorted(each)) for each in configured)
    for table, kept in (("source", sources), ("account", accounts)):
        connection.execute(
            f"DELETE FROM {table} WHERE told_at < ? AND name NOT IN (SELECT value FROM json_each(?))", (before, kept)
        )
    connection.execute(
        "UPDATE root SET used_at = ? WHERE used_at IS NULL OR name IN (SELECT value FROM json_each(?))", (now, roots)
    )
    for (root,) in connection.execute("SELECT id FROM root WHERE used_at < ?", (before,)).fetchall():
        if _retire_root(connection, root, limit):
            return True
        names.clear()  # its id may be gone
    return _end_attempts(connection, targets, before=before, now=now, limit=limit)


def _end_attempts(connection: sqlite3.Connection, targets: str, *, before: float, now: float, limit: int) -> bool:
    """End a slice of the attempts of targets that are configured no longer; return whether to go on."""
    # What was only reserved is refunded, and what was being sent becomes unknown, whenever an owner starts.
    states = (AttemptState.UNKNOWN, AttemptState.ACCEPTED, AttemptState.UNCONFIRMED)
    listed = ", ".join(f"'{state.value}'" for state in states)
    rows = connection.execute(
        f"SELECT id FROM attempt WHERE active = 1 AND state IN ({listed})"
        " AND coalesce(accepted_at, sent_at, created_at) < ? AND target NOT IN"
        " (SELECT id FROM target WHERE name IN (SELECT value FROM json_each(?))) LIMIT ?",
        (before, targets, limit),
    ).fetchall()
    presume_spent(connection, [row[0] for row in rows], now=now, error="its target is not configured any more")
    return len(rows) >= limit


def _retire_root(connection: sqlite3.Connection, root: int, limit: int) -> bool:
    """Remove one slice of a storage's rows, at last its name; return whether to go on."""
    has_objects = "SELECT 1 FROM tree JOIN object ON object.tree = tree.id WHERE root = ? LIMIT 1"
    if connection.execute(has_objects, (root,)).fetchone():
        connection.execute(
            "INSERT OR REPLACE INTO pending_delete (root, prefix, sequence) SELECT ?, x'', sequence FROM meta", (root,)
        )
        return remove_pending(connection, limit)
    removed = 0
    for table in ("tombstone", "heard", "pending_delete"):
        key = {"tombstone": "key, below", "heard": "key", "pending_delete": "prefix"}[table]
        removed += connection.execute(
            f"DELETE FROM {table} WHERE (root, {key}) IN (SELECT root, {key} FROM {table} WHERE root = ? LIMIT ?)",
            (root, limit),
        ).rowcount
    if removed:
        return True
    connection.execute("DELETE FROM root WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM tree WHERE root = ?1)", (root,))
    return False


GIVEN_BACK_PAGES = 256
"""Pages (of 4 KiB) that one commit gives back: a MiB, some milliseconds."""


def give_back(connection: sqlite3.Connection) -> bool:
    """Give a slice of the file's free pages back to the disk; return whether to go on. A twentieth stays for reuse."""
    pages, free, mode = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "auto_vacuum")
    )
    if mode != INCREMENTAL or free <= max(GIVEN_BACK_PAGES, pages // 20):
        return False
    connection.execute(f"PRAGMA incremental_vacuum({GIVEN_BACK_PAGES})").fetchall()
    return True


def remove_empty(connection: sqlite3.Connection, names: Names, *, after: int, limit: int) -> int | None:
    """Remove the empty directories among the next ``limit`` ids; return where to go on, ``None`` at the end."""
    last = connection.execute("SELECT max((SELECT max(id) FROM directory), (SELECT max(id) FROM tree))").fetchone()[0]
    if sum(connection.execute(statement, {"after": after, "to": after + limit}).rowcount for statement in _EMPTY):
        names.clear()
    return after + limit if last is not None and after + limit < last else None
