"""
Keeps the leases of this instance: a thread with a connection of its own looks, renews, takes and gives back.

Nothing waits for it but the end: what recording or a leader does with its own connection never delays a renewal. A look
that takes longer than a third of the lease ends with a closed connection. While the database is silent, the deadline
of :class:`~listener.store.leadership.Deadline` passes by itself.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
import structlog

from listener import __version__
from listener.errors import Fenced, ListenerError
from listener.settings import InstanceSettings
from listener.store.leadership import NO_SURPLUS, SOURCE, UPKEEP, Term
from listener.store.postgres.address import reported
from listener.store.postgres.clock import DatabaseClock, boottime
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.leases import Holder, LeaseTable
from listener.store.postgres.member import SHARED_NAME_HINT, Membership
from listener.store.postgres.migrations import SCHEMA, check_version
from listener.store.postgres.terms import LeasedTerm
from listener.store.store import Store, StoreOptions

__all__ = ["LeaseKeeper", "keeper_of"]

log = structlog.get_logger()

LOOK_MOST_SECONDS = 1.0
MOST_AHEAD_SECONDS = 5.0
"""By so much a clock may differ from the server's. Due times are kept by the server's clock, others by the host's."""
CLOCK_HINT = "signatures of requests and the age of files depend on it; keep the clocks of all hosts right (NTP)"
T = TypeVar("T")


def keeper_of(store: Store, url: str, *, accounts: Collection[str], options: StoreOptions) -> LeaseKeeper:
    """Return what keeps the leases of this process, on a connection of its own; it opens with the first look."""
    instance = options.instance or InstanceSettings().effective_name
    return LeaseKeeper(
        store,
        PostgresConnection(url, schema=SCHEMA, instance=instance, prepared=options.prepared, was_open=True),
        schema=SCHEMA,
        instance=instance,
        version=__version__,
        accounts=[*accounts, *(SOURCE + name for name in sorted(options.owned))],
        lease_seconds=options.lease_seconds,
    )


class LeaseKeeper:
    """The leadership of one instance among several."""

    is_sole = False

    def __init__(
        self,
        store: Store,
        connection: PostgresConnection,
        *,
        schema: str,
        instance: str,
        version: str,
        accounts: Collection[str],
        lease_seconds: float,
    ) -> None:
        """
        Take what to lead; nothing is taken yet.

        Args:
            store: of the same database.
            connection: used by nobody else.
            schema: that holds the leases.
            instance: the name of this instance.
            version: of this program.
            accounts: that this instance can lead.
            lease_seconds: how long a lease lasts without a renewal.
        """
        self.store = store
        self.surplus = NO_SURPLUS
        self.terms: Mapping[str, int] = {}
        self._instance = instance
        self._connection = connection
        self._table = LeaseTable(schema, seconds=lease_seconds)
        self._membership = Membership(self._table, instance, version=version, leases=[*accounts, UPKEEP])
        self._limit_seconds = lease_seconds / 3
        self._look_seconds = min(LOOK_MOST_SECONDS, lease_seconds / 6)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="leases")
        self._changed: Callable[[], None] = lambda: None
        self._trouble = ""
        self._clock = store.clock if isinstance(store.clock, DatabaseClock) else DatabaseClock()
        self._ahead_seconds = 0.0

    @property
    def trouble(self) -> str:
        """What keeps this instance from leading."""
        found = self.own_trouble
        return f"instance {self._instance}: {found}" if found else self._trouble

    @property
    def own_trouble(self) -> str:
        """What is wrong with this instance itself, for the status on any host."""
        if self._membership.shares_name:
            return SHARED_NAME_HINT
        if not self._trouble and abs(self._ahead_seconds) > MOST_AHEAD_SECONDS:
            ahead = round(self._ahead_seconds)
            words = f"{abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} the database's"
            return f"the clock is {words}: {CLOCK_HINT}"
        return ""

    def term(self, account: str) -> Term:
        """Return the current term of an account that is led here."""
        return LeasedTerm(self, self._table, Holder(account, self.terms[account], self._instance))

    def follow(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, in the loop, whenever terms or surplus changed."""
        self._changed = changed

    def left_seconds(self, holder: Holder) -> float:
        """Return for how long a leader may write requests; may be called in any thread."""
        return self._membership.deadline.left_seconds(boottime()) if self._is_led(holder) else -math.inf

    def may_begin(self, holder: Holder) -> bool:
        """Return whether there is time left for a request of this leader."""
        return self._is_led(holder) and self._membership.deadline.may_begin(boottime())

    def _is_led(self, holder: Holder) -> bool:
        return self._membership.terms.get(holder.name) == holder.term

    def stopped(self, holder: Holder) -> None:
        """Note that a leader has stopped by itself: the next renewal begins another term."""
        self._membership.stopped(holder.name, holder.term)
        self._publish()

    async def run(self) -> None:
        """Keep the leases until cancelled."""
        while True:
            try:
                await self._do(self._look)
            except ListenerError as error:  # also where the server is a standby now: another one may be promoted
                if not self._trouble:
                    log.warning("lease.not_kept", instance=self._instance, error=str(error), hint=error.hint)
                self._trouble = f"leases: {error}"
            else:
                self._trouble = ""
            self._publish()
            await asyncio.sleep(self._look_seconds * random.uniform(0.75, 1.25))  # noqa: S311 - not all at once

    async def give_back(self, accounts: Collection[str]) -> None:
        """Let others lead these; whoever led them here has stopped."""
        await self._do(lambda raw: self._membership.give_back(raw, accounts))
        self._publish()

    async def leave(self) -> None:
        """Let others lead everything, at once; where the database is away, once the lease is over."""
        try:
            await self._do(self._membership.leave)
        except ListenerError as error:
            log.warning("lease.not_kept", instance=self._instance, error=str(error), hint=error.hint)
        finally:
            self._thread.shutdown(wait=False)
            self._connection.end()

    def _publish(self) -> None:
        terms, surplus = self._membership.terms, self._membership.surplus
        if (terms, surplus) != (self.terms, self.surplus):
            self.terms, self.surplus = terms, surplus
            self._changed()

    async def _do(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _look(self, raw: psycopg.Connection[Any]) -> None:
        if not self._membership.is_registered:
            check_version(raw, self._table.schema)  # it may have been upgraded while this instance was cut off
        self._membership.look(raw, boottime)
        asked_at, now, answered_at = time.time(), self._clock.read(raw), time.time()
        # The server looked at its clock at some time in between.
        self._ahead_seconds = max(0.0, asked_at - now) + min(0.0, answered_at - now)

    def _run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        try:
            with self._connection.limited(self._limit_seconds) as raw:
                return work(raw)
        except Fenced:
            raise
        except psycopg.Error as error:
            raise reported(error) from error
