"""One account during one term: its engine plans, its sender sends, its verifier follows the tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from listener.errors import Fenced
from listener.pipeline.engine import Engine
from listener.store.leadership import Term

__all__ = ["Leader", "cancel"]

log = structlog.get_logger()

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

    async def _until_fenced(self, work: Work) -> None:
        try:
            await work
        except Fenced as error:
            log.warning("lease.fenced", account=self.term.account, term=self.term.number, error=str(error))
            self.term.end()


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel these tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
