"""
Leases in PostgreSQL: one heartbeat row per instance, one row with a term per lease (promises 3 and 4).

An instance renews its heartbeat only, however many leases it holds. Every statement here is safe by what it locks, not
by chance:

- **A renewal fails when it comes too late**, and a dead instance is *marked* (``until = '-infinity'``) before anything
  is taken from it. Both update the same row, so a late renewal and a take-over never both succeed. A mark is final:
  whoever returns registers with a higher incarnation.
- **A take-over is two statements in one transaction.** A statement sees ``instance`` as of its start, and re-reads a
  locked ``lease`` row in its newest version. Judged in one statement, a holder that has just registered or taken the
  lease looks dead. So the rows are locked first, and judged by the mark in the next statement.
- **The fence is the first statement of each transaction of a leader**: ``SELECT … FOR SHARE`` of its lease row with its
  term. A take-over waits for it. A plain ``SELECT`` and ``FOR KEY SHARE`` do not stop a take-over that refunds what
  this transaction is about to send.
- **Time is the database's** ``clock_timestamp()``, never ``now()``: that is the start of the transaction.

A process that is frozen inside a transaction keeps its locks. So each transaction ends by itself after a third of the
lease (``idle_in_transaction_session_timeout``). A take-over waits for a lock for half a second only, and comes again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from listener.errors import Fenced
from listener.store.charges import Charge, decoded, encoded

__all__ = ["Holder", "LateAnswer", "LeaseTable", "Member"]

TAKE_LOCK_MILLISECONDS: Final = 500
"""How long a take-over waits for a lock; it is repeated at the next look."""

_IS_DEAD: Final = (
    "NOT EXISTS (SELECT 1 FROM {schema}.instance AS holder WHERE holder.name = lease.instance"
    " AND holder.incarnation = lease.incarnation AND holder.until > '-infinity')"
)
_ARE_OURS: Final = "lease.instance = %(name)s AND lease.incarnation = %(incarnation)s"
_UNTIL: Final = "clock_timestamp() + make_interval(secs => %(seconds)s)"

_STATEMENTS: Final[Mapping[str, str]] = {
    # An insert that meets a row waits for whoever changes it, as in a take-over: those that are there are left out.
    "add": (
        "INSERT INTO {schema}.lease (name) SELECT wanted FROM unnest(%(names)s::text[]) AS wanted"
        " WHERE NOT EXISTS (SELECT FROM {schema}.lease WHERE lease.name = wanted) ON CONFLICT (name) DO NOTHING"
    ),
    "register": (
        "INSERT INTO {schema}.instance AS known (name, incarnation, until, version, leases, started_at)"
        f" VALUES (%(name)s, 1, {_UNTIL}, %(version)s, %(leases)s, clock_timestamp())"
        " ON CONFLICT (name) DO UPDATE SET incarnation = known.incarnation + 1, until = excluded.until,"
        " version = excluded.version, leases = excluded.leases, started_at = excluded.started_at, died_at = NULL"
        " RETURNING incarnation"
    ),
    # One statement, so that a process frozen in between holds no lock. Nothing can have been taken from an instance
    # whose renewal succeeds: the rows are as they were when it was last alive.
    "renew": (
        f"WITH renewed AS (UPDATE {{schema}}.instance SET until = {_UNTIL} WHERE name = %(name)s"
        " AND incarnation = %(incarnation)s AND until > clock_timestamp() RETURNING 1)"
        " SELECT lease.name, lease.term FROM renewed"
        f" LEFT JOIN {{schema}}.lease ON {_ARE_OURS}"
    ),
    "holder": "SELECT incarnation FROM {schema}.instance WHERE name = %(name)s",
    "mark": (
        "UPDATE {schema}.instance SET until = '-infinity', died_at = until"
        " WHERE name IN (SELECT name FROM {schema}.instance"
        " WHERE until <= clock_timestamp() AND until > '-infinity' ORDER BY name FOR UPDATE SKIP LOCKED)"
        " RETURNING name"
    ),
    "alive": (
        "SELECT known.name, known.incarnation, count(lease.name) FROM {schema}.instance AS known"
        " LEFT JOIN {schema}.lease ON lease.instance = known.name AND lease.incarnation = known.incarnation"
        " WHERE known.until > clock_timestamp() GROUP BY known.name ORDER BY known.name"
    ),
    "able": (
        "SELECT able.lease, array_agg(able.name) FROM (SELECT name, unnest(leases) AS lease FROM {schema}.instance"
        " WHERE until > clock_timestamp()) AS able WHERE able.lease = ANY(%(names)s) GROUP BY able.lease"
    ),
    "free": f"SELECT name FROM {{schema}}.lease WHERE name = ANY(%(names)s) AND {_IS_DEAD} ORDER BY name",
    "lock": (
        f"SELECT name FROM {{schema}}.lease WHERE name = ANY(%(names)s) AND {_IS_DEAD}"
        " ORDER BY name FOR UPDATE SKIP LOCKED"
    ),
    "take": (
        "UPDATE {schema}.lease SET instance = %(name)s, incarnation = %(incarnation)s, term = term + 1"
        f" WHERE name = ANY(%(names)s) AND {_IS_DEAD} RETURNING name, term"
    ),
    "new term": (
        f"UPDATE {{schema}}.lease SET term = term + 1 WHERE name = ANY(%(names)s) AND {_ARE_OURS} RETURNING name, term"
    ),
    "give back": (
        "UPDATE {schema}.lease SET instance = NULL, incarnation = NULL, term = term + 1"
        f" WHERE name = ANY(%(names)s) AND {_ARE_OURS}"
    ),
    "give all back": (
        f"UPDATE {{schema}}.lease SET instance = NULL, incarnation = NULL, term = term + 1 WHERE {_ARE_OURS}"
    ),
    "leave": (
        "UPDATE {schema}.instance SET until = '-infinity' WHERE name = %(name)s AND incarnation = %(incarnation)s"
    ),
    "inherit": (
        "INSERT INTO {schema}.inherited (attempt, unknown_since)"
        " SELECT unnest(%(attempts)s::bigint[]), clock_timestamp() ON CONFLICT (attempt) DO NOTHING"
    ),
    "forget": (
        "DELETE FROM {schema}.inherited WHERE NOT EXISTS (SELECT 1 FROM {schema}.attempt WHERE id = inherited.attempt"
        " AND active = 1 AND state = 'unknown')"
    ),
    "inherited": (
        "SELECT attempt, extract(epoch FROM clock_timestamp() - unknown_since)::double precision"
        " FROM {schema}.inherited"
    ),
    "note late": (
        "INSERT INTO {schema}.late_answer (attempt, account, term, kind, window_start, charges, task_id,"
        " at) SELECT attempt, %(account)s, %(term)s, %(kind)s, %(window)s, %(charges)s, task_id, clock_timestamp()"
        " FROM unnest(%(attempts)s::bigint[], %(tasks)s::text[]) AS accepted (attempt, task_id)"
        " ON CONFLICT (attempt, task_id) DO NOTHING"
    ),
    "late": (
        "DELETE FROM {schema}.late_answer WHERE account = %(account)s"
        " RETURNING attempt, charges, kind, window_start, task_id"
    ),
    "has late": "SELECT 1 FROM {schema}.late_answer WHERE account = %(account)s LIMIT 1",
    "end": (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user"
        " AND datname = current_database() AND pid <> pg_backend_pid()"
        " AND xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)"
        " AND application_name = ANY(SELECT left('cdn-listener ' || lease.instance, 63) FROM {schema}.lease"
        f" WHERE lease.name = ANY(%(names)s) AND {_IS_DEAD})"
    ),
    "fence": (
        "SELECT 1 FROM {schema}.lease WHERE name = %(name)s AND term = %(term)s AND instance = %(instance)s FOR SHARE"
    ),
}


class Member(NamedTuple):
    """One registration of one instance."""

    name: str
    incarnation: int


class Holder(NamedTuple):
    """A lease as an instance holds it."""

    name: str
    term: int
    instance: str
    """A promoted standby that lacks commits may give a term out again, to another instance."""


class LateAnswer(NamedTuple):
    """What the CDN accepted after the term of its sender had ended."""

    attempt: int
    kind: str
    charges: tuple[Charge, ...]
    """What was reserved for it."""
    task_id: str


class LeaseTable:
    """
    The statements on leases, in one schema. Each method is one transaction on an autocommit connection.

    Raises :class:`psycopg.Error` for whatever the database could not do; the connection is then to be replaced.
    """

    def __init__(self, schema: str, *, seconds: float) -> None:
        """Take the schema that holds the tables, and how long a lease lasts without a renewal."""
        self.schema = schema
        self.seconds = seconds
        self._statements = {
            # The texts are this module's own, and the schema is quoted.
            name: sql.SQL(text).format(schema=sql.Identifier(schema))
            for name, text in _STATEMENTS.items()
        }

    def add(self, connection: psycopg.Connection, names: Collection[str]) -> None:
        """Make leases with these names, where there are none yet."""
        self._run(connection, "add", {"names": sorted(names)})

    def register(self, connection: psycopg.Connection, name: str, *, version: str, leases: Collection[str]) -> Member:
        """
        Register an instance again; every lease of an earlier registration of this name is free from then on.

        Args:
            connection: in autocommit mode.
            name: of the instance.
            version: of its program.
            leases: those that it can hold.
        """
        values = {"name": name, "version": version, "leases": sorted(leases), "seconds": self.seconds}
        return Member(name, int(self._one(connection, "register", values)[0]))

    def renew(self, connection: psycopg.Connection, member: Member) -> dict[str, int] | None:
        """Renew the heartbeat; return the leases that it keeps alive (name to term), None where it came too late."""
        rows = self._all(connection, "renew", {**member._asdict(), "seconds": self.seconds})
        return {name: term for name, term in rows if name is not None} if rows else None

    def incarnation(self, connection: psycopg.Connection, name: str) -> int | None:
        """Return the incarnation that is registered under this name, if one is."""
        rows = self._all(connection, "holder", {"name": name})
        return int(rows[0][0]) if rows else None

    def mark_dead(self, connection: psycopg.Connection) -> list[str]:
        """Mark the instances whose heartbeat is over; return their names."""
        return [name for (name,) in self._all(connection, "mark", {})]

    def alive(self, connection: psycopg.Connection) -> dict[Member, int]:
        """Return the instances that live, and how many leases each of them holds."""
        rows = self._all(connection, "alive", {})
        return {Member(name, incarnation): leases for name, incarnation, leases in rows}

    def able(self, connection: psycopg.Connection, names: Collection[str]) -> dict[str, list[str]]:
        """Return which living instances can hold each of these leases, by their configurations."""
        return dict(self._all(connection, "able", {"names": list(names)}))

    def free(self, connection: psycopg.Connection, names: Collection[str]) -> list[str]:
        """Return which of these leases nobody holds who lives, as far as the dead are marked."""
        return [name for (name,) in self._all(connection, "free", {"names": list(names)})]

    def take(self, connection: psycopg.Connection, member: Member, names: Collection[str]) -> dict[str, int]:
        """Take those of these leases that are free; return them with their new terms. What is locked is left out."""
        with self.transaction(connection, lock_milliseconds=TAKE_LOCK_MILLISECONDS):
            locked = [name for (name,) in self._all(connection, "lock", {"names": list(names)})]
            return self._terms(connection, "take", member, locked)

    def end_transactions(self, connection: psycopg.Connection, names: Collection[str]) -> int:
        """
        End transactions of the dead holders of these leases that have lasted for a third of the lease; return how many.

        The database ends most of them by itself. It does not where a process is frozen, or cut off, before the end of a
        message of several statements: for the server that session is not idle.
        """
        return len(self._all(connection, "end", {"names": list(names), "seconds": self.seconds / 3}))

    def begin_new_terms(self, connection: psycopg.Connection, member: Member, names: Collection[str]) -> dict[str, int]:
        """Raise the terms of leases that this member holds; return them. Those of others are left out."""
        with self.transaction(connection, lock_milliseconds=TAKE_LOCK_MILLISECONDS):
            return self._terms(connection, "new term", member, names)

    def give_back(self, connection: psycopg.Connection, member: Member, names: Collection[str]) -> None:
        """Free these leases, as far as this member holds them; waits for its transactions that hold a fence."""
        self._run(connection, "give back", {**member._asdict(), "names": list(names)})

    def leave(self, connection: psycopg.Connection, member: Member) -> None:
        """Free every lease of this member, and mark it as dead: others need not wait for its end."""
        with self.transaction(connection):
            self._run(connection, "give all back", member._asdict())
            self._run(connection, "leave", member._asdict())

    def fence(self, connection: psycopg.Connection, lease: Holder) -> None:
        """
        Prove that this term still holds, and keep it so to the end of the transaction. Its first statement.

        Raises:
            Fenced: another term has begun. Roll back, and stop leading.
        """
        if not self._all(connection, "fence", lease._asdict()):
            raise Fenced(f"term {lease.term} of {lease.name} has ended: another instance leads it")

    def inherit(self, connection: psycopg.Connection, attempts: Collection[int]) -> dict[int, float]:
        """
        Note that the outcome of attempts that another leader was sending is unknown from now on.

        Returns:
            For how many seconds that has been so of these and of those noted before, as far as they still are unknown.
        """
        self._run(connection, "inherit", {"attempts": list(attempts)})
        self._run(connection, "forget", {})
        return dict(self._all(connection, "inherited", {}))

    def note_late(self, connection: psycopg.Connection, lease: Holder, answers: Collection[LateAnswer]) -> None:
        """Keep what the CDN accepted after a term had ended. Needs no fence: it adds, and decides nothing."""
        for kind, charges in {(one.kind, one.charges) for one in answers}:
            mine = [one for one in answers if (one.kind, one.charges) == (kind, charges)]
            values: dict[str, Any] = {"account": lease.name, "term": lease.term, "kind": kind}
            values |= {"window": charges[0].window if charges else 0, "charges": encoded(charges)}
            values |= {"attempts": [one.attempt for one in mine], "tasks": [one.task_id for one in mine]}
            self._run(connection, "note late", values)

    def take_late(self, connection: psycopg.Connection, account: str) -> list[LateAnswer]:
        """Remove an account's late answers and return them: book them in the same transaction."""
        if not self._all(connection, "has late", {"account": account}):
            return []
        return [
            LateAnswer(attempt, kind, decoded(text, kind, window), task_id)
            for attempt, text, kind, window, task_id in self._all(connection, "late", {"account": account})
        ]

    @contextmanager
    def transaction(
        self, connection: psycopg.Connection, *, lock_milliseconds: int | None = None
    ) -> Iterator[psycopg.Connection]:
        """Run a transaction that the database ends where this process is frozen inside it for a third of the lease."""
        limits = f"SET LOCAL idle_in_transaction_session_timeout = {round(self.seconds / 3 * 1000)}"
        if lock_milliseconds is not None:
            limits += f"; SET LOCAL lock_timeout = {lock_milliseconds}"
        with connection.transaction():
            psycopg.Cursor(connection).execute(limits.encode())
            yield connection

    def _terms(
        self, connection: psycopg.Connection, statement: str, member: Member, names: Collection[str]
    ) -> dict[str, int]:
        if not names:
            return {}
        return dict(self._all(connection, statement, {**member._asdict(), "names": list(names)}))

    def _all(self, connection: psycopg.Connection, statement: str, values: Mapping[str, Any]) -> Sequence[Any]:
        return self._run(connection, statement, values).fetchall()

    def _run(self, connection: psycopg.Connection, statement: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        return psycopg.Cursor(connection).execute(self._statements[statement], values)

    def _one(self, connection: psycopg.Connection, statement: str, values: Mapping[str, Any]) -> Any:
        return self._all(connection, statement, values)[0]
