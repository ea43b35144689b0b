"""A target that answers as a test says, in a world of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

from listener.allowances import Day, for_each_kind
from listener.contracts import Check, KindLimits, TargetBase
from listener.errors import TargetError
from listener.refresh import Receipt, RefreshKind, Task
from tests.pipeline.world import MovableClock, World, settings_for

__all__ = ["BASE", "Scripted", "Sent", "a_world_of"]

BASE = "https://www.example.com/"


class Sent(NamedTuple):
    """One request as the target got it."""

    kind: RefreshKind
    urls: tuple[str, ...]
    force: bool
    token: str


class Scripted(TargetBase):
    """Answers each request with the next of ``answers``, and then accepts whatever comes."""

    limits: ClassVar = {RefreshKind.FILE: KindLimits(10), RefreshKind.DIRECTORY: KindLimits(1)}
    allowances = for_each_kind({RefreshKind.FILE: 10, RefreshKind.DIRECTORY: 2}, Day())

    def __init__(self, *answers: TargetError | Receipt) -> None:
        """Answer the first requests like this."""
        super().__init__("cdn", None)
        self.account = "main"
        self.answers = list(answers)
        self.sent: list[Sent] = []

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Note the request, and answer."""
        self.sent.append(Sent(kind, tuple(urls), force, token))
        answer = self.answers.pop(0) if self.answers else Receipt()
        if isinstance(answer, TargetError):
            raise answer
        return answer

    async def check(self) -> Sequence[Check]:
        """Probe nothing."""
        return []


class WithTasks(Scripted):
    """One whose CDN has tasks, one for each request."""

    def __init__(self, *answers: TargetError | Receipt) -> None:
        """Know no task."""
        super().__init__(*answers)
        self.listed: list[Task] = []
        self.found: list[Task] = []

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return those of the listed ones."""
        return [task for task in self.listed if task.task_id in task_ids]

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """Return what the test says."""
        return self.found


@asynccontextmanager
async def a_world_of(
    folder: Path, target: Any, *, first_seconds: float = 0.2, extra: dict[str, Any] | None = None
) -> AsyncIterator[World]:
    """Run a pipeline whose only target is this one."""
    edge: Any = SimpleNamespace(edge_url=BASE.rstrip("/"))
    verifier = {"verifier": {"first_seconds": first_seconds, "interval_seconds": 0.1}, **(extra or {})}
    world = World(folder, settings_for(folder, edge, verifier), edge, target)
    world.clock = MovableClock()
    await world.start()
    try:
        yield world
    finally:
        await world.stop()
