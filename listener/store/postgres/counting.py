"""
The count of an instance's transactions: the statement that runs with each commit, and the comparison.

The count goes up in the message that commits, so that it costs no round trip, and is returned with the answer. It is
compared at each new connection, and with each commit: behind a pool nothing else shows that the server is another one.
"""

from __future__ import annotations

from typing import Any, Final, Self, cast

import psycopg
import structlog
from psycopg import sql

from listener.store.connection import Connection
from listener.store.durability import CommitCount, CommitMark, Loss
from listener.store.postgres.address import CHECK_SECONDS, ended_after
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.migrations import check_version

__all__ = ["CountedCommits"]

log = structlog.get_logger()

_COUNT: Final = "SELECT {schema}.count_commit({name}, {confirmed})"
_LOST: Final = "CDN01"
"""The code with which that fails."""
_FIND: Final = (
    "SELECT coalesce((SELECT recorded FROM {schema}.instance_count WHERE name = {name}), 0),"
    " CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
)
_TROUBLE: Final = (
    "INSERT INTO {schema}.instance_count (name, recorded, trouble) VALUES ({name}, 0, {trouble})"
    " ON CONFLICT (name) DO UPDATE SET trouble = excluded.trouble"
)
_SYSTEM: Final = "SELECT system_identifier || '/' || identity FROM pg_control_system(), {schema}.installation"
_WEAK: Final = frozenset({"off", "local", "remote_write"})
"""Values of ``synchronous_commit`` under which a confirmed commit may vanish in a crash of one server."""


class CountedCommits:
    """The transactions of one instance, as it and the database count them."""

    def __init__(self, schema: str, instance: str) -> None:
        """Take the schema that holds the counts, and the name of the instance."""
        self._schema = schema
        self._parts = {"schema": sql.Identifier(schema), "name": sql.Literal(instance)}
        self._count = CommitCount()
        self._timeline: str | None = None
        self.identity = ""
        """What the counts are of: cluster and schema, also after a promotion, the database, and the instance."""

    @classmethod
    def begun(cls, raw: psycopg.Connection[Any], schema: str, instance: str) -> Self:
        """Ask a server, for the first time, what it has counted; log it where its defaults are weak."""
        with ended_after(raw, CHECK_SECONDS):
            counted = cls(schema, instance)
            counted.look(raw)
            _report_weak_commits(raw)
            query = sql.SQL(_SYSTEM).format(schema=sql.Identifier(schema)).as_string(None).encode()
            system, *_ = psycopg.Cursor(raw).execute(query, prepare=False).fetchone() or ("",)
        counted.identity = f"{system}/{raw.info.dbname}/{schema}/{instance}"
        return counted

    @property
    def mark(self) -> CommitMark:
        """What was confirmed so far; may be read in any thread."""
        return self._count.mark or CommitMark(0)

    @property
    def statement(self) -> str:
        """The last statement of a transaction: it counts one more, and returns how many there are."""
        return sql.SQL(_COUNT).format(**self._parts, confirmed=sql.Literal(self.mark.commits)).as_string(None)

    def save_trouble(self, connection: Connection, trouble: str) -> None:
        """Keep what is wrong with this instance: its name, its clock, or commits that were lost."""
        query = sql.SQL(_TROUBLE).format(**self._parts, trouble=sql.Literal(trouble)).as_string(None)
        psycopg.Cursor(cast("PostgresConnection", connection).raw).execute(query.encode(), prepare=False)

    def found_loss(self, error: Exception) -> bool:
        """Return whether the statement failed since commits were lost."""
        return isinstance(error, psycopg.Error) and error.sqlstate == _LOST

    def look(self, raw: psycopg.Connection[Any]) -> None:
        """
        Compare with what the server has counted; what is remembered of the database is forgotten before.

        Raises :class:`~listener.errors.StoreUnusable` where the schema was upgraded past this program meanwhile.
        """
        check_version(raw, self._schema)
        query = sql.SQL(_FIND).format(**self._parts).as_string(None).encode()
        found, timeline = psycopg.Cursor(raw).execute(query, prepare=False).fetchone() or (0, None)
        if timeline != self._timeline and self._timeline is not None:
            # The server was promoted, or restored. That alone loses nothing.
            log.warning("store.timeline_changed", before=self._timeline, now=timeline)
        self._timeline = timeline
        if (loss := self._count.compare(found)) is not None:
            self._report(loss)

    def confirm(self, commits: int) -> None:
        """Take the count of a transaction that was confirmed."""
        self._count.confirm(commits)

    def expect(self, commits: int) -> None:
        """Take the count that an earlier process of this instance knew as confirmed: before the first transaction."""
        if (loss := self._count.expect(commits)) is not None:
            self._report(loss)

    def _report(self, loss: Loss) -> None:
        log.error(
            "store.commits_lost",
            commits=loss.commits,
            confirmed=loss.confirmed,
            found=loss.found,
            timeline=self._timeline,
        )


def _report_weak_commits(raw: psycopg.Connection[Any]) -> None:
    """Log it where the server's or the role's default does not wait for the disk. Transactions set their own value."""
    row = psycopg.Cursor(raw).execute("SHOW synchronous_commit").fetchone()
    if row and row[0] in _WEAK:
        log.warning("store.weak_commits", synchronous_commit=row[0], hint=WEAK_HINT)


WEAK_HINT: Final = (
    "transactions of this program set synchronous_commit = on; remove the lower default of the server, database or role"
    " if it is not meant"
)
