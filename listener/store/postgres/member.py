"""
What one instance does with its leases: register, renew, take what is free up to its share, and give back the rest.

No I/O but the statements of :mod:`listener.store.postgres.leases`, and no clock but the argument, so that the same code
runs in virtual time.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from fractions import Fraction

import psycopg
import structlog

from listener.store.leadership import NO_SURPLUS, Deadline, Surplus
from listener.store.postgres.leases import LeaseTable, Member

__all__ = ["SETTLE_SECONDS", "Membership", "share"]

log = structlog.get_logger()

SETTLE_SECONDS = 60.0
"""So long after a change of members nothing is given back for balance: a restarted instance comes within it."""
SHARED_LEASES = 5
"""For so many leases after it lost its name to another process an instance reports that: the two take turns."""
RELEASED_PART = 8
"""At each look this part of what is too much is given back, rounded up: taking over costs both sides."""


def share(able: Iterable[int]) -> int:
    """
    Return how many leases an instance takes at most, of those that others can hold too.

    Args:
        able: of each of these leases, how many living instances can hold it.
    """
    return math.ceil(sum(Fraction(leases, members) for members, leases in Counter(able).items()))


class Membership:
    """
    One instance's registration and leases. Used by one thread, but for :meth:`stopped` and what it shows.

    ``terms`` are the leases that somebody leads here. They are compared with the rows at each renewal, since the
    heartbeat keeps all of an instance's leases alive: without that a lease whose leader ended would be led by nobody.
    """

    def __init__(self, table: LeaseTable, name: str, *, version: str, leases: Collection[str]) -> None:
        """Take the instance's name and version, and the names of the leases that it can hold."""
        self.deadline = Deadline(table.seconds)
        self.terms: Mapping[str, int] = {}
        """The leases that are led here, with their terms; replaced as a whole."""
        self._replacing = threading.Lock()
        self.surplus = NO_SURPLUS
        """Which leases to give back for balance, at the last look."""
        self.shares_name = False
        """Whether another process registered under the same name while this one was alive, not long ago."""
        self._name_taken_at = -math.inf
        self._table = table
        self._name = name
        self._version = version
        self._leases = frozenset(leases)
        self._member: Member | None = None
        self._renewed_at = -math.inf
        self._alive: Collection[Member] = ()
        self._alive_since = -math.inf
        self._able: Mapping[str, Collection[str]] = {}
        """Which living instances can hold each lease."""
        self._free_since: dict[str, float] = {}

    @property
    def is_registered(self) -> bool:
        """Whether the last registration is still believed to hold."""
        return self._member is not None

    def look(self, connection: psycopg.Connection, clock: Callable[[], float]) -> None:
        """
        Do what is to be done now: called every sixth of the lease, and at least every second.

        Args:
            connection: in autocommit mode, used by nobody else.
            clock: seconds, of a clock that goes on during suspend.
        """
        if self._member is not None and clock() - self._renewed_at >= self._table.seconds / 3:
            self._renew(connection, self._member, clock)
        if self._member is None:
            self._register(connection, clock)
        self._take(connection, self._member_now(), clock())

    def stopped(self, name: str, term: int) -> None:
        """Note that the leader of a term has stopped by itself: the next renewal begins another term."""
        if self.terms.get(name) == term:
            self._forget([name])

    def give_back(self, connection: psycopg.Connection, names: Collection[str]) -> None:
        """Free these leases; whoever led them here has stopped."""
        self._forget(names)
        self.surplus = NO_SURPLUS  # until the next look: what was counted before would be given back once more
        if self._member is not None:
            self._table.give_back(connection, self._member, names)

    def leave(self, connection: psycopg.Connection) -> None:
        """Free every lease and end the registration."""
        member, self._member = self._member, None
        self._lose()
        if member is not None:
            self._table.leave(connection, member)

    # -- the parts of a look -----------------------------------------------------------------------

    def _register(self, connection: psycopg.Connection, clock: Callable[[], float]) -> None:
        asked_at = clock()
        self._table.add(connection, self._leases)
        self._member = self._table.register(connection, self._name, version=self._version, leases=self._leases)
        self._renewed_at = asked_at
        self.deadline.renewed(asked_at)
        log.info("lease.registered", instance=self._name, incarnation=self._member.incarnation)

    def _renew(self, connection: psycopg.Connection, member: Member, clock: Callable[[], float]) -> None:
        asked_at = clock()
        rows = self._table.renew(connection, member)
        if rows is None:
            self._member = None
            self._lose()
            registered = self._table.incarnation(connection, self._name)
            self.shares_name = registered is not None and registered > member.incarnation
            if self.shares_name:
                self._name_taken_at = asked_at
                log.error("lease.name_taken", instance=self._name, hint=SHARED_NAME_HINT)
            else:
                log.warning("lease.expired", instance=self._name, since_seconds=round(asked_at - self._renewed_at, 1))
            return
        if asked_at - self._name_taken_at > SHARED_LEASES * self._table.seconds:
            self.shares_name = False
        self._renewed_at = asked_at
        self.deadline.renewed(asked_at)
        self._compare(connection, member, rows)

    def _compare(self, connection: psycopg.Connection, member: Member, rows: Mapping[str, int]) -> None:
        """Let rows and leaders agree: no row is led by nobody, and no leader is without its row."""
        gone = [name for name, term in self.terms.items() if rows.get(name) != term]
        if gone:
            log.warning("lease.lost", instance=self._name, accounts=gone)
            self._forget(gone)
        if unled := [name for name in rows if name not in self.terms]:
            self._lead(self._table.begin_new_terms(connection, member, unled))

    def _take(self, connection: psycopg.Connection, member: Member, now: float) -> None:
        if dead := self._table.mark_dead(connection):
            log.warning("lease.marked_dead", instances=dead)
        alive = self._table.alive(connection)
        if alive.keys() != self._alive:
            self._able = self._table.able(connection, self._leases)
            self._alive, self._alive_since = alive.keys(), now
        free = self._table.free(connection, self._leases)
        self._free_since = {name: self._free_since.get(name, now) for name in free}
        shared = {name for name, able in self._able.items() if len(able) > 1}
        room = share(len(self._able[name]) for name in shared) - len(self.terms.keys() & shared)
        wanted = [name for name in free if name not in shared]
        wanted += [name for name in free if name in shared][: max(0, room)]
        # What the others have no room for, or do not take for another reason.
        wanted += [name for name in free if now - self._free_since[name] > self._table.seconds and name not in wanted]
        if wanted:
            taken = self._table.take(connection, member, wanted)
            self._lead(taken)
            self._end_transactions(connection, [name for name in wanted if name not in taken], now)
        self.surplus = self._above({one.name: leases for one, leases in alive.items()}, now)

    def _end_transactions(self, connection: psycopg.Connection, names: Collection[str], now: float) -> None:
        """End what keeps a free lease locked for longer than a transaction may last."""
        long = [name for name in names if now - self._free_since[name] > self._table.seconds / 3]
        if long and (ended := self._table.end_transactions(connection, long)):
            log.warning("lease.transactions_ended", accounts=long, transactions=ended)

    def _above(self, loads: Mapping[str, int], now: float) -> Surplus:
        """Return the leases that another instance can hold which holds fewer, by two or more."""
        if now - self._alive_since < SETTLE_SECONDS or min(loads.values(), default=0) > (most := len(self.terms) - 2):
            return NO_SURPLUS
        least = {
            name: min((loads[one] for one in self._able.get(name, ()) if one in loads), default=most + 1)
            for name in self.terms
        }
        names = frozenset(name for name, load in least.items() if load <= most)
        above = (len(self.terms) - min(least.values(), default=0)) // 2
        return Surplus(names, -(-above // RELEASED_PART))

    def _member_now(self) -> Member:
        assert self._member is not None
        return self._member

    def _lose(self) -> None:
        self.deadline.end()
        self._forget(self.terms)

    def _lead(self, terms: Mapping[str, int]) -> None:
        with self._replacing:
            self.terms = {**self.terms, **terms}

    def _forget(self, names: Collection[str]) -> None:
        gone = set(names)
        with self._replacing:
            self.terms = {name: term for name, term in self.terms.items() if name not in gone}


SHARED_NAME_HINT = "two instances have this name and take each other's accounts: give each its own instance.name"
