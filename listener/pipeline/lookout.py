"""
One look at the store for all accounts: what is due, and what any process changed, wakes those that have to act.

Each account sleeps until its own attempts are due, a plan of its own is to be made again, or something of its own is
ready. An account that nothing waits for has no row in the agenda, and costs nothing but its leader's memory.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from listener.clock import Clock
from listener.pipeline.intake import StoreRetry
from listener.pipeline.leading import Leaders
from listener.pipeline.waking import TICK_SECONDS, WakeUp
from listener.settings import Settings
from listener.store import Store
from listener.store.attempts import Agenda

__all__ = ["LEAST_LOOK_SECONDS", "LOOK_SECONDS", "Lookout"]

LOOK_SECONDS: Final = 1.0
"""
How often, at most, the store is read after commits, and how often where those of other processes are not announced.
"""
LEAST_LOOK_SECONDS: Final = 0.05
"""The least pause between two reads, also where shorter times are set: each costs a tenth of a millisecond or more."""
ON_ITS_WAY_SECONDS: Final = 0.1
"""How much earlier than its announcement a commit may be read."""


class Lookout:
    """Reads the store after commits and when something is due, and wakes the leaders concerned."""

    def __init__(self, store: Store, clock: Clock, leaders: Leaders, *, settings: Settings, retry: StoreRetry) -> None:
        """Take the leaders that it wakes; nothing is read yet."""
        self._store = store
        self._clock = clock
        self._leaders = leaders
        self._retry = retry
        verifier, quiet_seconds = settings.verifier, settings.coalescer.quiet_seconds
        shortest_seconds = min(quiet_seconds, verifier.first_seconds / 2, verifier.interval_seconds / 2)
        self._pause_seconds = min(LOOK_SECONDS, max(LEAST_LOOK_SECONDS, shortest_seconds))
        self.settle_due = WakeUp()
        """Set by the owner of a state file when something is to be settled, of whatever target."""
        self.stored = WakeUp()
        """Set after each commit, of any process."""
        self.missed_wake_ups = 0
        """How often a change was found that nothing had announced."""

    def look(self) -> None:
        """Read the store soon."""
        self.stored.set()

    async def run(self, changed: Callable[[], Awaitable[None]], *, committed: Callable[[], None]) -> None:
        """
        Look for ever: with nothing due once in a tick, or once a second where commits of others are not announced.

        Args:
            changed: runs after whatever was changed that has no time.
            committed: called after each commit.
        """

        def note() -> None:
            self.stored.set()
            committed()

        revision, is_announced = -1, True
        with self._store.announcing(note) as announcements:
            while True:
                since = self.stored.count
                agenda = await self._retry.until_done("look", self._store.agenda)
                is_new, revision = agenda.revision != revision, agenda.revision
                if is_new and not is_announced and announcements.of_others:
                    self.missed_wake_ups += not await self.stored.wait(ON_ITS_WAY_SECONDS, since=since)
                attempts_in = self._wake_for_attempts(agenda)
                if is_new:
                    self._wake_for_changes(agenda)
                if (need_in := self._need_in(agenda)) <= 0:
                    await self._retry.until_done("plan", self._promote)
                if is_new:
                    await self._retry.until_done("confirm", changed)
                wait = min(attempts_in, need_in, TICK_SECONDS if announcements.of_others else LOOK_SECONDS)
                rest = min(max(need_in, LEAST_LOOK_SECONDS), self._pause_seconds)
                await asyncio.sleep(rest)
                is_announced = await self.stored.wait(max(0.0, wait - rest), since=since)

    def _wake_for_attempts(self, agenda: Agenda) -> float:
        """Wake those whose attempts are due; return in how many seconds the next ones are."""
        now, is_sole = self._clock.now(), self._leaders.are_sole
        due_at = dict(agenda.look_at)
        if is_sole:
            if min(agenda.settle_at.values(), default=math.inf) <= now:
                self.settle_due.set()
        else:
            due_at |= {name: min(at, due_at.get(name, math.inf)) for name, at in agenda.settle_at.items()}
        led = {name: leader for name in due_at for leader in self._leaders.of([name])}
        for name, leader in led.items():
            if due_at[name] <= now:
                leader.engine.look_at_attempts()
        times = [*(due_at[name] for name in led), *(agenda.settle_at.values() if is_sole else ())]
        return min(times, default=math.inf) - now

    def _wake_for_changes(self, agenda: Agenda) -> None:
        """Wake those who may have to plan once more."""
        ready = self._leaders.of(agenda.ready)
        for leader in self._leaders.present:
            leader.engine.follow(agenda.revision, has_ready=leader in ready)

    def _need_in(self, agenda: Agenda) -> float:
        """Return in how many seconds the next waiting need is due, of any account; where none is led here, never."""
        if agenda.need_due_at is None or not self._leaders.present:
            return math.inf
        return agenda.need_due_at - self._clock.now()

    async def _promote(self) -> None:
        """Let needs that are due be planned, of any account: whoever leads another one finds them by their rows."""
        promoted = await self._store.promote_due()
        now = self._clock.now()
        for leader in self._leaders.of(target for target, _, _ in promoted):
            leader.engine.account.promoted(promoted, now)
            leader.engine.wake()
