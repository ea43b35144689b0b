"""The verifier: follows every accepted task until it finishes (promises 3 and 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from listener.clock import Clock
from listener.contracts import ReportsTasks, Target
from listener.errors import TargetError
from listener.refresh import Attempt, AttemptState, RefreshKind, Task, TaskState
from listener.settings import VerifierSettings
from listener.urls import Spellings

__all__ = ["Complete", "Failed", "LookAgain", "TaskStore", "Unconfirmed", "Verdict", "Verifier", "verdict"]

log = structlog.get_logger()

TRIES = 8
"""A URL that the CDN failed this many times in a row is rejected."""
BACKOFF_SECONDS = 60.0
BACKOFF_MOST_SECONDS = 3600.0
LOOK_MOST_SECONDS = 600.0
UNCONFIRMED_LOOK_SECONDS = 1800.0
LATE_SECONDS = 600.0
"""Reading a status updates it: a check that is this late, after a suspend, may find an old one."""
HISTORY_SECONDS = 3 * 24 * 3600.0
"""The task list reaches back three days (DescribeRefreshTasks, API version 2018-05-10)."""
IDS_PER_LOOK = 10
"""Task ids in one DescribeRefreshTaskById call."""


class Complete(NamedTuple):
    """The task is done: settle."""


class Failed(NamedTuple):
    """The CDN failed the task: retry at ``retry_at``, or reject the URL after enough tries."""

    retry_at: float
    error: str
    again: bool


class Unconfirmed(NamedTuple):
    """The task did not finish in time: report it, and keep checking now and then."""

    next_look_at: float | None
    error: str


class LookAgain(NamedTuple):
    """The task is running: check again at ``at``."""

    at: float


Verdict = Complete | Failed | Unconfirmed | LookAgain


def verdict(attempt: Attempt, task: Task | None, *, now: float, settings: VerifierSettings) -> Verdict:
    """
    Decide what the state of a task means for its attempt; times in seconds since the epoch.

    An absent task is not listed yet. The first check is after ``first_seconds``; then the wait grows by half, between
    ``interval_seconds`` and ten minutes: with the defaults after 1, 1.5, 2.3, 3.4, 5 minutes and so on, since a refresh
    takes five to six. A check that is :data:`LATE_SECONDS` late never gives up, since the status may be old: the next
    one follows soon.
    """
    if task is not None and task.state is TaskState.COMPLETE:
        return Complete()
    if task is not None and task.state is TaskState.FAILED:
        wait = min(BACKOFF_MOST_SECONDS, max(settings.interval_seconds, BACKOFF_SECONDS) * 2 ** (attempt.tries - 1))
        return Failed(now + wait, task.description or "the CDN reports the task as failed", attempt.tries < TRIES)
    age = now - (attempt.accepted_at if attempt.accepted_at is not None else attempt.created_at)
    late = attempt.next_look_at is not None and now - attempt.next_look_at > LATE_SECONDS and age < HISTORY_SECONDS
    if late:
        return LookAgain(now + settings.interval_seconds)
    if age >= settings.give_up_seconds:
        state = "is not listed" if task is None else f"is {task.state} ({task.progress or 'progress unknown'})"
        again = now + UNCONFIRMED_LOOK_SECONDS if age < HISTORY_SECONDS else None
        return Unconfirmed(again, f"task {attempt.task_id} {state} after {age / 60:.0f} minutes")
    return LookAgain(now + max(settings.interval_seconds, min(LOOK_MOST_SECONDS, age / 2)))


class TaskStore(Protocol):
    """What the verifier needs of the store."""

    async def attempts_in(
        self, *states: AttemptState, due_by: float | None = None, targets: Sequence[str] | None = None
    ) -> list[Attempt]:
        """Return the attempts of these targets in these states whose check is due."""
        ...

    async def complete(self, done: Sequence[Attempt]) -> None:
        """Settle what these attempts cover."""
        ...

    async def sweep(self, attempt: Attempt) -> None:
        """Settle everything below a complete directory attempt."""
        ...

    async def fail(self, attempt: Attempt, *, retry_at: float, error: str) -> None:
        """Record that the CDN failed this attempt."""
        ...

    async def park(self, attempt: Attempt, *, error: str) -> None:
        """Record its URL as rejected."""
        ...

    async def unconfirm(self, attempt: Attempt, *, next_look_at: float | None, error: str) -> None:
        """Record that its task did not finish in time."""
        ...

    async def look_again(self, looks: Sequence[tuple[int, float]]) -> None:
        """Record when each attempt is checked next."""
        ...


class Verifier:
    """Checks the tasks of some targets when they are due; at a target without tasks, accepted means complete."""

    def __init__(
        self, targets: Mapping[str, Target], store: TaskStore, clock: Clock, settings: VerifierSettings
    ) -> None:
        """Take the targets whose tasks to follow."""
        self._targets = targets
        self._store = store
        self._clock = clock
        self._settings = settings

    async def look(self) -> int:
        """Check every task that is due; return how many attempts ended."""
        ended = 0
        for name, target in self._targets.items():
            mine = await self._store.attempts_in(
                AttemptState.ACCEPTED, AttemptState.UNCONFIRMED, due_by=self._clock.now(), targets=[name]
            )
            if not isinstance(target, ReportsTasks):
                ended += await self._carry_out((attempt, Complete()) for attempt in mine)
                continue
            for part in _by_ids(mine):
                ended += await self._look_at(name, target, part)
        return ended

    async def _look_at(self, name: str, target: ReportsTasks, attempts: Sequence[Attempt]) -> int:
        ids = list(dict.fromkeys(i for attempt in attempts for i in _ids(attempt)))
        try:
            tasks = await target.tasks(ids)
        except TargetError as error:
            log.warning("verifier.unreachable", target=name, error=str(error))
            again = self._clock.now() + max(self._settings.interval_seconds, 1.0)
            await self._store.look_again([(attempt.id, again) for attempt in attempts])
            return 0
        known = _by_url(tasks, attempts)
        now = self._clock.now()
        verdicts = [
            (attempt, verdict(attempt, _task(attempt, known), now=now, settings=self._settings)) for attempt in attempts
        ]
        return await self._carry_out(verdicts)

    async def _carry_out(self, verdicts: Iterable[tuple[Attempt, Verdict]]) -> int:
        done: list[Attempt] = []
        looks: list[tuple[int, float]] = []
        ended = 0
        for attempt, found in verdicts:
            match found:
                case Complete():
                    done.append(attempt)
                case LookAgain(at):
                    looks.append((attempt.id, at))
                case Failed() | Unconfirmed():
                    ended += 1
                    await self._trouble(attempt, found)
        if looks:
            await self._store.look_again(looks)
        if done:
            await self._store.complete(done)
            log.info("verifier.complete", target=done[0].target, attempts=len(done))
        return ended + len(done)

    async def _trouble(self, attempt: Attempt, found: Failed | Unconfirmed) -> None:
        if isinstance(found, Unconfirmed):
            if attempt.state is not AttemptState.UNCONFIRMED:
                log.error("verifier.unconfirmed", target=attempt.target, url=attempt.url, error=found.error)
            await self._store.unconfirm(attempt, next_look_at=found.next_look_at, error=found.error)
            return
        log.warning("verifier.failed", target=attempt.target, url=attempt.url, error=found.error, tries=attempt.tries)
        if found.again:
            await self._store.fail(attempt, retry_at=found.retry_at, error=found.error)
        elif attempt.kind is RefreshKind.DIRECTORY:
            error = f"failed {attempt.tries} times: {found.error}"
            await self._store.unconfirm(attempt, next_look_at=None, error=error)
        else:
            await self._store.park(attempt, error=f"failed {attempt.tries} times: {found.error}")


def _ids(attempt: Attempt) -> list[str]:
    return (attempt.task_id or "").split(",")


def _task(attempt: Attempt, known: Mapping[tuple[str, str], Task]) -> Task | None:
    """Return the attempt's own task: ids are shared by requests sent in the same second."""
    found = (known.get((i, attempt.url)) for i in _ids(attempt))
    return next((task for task in found if task is not None), None)


def _by_url(tasks: Sequence[Task], attempts: Sequence[Attempt]) -> dict[tuple[str, str], Task]:
    """Return the tasks by id and URL, whose URLs the CDN may spell differently from the attempts."""
    spellings = Spellings(attempt.url for attempt in attempts)
    return {(task.task_id, spellings.find(task.url) or task.url): task for task in tasks}


def _by_ids(attempts: Sequence[Attempt]) -> Iterable[list[Attempt]]:
    """Yield groups of attempts that together have at most ``IDS_PER_LOOK`` task ids."""
    by_id: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_id.setdefault(attempt.task_id or "", []).append(attempt)
    group: list[Attempt] = []
    ids = 0
    for task_id, members in by_id.items():
        count = len(task_id.split(","))
        if group and ids + count > IDS_PER_LOOK:
            yield group
            group, ids = [], 0
        group += members
        ids += count
    if group:
        yield group
