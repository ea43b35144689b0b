"""
One account's leadership under a lease: its fence, what the last leader left, and answers that came too late.

What a dead or frozen leader left is sorted out in the first transaction of the next term. Reserved: nothing was
written, and the fence keeps it from being written, so it is refunded. Being sent: it may have been written, or may be
yet, by a process that is frozen between its last look at the time and the write. So its outcome is unknown from the
take-over on, by the database's clock, and that the CDN does not list it is believed some time after that only.

An answer that arrives after the term is kept without a fence. The leader of the day books it: what is still unknown was
accepted; what is no longer was charged in addition, and counts as spent by others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol, cast

import psycopg
import structlog

from listener.errors import Fenced
from listener.refresh import AttemptState, RefreshKind
from listener.store import attempts
from listener.store.charges import BookingKey, Charge
from listener.store.connection import Connection
from listener.store.ledger import book_others
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.leases import Holder, LateAnswer, LeaseTable
from listener.store.sqlite.migrations import FILES_EVICT
from listener.store.store import Store

__all__ = ["Keeper", "LeasedTerm", "book_late", "sort_out"]

log = structlog.get_logger()


def sort_out(connection: Connection, table: LeaseTable, account: str, *, now: float) -> dict[int, float]:
    """
    Sort out what the last leader of an account left; the first transaction of a term, behind its fence.

    Args:
        connection: the writing connection, inside the transaction.
        table: of the leases.
        account: whose attempts.
        now: when unknown outcomes are looked at first, in seconds since the epoch.

    Returns:
        Attempts by id that an earlier leader was sending and whose outcomes are unknown: for how many seconds.
    """
    sending = attempts.sort_out(connection, now=now, account=account)
    connection.execute(f"{FILES_EVICT} AND account = ? AND token = ''", (account,))  # what version 14 sent
    return table.inherit(_raw(connection), sending)


def book_late(connection: Connection, table: LeaseTable, account: str, *, now: float) -> int:
    """Book an account's late answers, behind the fence of its term; return how many attempts that were."""
    late = table.take_late(_raw(connection), account)
    if not late:
        return 0
    states = attempts.states_of(connection, [one.attempt for one in late])
    unknown = {attempt for attempt, (state, _) in states.items() if state is AttemptState.UNKNOWN}
    adopted = {one.attempt: one.task_id for one in late if one.attempt in unknown}
    attempts.accept(connection, adopted, now=now, next_look_at=now)
    twice = [one for one in late if not _is_known(one, states, adopted)]
    extra: Counter[BookingKey] = Counter()
    for charge in (charge for one in twice for charge in one.charges):
        extra[account, charge.allowance, charge.window] += charge.units
    book_others(connection, extra)
    log.warning("lease.late_answers", account=account, adopted=len(adopted), charged_twice=len(twice))
    return len(late)


def _is_known(answer: LateAnswer, states: Mapping[int, tuple[AttemptState, str]], adopted: Mapping[int, str]) -> bool:
    """Return whether the unit of an answer is booked with its attempt: adopted now, or found in the list before."""
    if answer.attempt in adopted:
        return adopted[answer.attempt] == answer.task_id
    _, task_ids = states.get(answer.attempt, (AttemptState.FAILED, ""))
    return not set(answer.task_id.split(",")).isdisjoint(filter(None, task_ids.split(",")))


def _raw(connection: Connection) -> psycopg.Connection[Any]:
    return cast("PostgresConnection", connection).raw


class Keeper(Protocol):
    """Who keeps the lease of a term."""

    store: Store

    def left_seconds(self, holder: Holder) -> float:
        """Return for how long its leader may write requests."""
        ...

    def may_begin(self, holder: Holder) -> bool:
        """Return whether there is time left for a request."""
        ...

    def stopped(self, holder: Holder) -> None:
        """Note that its leader has stopped by itself."""
        ...


class LeasedTerm:
    """The leadership of one account until another term begins."""

    def __init__(self, keeper: Keeper, table: LeaseTable, holder: Holder) -> None:
        """Take who keeps the lease, and which term of it."""
        self.account = holder.name
        self.number = holder.term
        self.store = keeper.store.under(self._fence)
        self.unknown_seconds: Mapping[int, float] = {}
        self._keeper = keeper
        self._table = table
        self._holder = holder
        self._losses = self._count_losses()

    def _count_losses(self) -> int:
        counted = self._keeper.store.counted
        return 0 if counted is None else len(counted.mark.losses)

    def _fence(self, connection: Connection) -> None:
        """
        Prove that the term holds. It ends with a loss of commits, too.

        The ids that its leader remembers may be those of other attempts by now, and the ledger lacks what was spent.
        """
        if self._count_losses() != self._losses:
            raise Fenced(f"term {self.number} of {self.account} has ended: the database lost commits")
        self._table.fence(_raw(connection), self._holder)

    def left_seconds(self) -> float:
        """Return for how long requests may be written."""
        return -math.inf if self._count_losses() != self._losses else self._keeper.left_seconds(self._holder)

    def may_begin(self) -> bool:
        """Return whether there is time left for a request."""
        return self._count_losses() == self._losses and self._keeper.may_begin(self._holder)

    async def take_over(self) -> None:
        """Sort out what the last leader left."""
        now = self.store.clock.now()
        self.unknown_seconds = await self.store._write(sort_out, self._table, self.account, now=now)

    async def note_late_answer(
        self, tasks: Mapping[int, str], *, kind: RefreshKind, charges: tuple[Charge, ...]
    ) -> None:
        """Keep for the next leader what the CDN accepted."""
        answers = [LateAnswer(attempt, kind.value, charges, task_id) for attempt, task_id in tasks.items()]
        # Not behind the fence, which has refused it.
        await self._keeper.store._write(lambda c: self._table.note_late(_raw(c), self._holder, answers))

    async def book_late_answers(self) -> int:
        """Book what the CDN accepted from earlier leaders."""
        return await self.store._write(book_late, self._table, self.account, now=self.store.clock.now())

    def end(self) -> None:
        """Note that the leader stops by itself."""
        self._keeper.stopped(self._holder)
