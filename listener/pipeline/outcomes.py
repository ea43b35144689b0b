"""
What became of requests: accepted tasks are followed to their end, unknown outcomes looked up (promises 3 and 5).

The :class:`Verifier` checks each accepted task until it finishes. :class:`UnknownOutcomes` settles what became of
requests whose answer did not arrive, as their target declares.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog

from listener.clock import Clock
from listener.contracts import FindsTasks, Pace, ReportsTasks, Target, UnknownOutcome, token_mark
from listener.errors import OutcomeUnknown, TargetError
from listener.pipeline.accounts import Account
from listener.pipeline.evidence import CLOCK_MARGIN_SECONDS, LATEST_SECONDS, Evidence, weigh
from listener.pipeline.sender import RESEND_SECONDS, Batch
from listener.refresh import Attempt, AttemptState, RefreshKind, Task, TaskState
from listener.settings import VerifierSettings
from listener.store import Store
from listener.store.attempts import Claim
from listener.urls import Spellings, host_of

__all__ = ["Complete", "Failed", "LookAgain", "Unconfirmed", "UnknownOutcomes", "Verdict", "Verifier", "verdict"]

log = structlog.get_logger()

TRIES = 8
"""A URL that the CDN failed this many times in a row is rejected."""
BACKOFF_SECONDS = 60.0
BACKOFF_MOST_SECONDS = 3600.0
LOOK_MOST_SECONDS = 600.0
UNCONFIRMED_LOOK_SECONDS = 1800.0
LATE_SECONDS = 600.0
"""Reading a status updates it: a check that is this late, after a suspend, may find an old one."""
USUAL_PACE = Pace()


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


def verdict(
    attempt: Attempt, task: Task | None, *, now: float, settings: VerifierSettings, pace: Pace = USUAL_PACE
) -> Verdict:
    """
    Decide what the state of a task means for its attempt; times in seconds since the epoch.

    An absent task is not listed yet. The first check is after ``first_seconds``; then the wait grows by half, between
    ``interval_seconds`` and ten minutes: with the defaults after 1, 1.5, 2.3, 3.4, 5 minutes and so on, since a refresh
    takes five to six. A check that is :data:`LATE_SECONDS` late never gives up, since the status may be old: the next
    one follows soon. What the target says of its pace goes before the settings.
    """
    interval = settings.interval_seconds if pace.interval_seconds is None else pace.interval_seconds
    if task is not None and task.state is TaskState.COMPLETE:
        return Complete()
    if task is not None and task.state is TaskState.FAILED:
        wait = min(BACKOFF_MOST_SECONDS, max(interval, BACKOFF_SECONDS) * 2 ** (attempt.tries - 1))
        return Failed(now + wait, task.description or "the CDN reports the task as failed", attempt.tries < TRIES)
    age = now - (attempt.accepted_at if attempt.accepted_at is not None else attempt.created_at)
    late = attempt.next_look_at is not None and now - attempt.next_look_at > LATE_SECONDS and age < pace.history_seconds
    if late:
        return LookAgain(now + interval)
    if age >= settings.give_up_seconds:
        state = "is not listed" if task is None else f"is {task.state} ({task.progress or 'progress unknown'})"
        again = now + UNCONFIRMED_LOOK_SECONDS if age < pace.history_seconds else None
        return Unconfirmed(again, f"task {attempt.task_id} {state} after {age / 60:.0f} minutes")
    return LookAgain(now + max(interval, min(LOOK_MOST_SECONDS, age / 2)))


class Verifier:
    """Checks the tasks of some targets when they are due; what names no task is complete then."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        store: Store,
        clock: Clock,
        settings: VerifierSettings,
        *,
        completed: Callable[[Sequence[Attempt]], None] | None = None,
    ) -> None:
        """Take the targets whose tasks to follow; ``completed`` takes note of what is complete."""
        self._completed = completed
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
            ended += await self._carry_out((attempt, Complete()) for attempt in mine if not attempt.task_id)
            for part in _by_ids([attempt for attempt in mine if attempt.task_id], most=target.pace.ids_per_look):
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
        known, pace = _by_url(tasks, attempts), self._targets[name].pace
        now = self._clock.now()
        verdicts = [
            (attempt, verdict(attempt, _task(attempt, known), now=now, settings=self._settings, pace=pace))
            for attempt in attempts
        ]
        return await self._carry_out(verdicts)

    async def _carry_out(self, verdicts: Iterable[tuple[Attempt, Verdict]]) -> int:
        done: list[Attempt] = []
        looks: list[tuple[int, float]] = []
        troubles: dict[Failed | Unconfirmed, list[Attempt]] = {}
        for attempt, found in verdicts:
            match found:
                case Complete():
                    done.append(attempt)
                case LookAgain(at):
                    looks.append((attempt.id, at))
                case Failed() | Unconfirmed():
                    troubles.setdefault(found, []).append(attempt)
        for trouble, group in troubles.items():
            await self._trouble(group, trouble)
        if looks:
            await self._store.look_again(looks)
        if done:
            await self._store.complete(done)
            if self._completed is not None:
                self._completed(done)
            log.info("verifier.complete", target=done[0].target, attempts=len(done))
        return sum(map(len, troubles.values())) + len(done)

    async def _trouble(self, attempts: Sequence[Attempt], found: Failed | Unconfirmed) -> None:
        """Note what went wrong in the same way for several."""
        if isinstance(found, Unconfirmed):
            for one in attempts:
                if one.state is not AttemptState.UNCONFIRMED:
                    log.error("verifier.unconfirmed", target=one.target, url=one.url, error=found.error)
            ids = [one.id for one in attempts]
            await self._store.unconfirm(ids, next_look_at=found.next_look_at, error=found.error)
            return
        given_up: dict[tuple[bool, int], list[int]] = {}
        for one in attempts:
            log.warning("verifier.failed", target=one.target, url=one.url, error=found.error, tries=one.tries)
            given_up.setdefault((one.kind is RefreshKind.DIRECTORY, one.tries), []).append(one.id)
        if found.again:
            await self._store.fail([one.id for one in attempts], retry_at=found.retry_at, error=found.error)
            return
        for (is_directory, tries), ids in given_up.items():
            error = f"failed {tries} times: {found.error}"
            if is_directory:
                await self._store.unconfirm(ids, next_look_at=None, error=error)
            else:
                await self._store.park(ids, error=error)


def _ids(attempt: Attempt) -> list[str]:
    return (attempt.task_id or "").split(",")


def _task(attempt: Attempt, known: Mapping[tuple[str, str | None], Task]) -> Task | None:
    """Return the attempt's own task, or that of its request: ids are shared by requests sent in the same second."""
    found = (known.get((i, attempt.url)) or known.get((i, None)) for i in _ids(attempt))
    return next((task for task in found if task is not None), None)


def _by_url(tasks: Sequence[Task], attempts: Sequence[Attempt]) -> dict[tuple[str, str | None], Task]:
    """Return the tasks by id and URL, whose URLs the CDN may spell differently from the attempts."""
    spellings = Spellings(attempt.url for attempt in attempts)
    return {(task.task_id, task.url and (spellings.find(task.url) or task.url)): task for task in tasks}


def _by_ids(attempts: Sequence[Attempt], *, most: int) -> Iterable[list[Attempt]]:
    """Yield groups of attempts that together have at most so many task ids."""
    by_id: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_id.setdefault(attempt.task_id or "", []).append(attempt)
    group: list[Attempt] = []
    ids = 0
    for task_id, members in by_id.items():
        count = len(task_id.split(","))
        if group and ids + count > most:
            yield group
            group, ids = [], 0
        group += members
        ids += count
    if group:
        yield group


MOST_UNKNOWN = 100_000
"""Attempts that are looked at in one round: whole requests, so no small bound."""
MOST_LISTINGS = 5
"""Lists that are read for one host of a request; one suffices unless its tasks have several ids."""


class _Request(NamedTuple):
    """The attempts of one request whose outcome is unknown."""

    attempts: Sequence[Attempt]
    sent_at: float

    @property
    def ids(self) -> list[int]:
        """Return the attempts' ids."""
        return [attempt.id for attempt in self.attempts]


class _Weighed(NamedTuple):
    """What the task list and the other attempts show of one request."""

    by_host: Sequence[Evidence]
    claims: Sequence[Claim]

    @property
    def task_ids(self) -> list[str]:
        """Return the ids of the tasks that hold all of its URLs."""
        return [task_id for one in self.by_host for task_id in one.task_ids]

    @property
    def rivals(self) -> list[Claim]:
        """Return the attempts that may have made the tasks that it seems to have."""
        return [rival for one in self.by_host for rival in (*one.rivals, *one.elders)]


class UnknownOutcomes:
    """
    Settles what became of requests whose answer did not arrive, as their target declares.

    Sent again with its token, given back to be planned again, presumed spent; or found out by the task list. Then a
    request is adopted when the list has a task for each of its URLs, on every host, that no other
    attempt can have made (:mod:`listener.pipeline.evidence`). It is refunded when one URL has no such
    task twice ``first_seconds`` after everything that could have made one was sent. Where several
    requests may have made the same tasks, the oldest at each URL takes them once nothing is awaited any more:
    what the others cover is sent again, so that no URL stays stale. What cannot be settled for
    ``give_up_seconds`` is presumed spent.
    """

    def __init__(
        self,
        account: Account,
        store: Store,
        clock: Clock,
        *,
        first_seconds: float,
        give_up_seconds: float,
        resend: Callable[[Batch], bool],
        unknown_since: Mapping[int, float] | None = None,
    ) -> None:
        """
        Take the account to ask for.

        Args:
            account: whose requests.
            store: holds them.
            clock: the time of day.
            first_seconds: an absence is believed after twice this time.
            give_up_seconds: what cannot be settled for so long is presumed spent.
            resend: queues a request once more with its token; returns False where it is queued already.
            unknown_since: attempts by id that another process was sending when it was followed by this one, in seconds
                since the epoch: it may have sent them until then.
        """
        self._account = account
        self._unknown_since = unknown_since or {}
        self._store = store
        self._clock = clock
        self._first_seconds = first_seconds
        self._give_up_seconds = give_up_seconds
        self._resend = resend
        self._began_at = clock.now()
        self._sent_again: set[int] = set()
        """The first attempts of inherited requests that were sent again."""
        self._latest_seconds = max(LATEST_SECONDS, 2 * first_seconds)

    async def resolve(self) -> int:
        """Look at every request that is due; return how many attempts were settled one way or another."""
        unknown = await self._store.attempts_in(
            AttemptState.UNKNOWN, targets=list(self._account.targets), limit=MOST_UNKNOWN
        )
        now = self._clock.now()
        requests = _requests(unknown)
        settled = 0
        for request in requests:
            is_due = min(attempt.next_look_at or 0.0 for attempt in request.attempts) <= now
            if not is_due and not self._is_inherited(request):
                continue
            settled += await self._settle(request, requests)
        return settled

    async def _settle(self, request: _Request, requests: Sequence[_Request]) -> int:
        target = self._account.targets[request.attempts[0].target]
        match target.unknown_outcome:
            case UnknownOutcome.TASKS if isinstance(target, FindsTasks):
                return await self._look_at(request, requests)
            case UnknownOutcome.TOKEN if token := await self._store.token_of(request.ids):
                return await self._send_with(token, request)
            case UnknownOutcome.REPEAT:
                return await self._refund(request)
            case _:
                return await self._presume_spent(request, "nothing can be learned of it")

    def _is_inherited(self, request: _Request) -> bool:
        """Return whether an earlier process sent a request that this one has not sent again yet: it waits no longer."""
        target = self._account.targets[request.attempts[0].target]
        is_earlier = target.unknown_outcome is UnknownOutcome.TOKEN and request.sent_at < self._began_at
        return is_earlier and request.ids[0] not in self._sent_again

    async def _send_with(self, token: str, request: _Request) -> int:
        """Send a request again with its token, now and then until it is answered."""
        now = self._clock.now()
        age = now - request.sent_at
        if age >= self._give_up_seconds:
            return await self._presume_spent(request, f"sent again for {age / 60:.0f} minutes without an answer")
        if self._would_count_now(request, now):
            return await self._presume_spent(request, "sent again now it would count in a window that reserved nothing")
        if not token.endswith(token_mark(self._account.targets[request.attempts[0].target])):
            return await self._presume_spent(request, "it was sent as another account, or to another place")
        self._sent_again.add(request.ids[0])
        again = now + max(RESEND_SECONDS, min(LOOK_MOST_SECONDS, age / 2))
        await self._store.postpone([(i, again) for i in request.ids])
        one = request.attempts[0]
        in_order = sorted(request.attempts, key=lambda attempt: attempt.id)
        if self._resend(Batch(one.target, one.kind, one.force, tuple(in_order), token=token)):
            log.info("unknowns.sent_again", account=self._account.name, urls=len(request.ids))
        return 0

    def _would_count_now(self, request: _Request, now: float) -> bool:
        """Return whether a request that was not accepted before would be counted in another window than it is here."""
        one = request.attempts[0]
        windows = [each.window for each in self._account.targets[one.target].allowances if one.kind in each.costs]
        latest = now + self._account.guard_before_seconds
        return any(each.start(request.sent_at) != each.start(latest) for each in windows)

    async def _look_at(self, request: _Request, requests: Sequence[_Request]) -> int:
        try:
            weighed = await self._weigh(request)
        except TargetError as error:
            return await self._unanswered(request, error)
        if (settled := await self._settle_surely(request, weighed)) is not None:
            return settled
        rivals = {rival.id for rival in weighed.rivals}
        for other in requests:
            if rivals.intersection(other.ids):
                try:
                    settled = await self._settle_surely(other, await self._weigh(other))
                except TargetError:
                    return await self._wait(request)
                if settled is not None:
                    await self._wait(request)
                    return settled
        # The older is looked at first; one that was presumed spent has taken a task.
        found = weighed.by_host
        if all(one.task_ids for one in found) and all(request.sent_at <= one.sent_at for one in weighed.rivals):
            return await self._adopt(request.attempts, weighed.task_ids)
        return await self._settle_by_url(request, weighed)

    async def _weigh(self, request: _Request) -> _Weighed:
        target = self._account.targets[request.attempts[0].target]
        assert isinstance(target, FindsTasks)
        hosts = _by_host(request)
        # In this order: what is sent or accepted between the two is a claim by the time the list may show it.
        listed = {host: await self._listed(target, request, group) for host, group in hosts.items()}
        claims = await self._claims(request)
        found = []
        for host, group in hosts.items():
            urls = [attempt.url for attempt in group]
            # A long list is weighed in a thread, so that the loop goes on.
            found.append(
                await asyncio.to_thread(
                    weigh, urls, listed[host], claims, sent_at=request.sent_at, latest_seconds=self._latest_seconds
                )
            )
        return _Weighed(found, claims)

    async def _settle_surely(self, request: _Request, weighed: _Weighed) -> int | None:
        """Settle a request, or put it off, by what is sure; ``None``: several may have made the same tasks."""
        now, found = self._clock.now(), weighed.by_host
        if all(one.task_ids for one in found):
            if any(one.certain for one in found):
                return await self._adopt(request.attempts, weighed.task_ids)
            return await self._wait(request) if self._may_still_show(now, request, weighed.rivals) else None
        absent_at = self._latest_at(request) + 2 * self._first_seconds
        if now < absent_at:
            again = max(now + self._first_seconds / 2, absent_at)
            await self._store.look_again([(attempt.id, again) for attempt in request.attempts])
            return 0
        if not any(one.unlisted for one in found) and self._may_still_show(now, request, weighed.claims):
            return await self._wait(request)
        return None if all(one.left for one in found) else await self._refund(request)

    async def _settle_by_url(self, request: _Request, weighed: _Weighed) -> int:
        """Credit to each URL the task that is left for it, and refund what none is left for."""
        elders = [elder for one in weighed.by_host for elder in one.elders]
        if any(elder.unknown for elder in elders):
            return await self._wait(request)
        left = {url: ids for one in weighed.by_host for url, ids in one.left.items()}
        taken = Counter(elder.url for elder in elders)  # those that were presumed spent
        adopted = [attempt for attempt in request.attempts if len(left.get(attempt.url, ())) > taken[attempt.url]]
        others = [attempt for attempt in request.attempts if attempt not in adopted]
        if adopted:
            await self._adopt(adopted, [task_id for attempt in adopted for task_id in left[attempt.url]])
        if others:
            await self._refund(request._replace(attempts=others))
        return len(request.attempts)

    def _may_still_show(self, now: float, request: _Request, claims: Sequence[Claim]) -> bool:
        """Return whether the answer to one of these is awaited, or its task may be missing from the list yet."""
        others = [max(claim.sent_at, self._unknown_since.get(claim.id, claim.sent_at)) for claim in claims]
        latest = max([self._latest_at(request), *others])
        return any(claim.sending for claim in claims) or now < latest + 2 * self._first_seconds

    def _latest_at(self, request: _Request) -> float:
        """Return when it was sent at the latest, in seconds since the epoch."""
        return max([request.sent_at, *(self._unknown_since[i] for i in request.ids if i in self._unknown_since)])

    async def _adopt(self, attempts: Sequence[Attempt], task_ids: Iterable[str]) -> int:
        ids = ",".join(dict.fromkeys(task_ids))
        log.info("unknowns.adopted", account=self._account.name, urls=len(attempts), task=ids)
        tasks = dict.fromkeys([attempt.id for attempt in attempts], ids)
        await self._store.accept(tasks, next_look_at=self._clock.now(), inferred=True)
        return len(attempts)

    async def _refund(self, request: _Request) -> int:
        log.info("unknowns.refunded", account=self._account.name, urls=len(request.attempts))
        await self._store.refund(request.ids)
        return len(request.attempts)

    async def _wait(self, request: _Request) -> int:
        again = self._clock.now() + self._first_seconds / 4
        await self._store.postpone([(i, again) for i in request.ids])
        return 0

    async def _claims(self, request: _Request) -> list[Claim]:
        one, margin = request.attempts[0], self._latest_seconds + 2 * CLOCK_MARGIN_SECONDS
        return await self._store.claims_at(
            [attempt.url for attempt in request.attempts],
            account=self._account.name,
            kind=one.kind,
            sent_between=(request.sent_at - margin, request.sent_at + margin),
            aside=request.ids,
        )

    async def _listed(self, target: FindsTasks, request: _Request, group: Sequence[Attempt]) -> list[Task]:
        """Return the listed tasks of these URLs that have an id in common with a task of the request's time."""
        kind, spellings = group[0].kind, Spellings(attempt.url for attempt in group)
        found: dict[str, list[Task]] = {}
        unlisted = [attempt.url for attempt in group]
        for _ in range(MOST_LISTINGS):
            tasks = await target.find_tasks(
                kind,
                unlisted[0],
                since=request.sent_at - CLOCK_MARGIN_SECONDS,
                until=self._clock.now() + CLOCK_MARGIN_SECONDS,
            )
            new = [task_id for task_id in dict.fromkeys(task.task_id for task in tasks) if task_id not in found]
            if not new:
                return [task for listed in found.values() for task in listed]
            found |= {task_id: [] for task_id in new}
            for task in await target.tasks(new):
                if task.kind is kind and task.url and (url := spellings.find(task.url)):
                    found.setdefault(task.task_id, []).append(task._replace(url=url))
            known = {task.url for listed in found.values() for task in listed}
            unlisted = [url for url in unlisted if url not in known]
            if not unlisted:
                return [task for listed in found.values() for task in listed]
        message = f"the tasks of {len(group)} URLs have too many ids to be distinguished"
        raise OutcomeUnknown(message, code="listener.history")

    async def _unanswered(self, request: _Request, error: TargetError) -> int:
        now = self._clock.now()
        if now - request.sent_at < self._give_up_seconds:
            await self._store.postpone([(i, now + self._first_seconds) for i in request.ids])
            return 0
        return await self._presume_spent(request, str(error))

    async def _presume_spent(self, request: _Request, error: str) -> int:
        """Count the request as spent, and send its URLs again."""
        log.error("unknowns.presumed_spent", account=self._account.name, urls=len(request.ids), error=error)
        await self._store.presume_spent(request.ids, error=f"unknown whether it was accepted: {error}")
        return len(request.ids)


def _requests(unknown: Sequence[Attempt]) -> list[_Request]:
    """Join attempts to the requests that they were sent in, the oldest first; no two have the same ``sent_at``."""
    sent: dict[tuple[object, ...], list[Attempt]] = {}
    for attempt in unknown:
        sent.setdefault((attempt.target, attempt.kind, attempt.force, attempt.sent_at), []).append(attempt)
    requests = [_Request(attempts, attempts[0].sent_at or attempts[0].created_at) for attempts in sent.values()]
    return sorted(requests, key=lambda request: request.sent_at)


def _by_host(request: _Request) -> dict[str, list[Attempt]]:
    hosts: dict[str, list[Attempt]] = {}
    for attempt in request.attempts:
        hosts.setdefault(host_of(attempt.url), []).append(attempt)
    return hosts
