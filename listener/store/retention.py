"""
Retention: what bounds each table, and the removal, in slices, of rows that are of no more use.

:data:`BOUNDS` names every table; a test compares it with the schema, and the reference page of the state file is
written from it. No slice holds the writer for more than some milliseconds. What protects data stays however old it is:
needs, attempts whose outcome is not settled and those sent around the same time, and what the current quota day spent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from listener.refresh import AttemptState, RefreshKind
from listener.store.attempts import presume_spent
from listener.store.bulk import delete_rows
from listener.store.connection import Connection
from listener.store.filtering import MESSAGE_SECONDS, MOST_MESSAGES, MOST_SUPPRESSED, TOKEN_SECONDS
from listener.store.groups import Group, own_groups, update_groups
from listener.store.index import prefix_end, remove_pending
from listener.store.letters import MAX_BODIES, MAX_BODIES_BYTES, MAX_LETTERS
from listener.store.names import Names

__all__ = [
    "BOUNDS",
    "FIRST_TOMBSTONE",
    "Bound",
    "Configured",
    "TombstoneKey",
    "end_directory_attempts",
    "remove_empty",
    "remove_old",
    "remove_old_tombstones",
    "retire",
    "unneeded_directory_attempts",
]


TOMBSTONE_SECONDS: Final = 24 * 3600.0
"""How long a deleted key is remembered: longer than any scan runs."""
UNSETTLED_SECONDS: Final = 24 * 3600.0
NEWEST_WINDOWS: Final = 40
"""
Windows of an allowance that are never removed: 30 days of a rolling window, and some. A clock that was wrong for a
while, and a target that the configuration does not name for a while, must not make what was spent unspent.
"""
"""Attempts that ended so long before the oldest unsettled one was sent are no longer compared with it."""
_DAY: Final = 24 * 3600.0


TombstoneKey = tuple[int, bytes, int]
"""Root, key, and whether everything below it is meant."""
FIRST_TOMBSTONE: Final[TombstoneKey] = (-1, b"", -1)
"""Before every tombstone."""


class Bound(NamedTuple):
    """What keeps a table small; sentences for people."""

    most: str
    """How many rows there may be."""
    removed: str
    """When a row is removed."""


_KEPT: Final = "`store.keep_days`"
_RETIRED: Final = f"{_KEPT} after the configuration last named it"
_SETTLED: Final = f"{_KEPT} after it ended"

BOUNDS: Final[Mapping[str, Bound]] = {
    "account": Bound("one for each account", _RETIRED),
    "attempt_group": Bound("one for each attempt", "with the last of its attempts"),
    "attempt_item": Bound(
        f"the quota of {_KEPT}, and what is in flight",
        f"{_SETTLED}; never while its outcome is open, or that of a request sent up to a day after it ended. One that"
        f" stays unconfirmed ends once it covers no need, a directory after {_KEPT} at the earliest",
    ),
    "audit": Bound(f"the manual actions of {_KEPT}", f"after {_KEPT}"),
    "backfill": Bound(f"the listings of {_KEPT}", f"{_KEPT} after its last progress"),
    "control": Bound("one for each kind, target and prefix that was ordered", "when its time is over, or by order"),
    "dead_letter": Bound(
        f"{MAX_LETTERS:,}, {MAX_BODIES:,} of them with a body, all bodies {MAX_BODIES_BYTES >> 20} MiB",
        "by a person; beyond the bound the oldest of whichever source has most",
    ),
    "directory": Bound("the directories of stale URLs", "within an hour after its last need was settled"),
    "dropped": Bound("two for each source", f"{_KEPT} after the last drop"),
    "ledger": Bound(
        f"one for each account, allowance and window of {_KEPT}, or of the newest {NEWEST_WINDOWS} windows",
        f"after {_KEPT}, but the newest {NEWEST_WINDOWS} of an allowance stay; never while units are reserved, nor"
        " while it counts: that of an allowance whose units never come back stays",
    ),
    "message": Bound(f"{MOST_MESSAGES:,}", f"after {MESSAGE_SECONDS / _DAY:.0f} days: queues redeliver for 14 at most"),
    "meta": Bound("one", "never"),
    "need": Bound("the stale URLs, at most four for each", "when it is settled or cancelled; never because of its age"),
    "object": Bound("the objects of the configured storages", "when the object is deleted, or with its storage"),
    "order_token": Bound(
        f"the keys with events of the last {TOKEN_SECONDS / _DAY:.0f} days",
        f"{TOKEN_SECONDS / _DAY:.0f} days after its last event: queues redeliver for 14 at most",
    ),
    "pending_delete": Bound("the directories deleted within an hour", "within an hour, after the rows below it"),
    "root": Bound("one for each storage", f"{_RETIRED}, after everything in it"),
    "source": Bound("one for each source", _RETIRED),
    "suppressed": Bound(f"{MOST_SUPPRESSED:,}", "beyond the bound the oldest"),
    "target": Bound("one for each target", "once the configuration and no row name it"),
    "tombstone": Bound(
        f"the keys deleted within {TOMBSTONE_SECONDS / 3600:.0f} hours",
        f"after {TOMBSTONE_SECONDS / 3600:.0f} hours: longer than any scan runs",
    ),
    "tree": Bound("the directories that hold objects", "within an hour after its last object"),
}
"""What bounds each table of the schema."""

_ENDED: Final = "active = 0 AND finished_at < :settled_before"
_NEWER = (
    "(SELECT count(*) FROM ledger AS newer WHERE newer.account = ledger.account AND newer.kind = ledger.kind"
    " AND newer.window_start > ledger.window_start)"
)
_OLD = (
    ("attempt_item", ("id",), f"group_id IN (SELECT id FROM attempt_group WHERE {_ENDED} LIMIT :limit)"),
    (
        "attempt_group",
        ("id",),
        f"{_ENDED} AND NOT EXISTS (SELECT 1 FROM attempt_item WHERE group_id = attempt_group.id)",
    ),
    (
        "ledger",
        ("account", "kind", "window_start"),
        f"window_start > 0 AND window_start < :counted AND held = 0 AND {_NEWER} >= {NEWEST_WINDOWS}",
    ),
    ("backfill", ("id",), "updated_at < :counted"),
    ("audit", ("id",), "at < :before"),
    ("control", ("kind", "target", "prefix"), "until <= :now"),
    ("dropped", ("source", "kind"), "last_at < :before"),
    ("order_token", ("root", "key"), "at < :token_before"),
    # Numbers and times grow together: what is old is among the first rows.
    ("message", ("number",), "number <= (SELECT min(number) FROM message) + :limit AND at < :message_before"),
)
"""Of each table the columns of its key, and which rows are old; tombstones are in no order of their age."""
_EMPTY = (
    """DELETE FROM directory WHERE id > :after AND id <= :to AND ready = 0
       AND NOT EXISTS (SELECT 1 FROM need WHERE need.directory = directory.id)""",
    """DELETE FROM tree WHERE id > :after AND id <= :to AND objects = 0
       AND NOT EXISTS (SELECT 1 FROM object WHERE object.tree = tree.id)""",
)


def remove_old(connection: Connection, *, before: float, counted: float, now: float, limit: int) -> bool:
    """
    Remove one slice of what is older than ``before`` or of no more use; return whether to go on.

    What was spent since ``counted``, and on what, stays: the windows since then are not over.
    """
    if remove_pending(connection, limit) or _end_file_attempts(connection, now=now, limit=limit):
        return True
    values = {
        "before": before,
        "counted": counted,
        "settled_before": min(counted, _oldest_unsettled(connection) - UNSETTLED_SECONDS),
        "token_before": now - TOKEN_SECONDS,
        "message_before": now - MESSAGE_SECONDS,
        "now": now,
    }
    left = limit
    for table, key, is_old in _OLD:
        query = f"SELECT {', '.join(key)} FROM {table} WHERE {is_old} LIMIT :limit"
        left -= delete_rows(connection, table, key, connection.execute(query, {**values, "limit": left}).fetchall())
    return left <= 0


def remove_old_tombstones(
    connection: Connection, *, after: TombstoneKey, now: float, limit: int
) -> TombstoneKey | None:
    """Remove what is old of the next ``limit`` tombstones; return where to go on, ``None`` at the end."""
    rows = connection.execute(
        "SELECT root, key, below, at FROM tombstone WHERE (root, key, below) > (?, ?, ?)"
        " ORDER BY root, key, below LIMIT ?",
        (*after, limit),
    ).fetchall()
    old = [row[:3] for row in rows if row[3] < now - TOMBSTONE_SECONDS]
    delete_rows(connection, "tombstone", ("root", "key", "below"), old)
    return rows[-1][:3] if len(rows) == limit else None


def _end_file_attempts(connection: Connection, *, now: float, limit: int) -> bool:
    """End unconfirmed attempts whose need was changed, settled or discarded since; return whether to go on."""
    rows = connection.execute(
        "SELECT id FROM attempt WHERE active = 1 AND state = 'unconfirmed' AND kind <> 'directory'"
        " AND NOT EXISTS (SELECT 1 FROM need WHERE need.attempt = attempt.id) LIMIT ?",
        (limit,),
    ).fetchall()
    _end(connection, own_groups(connection, [row[0] for row in rows]), now)
    return len(rows) >= limit


def _end(connection: Connection, groups: Sequence[Group], now: float) -> None:
    update_groups(connection, groups, "active = 0, finished_at = ?", (now,))


def _oldest_unsettled(connection: Connection) -> float:
    """Return when the oldest request with an unknown outcome was sent, infinity where none has one."""
    row = connection.execute(
        "SELECT min(sent_at) FROM attempt_group WHERE active = 1 AND state IN ('sending', 'unknown')"
    ).fetchone()
    return math.inf if row[0] is None else float(row[0])


def unneeded_directory_attempts(connection: Connection, *, before: float, limit: int) -> list[int]:
    """
    Return up to ``limit`` unconfirmed directory attempts from before then that need not be kept.

    Such a one covers no need, or none that a later one does not cover, too. That remains so, since what is recorded
    later has a higher sequence: it may be read apart from the transaction that ends them.
    """
    rows = connection.execute(
        "SELECT id, target, url, watermark, force FROM attempt WHERE active = 1"
        f" AND state = '{AttemptState.UNCONFIRMED.value}' AND kind = '{RefreshKind.DIRECTORY.value}'"
        " AND coalesce(accepted_at, sent_at, created_at) < ? ORDER BY id",
        (before,),
    ).fetchall()
    found: list[int] = []
    for id_, target, url, watermark, force in rows:
        values = {"id": id_, "target": target, "url": url, "end": prefix_end(url), "mark": watermark, "force": force}
        if len(found) < limit and (_is_superseded(connection, values) or not _covers_any(connection, values)):
            found.append(id_)
    return found


def _is_superseded(connection: Connection, values: Mapping[str, object]) -> bool:
    """Return whether a later unconfirmed attempt covers whatever this one does."""
    return bool(
        connection.execute(
            f"SELECT 1 FROM attempt WHERE active = 1 AND state = '{AttemptState.UNCONFIRMED.value}'"
            f" AND kind = '{RefreshKind.DIRECTORY.value}' AND target = :target AND id > :id AND watermark >= :mark"
            " AND force >= :force AND url = substr(:url, 1, length(url)) LIMIT 1",
            values,
        ).fetchone()
    )


def _covers_any(connection: Connection, values: Mapping[str, object]) -> bool:
    """Return whether a need is left below an attempt that is not newer than its watermark."""
    return bool(
        connection.execute(
            "SELECT 1 FROM directory d JOIN need n ON n.directory = d.id WHERE d.target = :target"
            " AND d.url >= :url AND d.url < :end AND n.sequence <= :mark LIMIT 1",
            values,
        ).fetchone()
    )


def end_directory_attempts(connection: Connection, ids: Sequence[int], *, now: float) -> None:
    """End the attempts that :func:`unneeded_directory_attempts` found, unless their tasks ended meanwhile."""
    _end(connection, own_groups(connection, ids, f"active = 1 AND state = '{AttemptState.UNCONFIRMED.value}'"), now)


class Configured(NamedTuple):
    """The names that the configuration has."""

    sources: frozenset[str]
    accounts: frozenset[str]
    roots: frozenset[str]
    """Of storages, as changes name them."""
    targets: frozenset[str]


def retire(
    connection: Connection, *, names: Names, configured: Configured, before: float, now: float, limit: int
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
        if retire_root(connection, root, limit):
            return True
        names.clear()  # its id may be gone
    if _end_attempts(connection, targets, before=before, now=now, limit=limit):
        return True
    if connection.execute(_UNUSED_TARGETS, (targets,)).rowcount:
        names.clear()
    return False


_UNUSED_TARGETS = """
DELETE FROM target WHERE name NOT IN (SELECT value FROM json_each(?))
  AND NOT EXISTS (SELECT 1 FROM directory WHERE directory.target = target.id)
  AND id NOT IN (SELECT target FROM attempt_group)
"""


def _end_attempts(connection: Connection, targets: str, *, before: float, now: float, limit: int) -> bool:
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


_OF_ROOT = {
    "tombstone": ("root", "key", "below"),
    "order_token": ("root", "key"),
    "pending_delete": ("root", "prefix"),
}


def retire_root(connection: Connection, root: int, limit: int) -> bool:
    """Remove one slice of a storage's rows, at last its name; return whether to go on."""
    has_objects = "SELECT 1 FROM tree JOIN object ON object.tree = tree.id WHERE root = ? LIMIT 1"
    if connection.execute(has_objects, (root,)).fetchone():
        connection.execute(
            "INSERT INTO pending_delete (root, prefix, after, sequence)"
            " SELECT ?, x'', x'', sequence FROM meta WHERE true"
            " ON CONFLICT (root, prefix) DO UPDATE SET after = x'', sequence = excluded.sequence",
            (root,),
        )
        return remove_pending(connection, limit)
    removed = 0
    for table, key in _OF_ROOT.items():
        query = f"SELECT {', '.join(key)} FROM {table} WHERE root = ? LIMIT ?"
        removed += delete_rows(connection, table, key, connection.execute(query, (root, limit)).fetchall())
    if removed:
        return True
    connection.execute("DELETE FROM root WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM tree WHERE root = ?1)", (root,))
    return False


def remove_empty(connection: Connection, names: Names, *, after: int, limit: int) -> int | None:
    """Remove the empty directories among the next ``limit`` ids; return where to go on, ``None`` at the end."""
    last = connection.execute("SELECT max((SELECT max(id) FROM directory), (SELECT max(id) FROM tree))").fetchone()[0]
    if sum(connection.execute(statement, {"after": after, "to": after + limit}).rowcount for statement in _EMPTY):
        names.clear()
    return after + limit if last is not None and after + limit < last else None
