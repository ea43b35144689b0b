"""Unknown outcomes: the task list is asked before anything is sent again (promise 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from listener.clock import Clock
from listener.contracts import Target
from listener.errors import TargetError
from listener.pipeline.accounts import Account
from listener.pipeline.batches import host_of
from listener.refresh import Attempt, AttemptState, Task
from listener.store import Store

__all__ = ["SKEW_SECONDS", "Unknowns"]

log = structlog.get_logger()

SKEW_SECONDS = 5.0
"""How far the CDN's clock may be from ours when a task is recognised by its creation time."""


class _Request(NamedTuple):
    """The attempts of one request whose outcome is unknown."""

    attempts: Sequence[Attempt]
    own: frozenset[int]
    """Those whose URL no other unknown request holds: a task of such a URL can only be this one's."""
    waits: bool
    """Whether it has none of its own, and another that shares a URL has, or is later: that one is asked for first."""
    looks_at: float


class Unknowns:
    """
    Finds out what became of requests whose answer did not arrive.

    A request is accepted or refused as a whole, so one URL per host is asked for, if possible one that
    no other unknown request holds; where there is none, the task found must hold all of the request's
    URLs. Found for every host: adopted. Absent twice ``first_seconds`` after it was sent:
    refunded; sooner a task that was accepted can be missing from the list. Not to be asked for
    ``give_up_seconds``: presumed spent.
    """

    def __init__(self, account: Account, store: Store, clock: Clock, *, first_seconds: float, give_up_seconds: float):
        """Take the account to ask for, and how long to wait before an absence is believed (twice ``first_seconds``)."""
        self._account = account
        self._store = store
        self._clock = clock
        self._first_seconds = first_seconds
        self._give_up_seconds = give_up_seconds

    async def resolve(self) -> int:
        """Look at every request that is due; return how many attempts were settled one way or another."""
        unknown = await self._store.attempts_in(AttemptState.UNKNOWN, targets=list(self._account.targets))
        now = self._clock.now()
        settled = 0
        for request in _requests(unknown):
            if request.looks_at > now:
                continue
            if request.waits:
                await self._store.postpone(
                    [(attempt.id, now + self._first_seconds / 4) for attempt in request.attempts]
                )
            else:
                settled += await self._request(request)
        return settled

    async def _request(self, request: _Request) -> int:
        attempts = request.attempts
        target = self._account.targets[attempts[0].target]
        now = self._clock.now()
        sent_at = attempts[0].sent_at or attempts[0].created_at
        try:
            found = await self._find(target, request, sent_at)
        except TargetError as error:
            return await self._unanswered(attempts, sent_at, now, error)
        if found:
            ids = ",".join(dict.fromkeys(task.task_id for task in found))
            log.info("unknowns.adopted", account=self._account.name, urls=len(attempts), task=ids)
            await self._store.accept({attempt.id: ids for attempt in attempts}, next_look_at=now)
            return len(attempts)
        if now >= sent_at + 2 * self._first_seconds:
            log.info("unknowns.refunded", account=self._account.name, urls=len(attempts))
            await self._store.refund([attempt.id for attempt in attempts])
            return len(attempts)
        again = max(now + self._first_seconds / 2, sent_at + 2 * self._first_seconds)
        await self._store.look_again([(attempt.id, again) for attempt in attempts])
        return 0

    async def _find(self, target: Target, request: _Request, sent_at: float) -> list[Task]:
        """Return the tasks that this request made, one for each host; none when they are not all there."""
        hosts: dict[str, list[Attempt]] = {}
        for attempt in request.attempts:
            hosts.setdefault(host_of(attempt.url), []).append(attempt)
        found: list[Task] = []
        for group in hosts.values():
            witness = next((attempt for attempt in group if attempt.id in request.own), group[0])
            task = await self._task_of(target, witness, sent_at)
            if task is None or (witness.id not in request.own and not await self._holds(target, task, group)):
                return []
            found.append(task)
        return found

    async def _task_of(self, target: Target, witness: Attempt, sent_at: float) -> Task | None:
        """Return a task of this URL from the time of the request on that is no other attempt's."""
        tasks = await target.find_tasks(
            witness.kind, witness.url, since=sent_at - SKEW_SECONDS, until=self._clock.now() + SKEW_SECONDS
        )
        # Requests of one second share an id: as many rows of it as other attempts have are theirs.
        theirs = await self._store.task_ids_of(witness)
        ours = [task for task in tasks if task.url == witness.url]
        seen = Counter(task.task_id for task in ours)
        return next((task for task in ours if seen[task.task_id] > theirs[task.task_id]), None)

    async def _holds(self, target: Target, task: Task, group: Sequence[Attempt]) -> bool:
        """Whether the task holds every URL of the group: else it is of another request that shares some of them."""
        listed = {one.url for one in await target.tasks([task.task_id])}
        return all(attempt.url in listed for attempt in group)

    async def _unanswered(self, attempts: Sequence[Attempt], sent_at: float, now: float, error: TargetError) -> int:
        ids = [attempt.id for attempt in attempts]
        if now - sent_at < self._give_up_seconds:
            await self._store.postpone([(i, now + self._first_seconds) for i in ids])
            return 0
        log.error("unknowns.presumed_spent", account=self._account.name, urls=len(ids), error=str(error))
        await self._store.presume_spent(ids, error=f"nobody could tell whether it was accepted: {error}")
        return len(ids)


def _requests(unknown: Sequence[Attempt]) -> list[_Request]:
    """Join attempts to the requests that they were sent in, those with a URL of their own first, then the latest."""
    sent: dict[tuple[object, ...], list[Attempt]] = {}
    for attempt in unknown:
        sent.setdefault((attempt.target, attempt.kind, attempt.force, attempt.sent_at), []).append(attempt)
    holders: dict[tuple[object, ...], list[tuple[object, ...]]] = {}
    for key, attempts in sent.items():
        for attempt in attempts:
            holders.setdefault((attempt.target, attempt.kind, attempt.url), []).append(key)

    def shared_with(attempt: Attempt) -> list[tuple[object, ...]]:
        return holders[attempt.target, attempt.kind, attempt.url]

    own = {
        key: frozenset(attempt.id for attempt in attempts if len(shared_with(attempt)) == 1)
        for key, attempts in sent.items()
    }
    found = []
    for key, attempts in sent.items():
        others = {other for attempt in attempts for other in shared_with(attempt) if other != key}
        waits = not own[key] and any(own[other] or _sent_at(sent[other]) > _sent_at(attempts) for other in others)
        looks_at = min(attempt.next_look_at or 0.0 for attempt in attempts)
        found.append(_Request(attempts, own[key], waits, looks_at))
    return sorted(found, key=lambda request: (not request.own, -_sent_at(request.attempts)))


def _sent_at(attempts: Sequence[Attempt]) -> float:
    return attempts[0].sent_at or attempts[0].created_at
