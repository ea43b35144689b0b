"""
Forget an instance that will never return, and release what no running instance is configured for.

**An instance.** Its leases are freed, and what only it reported is removed. Of a tree with a copy on each instance its
index goes. A CDN may still hold what it fetched from that copy last, so each key at which it differs from the others is
requested before. The number of its registrations stays, so that a process which was only frozen is fenced off for good,
and so does the count of its commits: an instance that does return finds no loss where there is none.

**An account** that no running instance is configured for is led by nobody, and what was sent for it is followed by
nobody. What was reserved is refunded. What was sent counts as spent. Its needs stay: a URL is stale whatever the
configuration says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import psycopg

from listener.errors import ConfigurationError, StoreBusy, StoreError
from listener.refresh import AttemptState, NeedInput
from listener.store import attempts, retention
from listener.store.connection import Connection
from listener.store.copies import source_of
from listener.store.postgres.connection import PostgresConnection, quoted
from listener.store.postgres.copies import PostgresCopies
from listener.store.postgres.migrations import SCHEMA
from listener.store.store import Store

__all__ = ["Forgotten", "Released", "forget", "release"]

DIRECTORIES: Final = 100
"""Directories that are compared in one read."""
SLICE_ROWS: Final = 500
_STATEMENTS: Final[Mapping[str, str]] = {
    # The lock keeps the instance from registering before the transaction ends.
    "instance": (
        "SELECT CASE WHEN until > clock_timestamp()"
        " THEN extract(epoch FROM until - clock_timestamp())::double precision END"
        " FROM {schema}.instance WHERE name = $1 FOR UPDATE"
    ),
    "known": "SELECT name FROM {schema}.instance ORDER BY name",
    "roots": "SELECT id, name, seeded FROM {schema}.root WHERE split_part(name, '@', 2) = $1 ORDER BY name",
    "compared": "UPDATE {schema}.root SET seeded = 0 WHERE id = $1",
    "trees": "DELETE FROM {schema}.tree WHERE id IN (SELECT id FROM {schema}.tree WHERE root = $1 LIMIT $2)",
    "root": "DELETE FROM {schema}.root WHERE id = $1",
    "leave": "UPDATE {schema}.instance SET until = '-infinity', died_at = NULL WHERE name = $1",
    "leases": ("UPDATE {schema}.lease SET instance = NULL, incarnation = NULL, term = term + 1 WHERE instance = $1"),
    "reports": "DELETE FROM {schema}.source WHERE split_part(name, '@', 2) = $1",
    "waits": "DELETE FROM {schema}.pending_copy WHERE instance = $1",
    "trouble": "UPDATE {schema}.instance_count SET trouble = '' WHERE name = $1",
    "objects": "SELECT coalesce(sum(objects), 0) FROM {schema}.tree WHERE root = $1",
    "lease": (
        "SELECT (SELECT min(living.name) FROM {schema}.instance AS living WHERE living.until > clock_timestamp()"
        " AND (lease.name = ANY (living.leases)"
        " OR (living.name = lease.instance AND living.incarnation = lease.incarnation)))"
        " FROM {schema}.lease WHERE name = $1 FOR UPDATE"
    ),
    "sent": "SELECT id, state FROM {schema}.attempt WHERE active = 1 AND account = $1 ORDER BY id LIMIT $2",
    "accounts": "SELECT DISTINCT account FROM {schema}.attempt WHERE active = 1 ORDER BY account",
}
_REFUNDED: Final = {AttemptState.HELD.value}
_OVER: Final = {AttemptState.FAILED.value, AttemptState.COMPLETE.value}


class Forgotten(NamedTuple):
    """What was removed with an instance."""

    leases: int
    """That it held."""
    reports: int
    """Of its sources."""
    objects: int
    """Index rows of its copies of trees."""
    requested: int
    """URLs that are refreshed, since its copy differed from the others."""


class Released(NamedTuple):
    """What became of what was sent for an account."""

    refunded: int
    spent: int
    ended: int
    """Whose outcome was known."""


async def forget(store: Store, name: str, *, schema: str = SCHEMA) -> Forgotten:
    """
    Forget an instance that will never return.

    Raises:
        ConfigurationError: no instance of this name is known.
        StoreBusy: it runs.
        StoreError: it has the only known copy of a tree.
    """
    statements = _Statements(schema)
    roots = await store._write(_roots_of, statements, name)
    requested = objects = 0
    for number, root, is_seeded in roots:
        if is_seeded:  # else it was compared before, and a part of it may be gone
            requested += await _request_differences(store, source_of(root), name)
        objects += await _remove_root(store, statements, name, number)
    leases, reports = await store._write(_remove_rows, statements, name)
    return Forgotten(leases, reports, objects, requested)


async def release(store: Store, account: str, *, schema: str = SCHEMA) -> Released:
    """
    Settle what was sent for an account that no running instance is configured for.

    Raises:
        ConfigurationError: nothing was sent for an account of this name that is not settled.
        StoreBusy: an instance leads it.
    """
    statements, now = _Statements(schema), store.clock.now()
    total = Released(0, 0, 0)
    while part := await store._write(_release_slice, statements, account, now=now):
        total = Released(*(sum(pair) for pair in zip(total, part, strict=True)))
    if not any(total):
        known = await store._read(lambda c: [one for (one,) in statements.all(c, "accounts")])
        hint = f"known: {', '.join(known)}" if known else "nothing is in flight for any account"
        raise ConfigurationError(f"account {account}: nothing is in flight for it", hint=hint)
    return total


class _Statements:
    """The statements of this module, in one schema."""

    def __init__(self, schema: str) -> None:
        self._texts = {name: text.replace("{schema}", quoted(schema)).encode() for name, text in _STATEMENTS.items()}

    def all(self, connection: Connection, name: str, *values: object) -> list[Any]:
        cursor = self._run(connection, name, values)
        return cursor.fetchall()

    def count(self, connection: Connection, name: str, *values: object) -> int:
        return self._run(connection, name, values).rowcount

    def _run(self, connection: Connection, name: str, values: tuple[object, ...]) -> psycopg.Cursor[Any]:
        return cast("PostgresConnection", connection).raw.execute(self._texts[name], values)


def _require_absent(connection: Connection, statements: _Statements, name: str) -> None:
    """Raise for an instance that runs, or that nobody knows; keep it from starting while the transaction lasts."""
    rows = statements.all(connection, "instance", name)
    if not rows:
        known = [one for (one,) in statements.all(connection, "known")]
        hint = f"known: {', '.join(known)}" if known else "none was ever started on this database"
        raise ConfigurationError(f"there is no instance {name!r}", hint=hint)
    ((left_seconds,),) = rows
    if left_seconds is not None:
        raise StoreBusy(
            f"instance {name} runs: its heartbeat lasts for {left_seconds:.1f} s more",
            hint="stop it first; one that was killed can be forgotten once its heartbeat is over",
        )


def _roots_of(connection: Connection, statements: _Statements, name: str) -> list[tuple[int, str, int]]:
    _require_absent(connection, statements, name)
    return statements.all(connection, "roots", name)


async def _request_differences(store: Store, source: str, name: str) -> int:
    """Request every URL at which the copy of an absent instance differs from the others; return how many."""
    copies = store._copies
    if not isinstance(copies, PostgresCopies) or source not in copies.sources.names:
        return 0  # configured no longer: nobody has another copy, or routes its keys
    requested, after = 0, None
    while True:
        found = await store._read(copies.of_instance_only, source, name, after=after, limit=DIRECTORIES)
        if found is None:
            raise StoreError(
                f"instance {name} has the only copy of source {source} that is in use",
                hint="start another instance with a copy first: else nobody knows what changed meanwhile",
            )
        changes, after = found
        needs = [need for change in changes for need in copies.sources.route(change)]
        if needs:
            inputs = [NeedInput(need.target, need.url, need.scope) for need in needs]
            await store.request(inputs, reason=f"instance {name} was forgotten, and its copy was another one")
            requested += len(inputs)
        if after is None:
            return requested


async def _remove_root(store: Store, statements: _Statements, name: str, root: int) -> int:
    """Remove the index of a copy, a slice at a time; return how many objects it held."""

    def objects_of(connection: Connection) -> int:
        return int(statements.all(connection, "objects", root)[0][0])

    def compared(connection: Connection) -> int:
        _require_absent(connection, statements, name)
        return statements.count(connection, "compared", root)

    def remove(connection: Connection) -> bool:
        _require_absent(connection, statements, name)
        if retention.retire_root(connection, root, SLICE_ROWS):
            return True
        if statements.count(connection, "trees", root, SLICE_ROWS):
            return True
        statements.count(connection, "root", root)
        return False

    objects = await store._read(objects_of)
    await store._write(compared)
    while await store._write(remove):
        pass
    return objects


def _remove_rows(connection: Connection, statements: _Statements, name: str) -> tuple[int, int]:
    _require_absent(connection, statements, name)
    leases = statements.count(connection, "leases", name)
    reports = statements.count(connection, "reports", name)
    for statement in ("waits", "trouble", "leave"):
        statements.count(connection, statement, name)
    return leases, reports


def _release_slice(connection: Connection, statements: _Statements, account: str, *, now: float) -> Released | None:
    """Settle a slice of what was sent; None at the end."""
    for (holder,) in statements.all(connection, "lease", account):
        if holder is not None:
            raise StoreBusy(
                f"account {account}: instance {holder} is configured for it, and follows what was sent",
                hint="nothing needs to be released; see cdn-listener status",
            )
    rows = statements.all(connection, "sent", account, SLICE_ROWS)
    refunded = [id_ for id_, state in rows if state in _REFUNDED]
    over = [id_ for id_, state in rows if state in _OVER]
    spent = [id_ for id_, state in rows if state not in _REFUNDED | _OVER]
    attempts.refund(connection, refunded)
    attempts.presume_spent(connection, spent, now=now, error="no instance has its target any more")
    attempts.end_backoff(connection, over)
    return Released(len(refunded), len(spent), len(over)) if rows else None
