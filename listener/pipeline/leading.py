"""
Who leads each account here, for as long as its term lasts.

A :class:`Leader` has an account's engine, sender and verifier. Nothing of it outlives the term: the next one begins
with a take-over, an empty memory, a reading of the live quota and small batches, and plans then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any

import structlog

from listener.errors import Fenced, ListenerError
from listener.pipeline.engine import Engine
from listener.pipeline.intake import StoreRetry
from listener.pipeline.waking import TICK_SECONDS, WakeUp
from listener.refresh import AttemptState
from listener.store.leadership import Leadership, Term

__all__ = ["DRAIN_SECONDS", "Leader", "Leaders", "cancel"]

log = structlog.get_logger()

DRAIN_SECONDS = 20.0
"""What an end waits for requests under way; their time-outs are shorter."""
LOST_SECONDS = 5.0
"""What the end of a lost term waits: its requests are over with the lease, and a new term may begin here after it."""
HAND_OVER = "hand over"
Work = Coroutine[Any, Any, None]


class Leader:
    """Runs an account's engine, sender and verifier from the beginning of a term to its end."""

    def __init__(self, engine: Engine, term: Term, *, follow: Callable[[], Work]) -> None:
        """Take the engine; ``follow`` follows the account's attempts until it is cancelled. Nothing starts yet."""
        self.engine = engine
        self.term = term
        self._follow = follow
        self._planners: list[asyncio.Task[None]] = []
        self._others: list[asyncio.Task[None]] = []

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start its tasks; each is named after the account."""
        engine, name = self.engine, self.term.account

        def begin(what: str, work: Work) -> asyncio.Task[None]:
            return tasks.create_task(self._until_fenced(work), name=f"{what} {name}")

        self._planners = [begin("dispatch", engine.dispatch()), begin("watch", engine.watch())]
        self._others = [begin("send", engine.sender.run()), begin("verify", self._follow())]

    async def stop_planning(self) -> None:
        """Reserve nothing more; a quota reading that hangs must not hold up the end."""
        await cancel(self._planners)

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for the requests under way, but not for ever."""
        await self.engine.sender.drain(timeout_seconds)

    async def stop(self) -> None:
        """End what is left."""
        await cancel([*self._planners, *self._others])

    async def end(self, timeout_seconds: float = DRAIN_SECONDS) -> None:
        """End everything in order; what is under way has so long. Where that is cut short, at once."""
        try:
            await self.stop_planning()
            await self.drain(timeout_seconds)
        finally:
            await self.stop()

    async def give_back(self) -> None:
        """Refund what is reserved and will not be sent any more."""
        store, targets = self.term.store, list(self.engine.account.targets)
        await store.look_again([])  # whatever was still on its way to the writer is written now
        while held := await store.attempts_in(AttemptState.HELD, targets=targets):
            await store.refund([attempt.id for attempt in held])

    async def _until_fenced(self, work: Work) -> None:
        try:
            await work
        except Fenced as error:
            log.warning("lease.fenced", account=self.term.account, term=self.term.number, error=str(error))
            self.term.end()


class Leaders:
    """The leaders of the accounts that this process leads: they come and go with its terms."""

    def __init__(
        self,
        leadership: Leadership,
        accounts: Mapping[str, Collection[str]],
        *,
        make: Callable[[Term], Leader],
        retry: StoreRetry,
    ) -> None:
        """
        Take the leadership; nothing starts yet.

        Args:
            leadership: says which accounts are led here.
            accounts: that can be led, with their targets.
            make: makes the leader of a term, with an empty memory.
            retry: repeats what the store could not do.
        """
        self._leadership = leadership
        self._accounts = frozenset(accounts)
        self._account_of = {target: account for account, targets in accounts.items() for target in targets}
        self._make = make
        self._retry = retry
        self._led: dict[str, Leader] = {}
        self._busy: set[str] = set()
        """Accounts whose leaders begin or end."""
        self.changed = WakeUp()
        """Set whenever terms begin or end."""
        self._tasks: asyncio.TaskGroup | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._follower: asyncio.Task[None] | None = None
        if leadership.is_sole:
            self._led = {name: make(leadership.term(name)) for name in accounts}
        leadership.follow(self.changed.set)

    @property
    def present(self) -> Collection[Leader]:
        """Those who lead now."""
        return self._led.values()

    @property
    def are_sole(self) -> bool:
        """Whether this process leads all accounts for as long as it runs."""
        return self._leadership.is_sole

    def of(self, targets: Iterable[str]) -> set[Leader]:
        """Return who leads the accounts of these targets, as far as they are led here."""
        found = (self._led.get(self._account_of.get(target, "")) for target in targets)
        return {leader for leader in found if leader is not None}

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start those who lead; return the task that keeps the leadership."""
        self._tasks = tasks
        for leader in self.present:
            leader.start(tasks)
        if not self._leadership.is_sole:
            self._follower = tasks.create_task(self._follow(), name="follow terms")
        return [tasks.create_task(self._leadership.run(), name="keep leadership")]

    async def stop_planning(self) -> None:
        """Let no further term begin, and reserve nothing more."""
        if self._follower is not None:
            await cancel([self._follower])
        await self._each(leader.stop_planning() for leader in self.present)

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for the requests under way, but not for ever."""
        await self._each(leader.drain(timeout_seconds) for leader in self.present)

    async def stop(self) -> None:
        """End what is left."""
        await cancel(list(self._jobs))
        await self._each(leader.stop() for leader in self.present)

    async def give_back(self) -> None:
        """Refund what is reserved."""
        for leader in self.present:
            with suppress(Fenced):  # another one does it
                await leader.give_back()

    async def _each(self, work: Iterable[Awaitable[None]]) -> None:
        await asyncio.gather(*work)

    async def _follow(self) -> None:
        """Begin and end leaders as terms begin and end, for ever."""
        while True:
            since = self.changed.count
            self._agree()
            await self.changed.wait(TICK_SECONDS, since=since)

    def _agree(self) -> None:
        terms = self._leadership.terms
        for name, leader in list(self._led.items()):
            if terms.get(name) != leader.term.number and name not in self._busy:
                del self._led[name]
                self._busy.add(name)  # a request of an older term must not follow one of a newer term
                self._run(self._end(name, leader), f"end {name}")
        for name in self._accounts & terms.keys() - self._led.keys() - self._busy:
            self._busy.add(name)
            self._run(self._begin(self._leadership.term(name)), f"take over {name}")
        surplus, most = self._leadership.surplus
        movable = self._led.keys() & surplus - self._busy
        names = sorted(movable, key=lambda name: not self._led[name].engine.idle)[:most]
        if names and not any(job.get_name() == HAND_OVER for job in self._jobs):
            self._busy.update(names)
            self._run(self._hand_over(names), HAND_OVER)

    def _run(self, work: Work, name: str) -> None:
        assert self._tasks is not None
        task = self._tasks.create_task(work, name=name)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _begin(self, term: Term) -> None:
        name = term.account
        try:
            await self._retry.until_done("take over", term.take_over)
            leader = self._led[name] = self._make(term)
            log.info("lease.leads", account=name, term=term.number)
            leader.start(self._present_tasks())
        except Fenced:
            term.end()
        finally:
            self._free([name])

    async def _end(self, name: str, leader: Leader) -> None:
        log.warning("lease.leader_ends", account=name, term=leader.term.number)
        try:
            await leader.end(LOST_SECONDS)
        finally:
            self._free([name])

    async def _hand_over(self, names: Collection[str]) -> None:
        leaders = [self._led[name] for name in names]
        try:
            await self._each(leader.end() for leader in leaders)
            for leader in leaders:
                with suppress(Fenced):
                    await self._retry.until_done("hand over", leader.give_back)
                del self._led[leader.term.account]
            log.info("lease.handed_over", accounts=list(names))
            await self._leadership.give_back(names)
        except ListenerError as error:
            log.warning("lease.not_handed_over", accounts=list(names), error=str(error), hint=error.hint)
        finally:
            self._free(names)

    def _free(self, names: Iterable[str]) -> None:
        self._busy.difference_update(names)
        self.changed.set()

    def _present_tasks(self) -> asyncio.TaskGroup:
        assert self._tasks is not None
        return self._tasks


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel these tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
