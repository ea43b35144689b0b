"""
Maintain the state file: back up, check, compact; and remove, in slices, what is of no more use.

Every table has a bound or a time after which :func:`remove_old` removes a row. What is kept of names that the
configuration has no longer is removed by :func:`retire`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from listener.clock import window_start
from listener.errors import StoreError
from listener.files import create_file
from listener.refresh import AttemptState, NeedState
from listener.store.attempts import presume_spent
from listener.store.database import INCREMENTAL, STORE_ERRORS, open_reading, prepare, snapshot, translate
from listener.store.filtering import MESSAGE_SECONDS, TOKEN_SECONDS
from listener.store.index import Names, remove_pending
from listener.store.ownership import OwnerLock

__all__ = [
    "Compacted",
    "Configured",
    "backup",
    "check",
    "compact",
    "give_back",
    "remove_empty",
    "remove_old",
    "retire",
]


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
    """DELETE FROM order_token WHERE (root, key) IN
       (SELECT root, key FROM order_token WHERE at < :token_before LIMIT :limit)""",
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
            "token_before": now - TOKEN_SECONDS,
            "message_before": now - MESSAGE_SECONDS,
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
    for table in ("tombstone", "order_token", "pending_delete"):
        key = {"tombstone": "key, below", "order_token": "key", "pending_delete": "prefix"}[table]
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


BACKUP_PAGES: Final = 4_096
"""Pages of one step of a copy: 16 MiB, between which the daemon's commits go on."""
FINDINGS: Final = 20
"""At most so many inconsistent rows are reported of each kind."""

_DISAGREEMENTS: Final = {
    "directories whose number of due needs is wrong": f"""
        SELECT url FROM directory d WHERE
          ready <> (SELECT count(*) FROM need WHERE directory = d.id AND state = {NeedState.READY:d})
          OR last_sequence < (SELECT max(sequence) FROM need WHERE directory = d.id AND state = {NeedState.READY:d})""",
    "directories of the index whose number of objects is wrong": """
        SELECT path FROM tree WHERE objects <> (SELECT count(*) FROM object WHERE tree = tree.id)""",
    "needs of a directory that is not there": """
        SELECT name FROM need WHERE directory NOT IN (SELECT id FROM directory)""",
    "needs of an attempt that is over": """
        SELECT name FROM need WHERE attempt IS NOT NULL AND attempt NOT IN (SELECT id FROM attempt WHERE active = 1)""",
    "ledger entries that hold what no attempt holds": """
        SELECT account || ' ' || kind FROM ledger l WHERE held <> (SELECT count(*) FROM attempt a
          WHERE a.account = l.account AND a.kind = l.kind AND a.window_start = l.window_start AND a.held = 1)""",
}


class Compacted(NamedTuple):
    """What compacting came to."""

    before_bytes: int
    after_bytes: int


def backup(path: Path, to: Path) -> int:
    """
    Copy a state file, as it is at one instant, while others go on with it; return the copy's size in bytes.

    Raises:
        StoreError: there is something at ``to`` already, or it cannot be written; nothing is left half done there.
    """
    if to.exists():
        raise StoreError(f"{to}: is there already", hint="name a file that does not exist yet")
    draft = to.with_name(to.name + ".part")
    try:
        draft.unlink(missing_ok=True)
        os.close(create_file(draft))
        with closing(open_reading(path)) as source, closing(sqlite3.connect(draft)) as copy:
            source.backup(copy, pages=BACKUP_PAGES)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log
        _flush(draft)
        draft.rename(to)
        _flush(to.parent)
    except (OSError, *STORE_ERRORS) as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"{to}: cannot be written: {error.strerror}", hint="choose another place") from error
        raise translate(error, to) from error
    return to.stat().st_size


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(path: Path) -> list[str]:
    """
    Return what is wrong with a state file, a sentence each; nothing is changed, and others may go on with it.

    Raises:
        StoreError: it cannot be read at all.
    """
    with closing(open_reading(path)) as connection:
        try:
            with snapshot(connection):
                found = [row[0] for row in connection.execute(f"PRAGMA integrity_check({FINDINGS})")]
                found = [] if found == ["ok"] else found
                return found + [said for what, query in _DISAGREEMENTS.items() for said in _of(connection, what, query)]
        except STORE_ERRORS as error:
            raise translate(error, path) from error


def _of(connection: sqlite3.Connection, what: str, query: str) -> list[str]:
    rows = [row[0] for row in connection.execute(f"{query} LIMIT {FINDINGS}")]
    names = [row.decode("utf-8", "backslashreplace") if isinstance(row, bytes) else str(row) for row in rows]
    return [f"{what}: {', '.join(names)}"] if names else []


def compact(path: Path) -> Compacted:
    """
    Rewrite a state file without the space of removed rows.

    Raises:
        StoreBusy: a daemon owns it; it would wait for as long as this takes.
        StoreError: the disk has no room for the copy that this needs.
    """
    lock = OwnerLock(path)
    lock.acquire()
    try:
        before = path.stat().st_size
        with closing(prepare(path)) as connection:
            try:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except STORE_ERRORS as error:
                raise translate(error, path) from error
        return Compacted(before, path.stat().st_size)
    finally:
        lock.release()
