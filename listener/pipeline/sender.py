"""
The sender: held attempts become requests, and every answer is booked (promises 4 and 6).

Which attempts go into one request is decided by pure functions at the end (:func:`into_batches`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import structlog

from listener.clock import Clock
from listener.contracts import KindLimits, ReportsTasks, UnknownOutcome, token_mark
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Fenced,
    Misconfigured,
    NotInPlan,
    NotSent,
    OutcomeUnknown,
    QuotaExhausted,
    SendingEnded,
    TargetError,
    Throttled,
    WindowFull,
    advised,
)
from listener.pipeline.accounts import EXHAUSTED_MOST_SECONDS, Account
from listener.pipeline.intake import StoreRetry
from listener.refresh import Attempt, Priority, Receipt, RefreshKind
from listener.store.answers import Answer, Unfinished
from listener.store.charges import charges_of
from listener.store.controls import ControlKind, Controls
from listener.store.leadership import Term
from listener.urls import host_of

__all__ = ["RESEND_SECONDS", "Batch", "Queued", "Sender", "into_batches", "split"]


log = structlog.get_logger()

SPLIT_CALLS = 32
"""Requests spent on finding the culprits of one batch: three culprits in a thousand take 30."""
ASIDE_SECONDS = 15 * 60.0
"""What a batch past that bound waits before it is tried again."""
RENEWAL_SECONDS = 0.1
"""How often to look whether the lease was renewed, where it is about to end."""
BACKOFF_SECONDS = 60.0
BACKOFF_MOST_SECONDS = 3600.0
MISCONFIGURED_MOST_SECONDS = 600.0
"""A wrong key is tried again after ten minutes at most: the operator who mended it should not have to wait."""
RESEND_SECONDS = 5.0
"""Until a request whose answer did not arrive is sent again with its token; later it is half its age."""
UNFINISHED_SECONDS = 5.0
UNFINISHED_MOST_SECONDS = 60.0
"""What some of several caches did not drop is sent again after five seconds, then twice as long, and so on to this."""
BACKLOG_URLS = 2_000
"""Two requests full: what a host takes in two minutes by the lower of the vendor's figures."""
BACKFILL_BATCH_URLS = 100
"""Of a backfill one request holds no more, so that what changes now stands behind little."""
BACKFILL_BATCH_PART = 4
"""Nor more than this part of what one may hold: that may be a whole minute's, and a backfill has only part of those."""


@dataclass(slots=True)
class _Bound:
    """How many requests one batch and its parts may still take."""

    calls: int = SPLIT_CALLS


@dataclass(frozen=True, slots=True)
class Queued:
    """How many URLs are queued, by host."""

    urls: Mapping[str, int] = field(default_factory=dict)
    backfilled: Mapping[str, int] = field(default_factory=dict)
    """How many of them only a backfill requests."""

    def room(self, host: str, priority: Priority) -> int:
        """
        Return how many more URLs may be queued for a host: what is reserved longer than needed cannot be replanned.

        A backfill delays nothing live, and has room only where little else is queued.
        """
        urls = self.urls.get(host, 0)
        if priority is Priority.LIVE:
            return max(0, BACKLOG_URLS - urls + self.backfilled.get(host, 0))
        room = BACKLOG_URLS - urls
        return room if room >= BACKLOG_URLS // 2 else 0  # a plan for each batch that was sent is a plan too many


class Sender:
    """Sends what one account holds; a refusal never costs another URL its refresh."""

    def __init__(
        self,
        account: Account,
        term: Term,
        clock: Clock,
        *,
        retry: StoreRetry,
        first_look_seconds: float,
        changed: Callable[[], None],
    ) -> None:
        """Take the account to send for during a term; call ``changed`` whenever a plan may come out differently."""
        self._account = account
        self._term = term
        self._store = term.store
        self._clock = clock
        self._book = retry.until_done
        self._first_look_seconds = first_look_seconds
        self._changed = changed
        self._queued: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.Task[Any], Batch] = {}
        """What waits for the rate limits: nothing of it is written yet."""
        self._arrived: asyncio.Queue[tuple[Batch, Mapping[str, int]]] = asyncio.Queue()
        """Each with how many URLs of each host it has."""
        self._hosts: Counter[str] = Counter()
        self._backfilled: Counter[str] = Counter()
        """What of that only a backfill requests."""
        self._repeated: set[int] = set()
        """Attempts of requests that are sent once more."""
        self._draining = False
        self.read_quota_soon = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent and no answer is awaited."""
        return not self._hosts

    def queued(self) -> Queued:
        """Return what is queued now, as a copy that another thread may read."""
        return Queued(dict(self._hosts), dict(self._backfilled))

    def put(self, attempts: Sequence[Attempt], priority: Priority = Priority.LIVE) -> None:
        """Queue held attempts; those of a backfill are sent when nothing else is."""
        for group in _grouped(attempts, lambda one: (one.target, one.kind, one.force)).values():
            target = self._account.targets[group[0].target]
            limits = target.limits[group[0].kind]
            most = self._account.batch_urls
            if priority is not Priority.LIVE:
                most = min(most or BACKFILL_BATCH_URLS, max(1, limits.batch_urls // BACKFILL_BATCH_PART))
            for batch in into_batches(group, limits, place=target.place, most=most):
                hosts = Counter(map(host_of, batch.urls))
                self._count(hosts, priority, 1)
                self._arrived.put_nowait((batch._replace(priority=priority), hosts))

    def _count(self, hosts: Mapping[str, int], priority: Priority, sign: int) -> None:
        for host, urls in hosts.items():
            for counted in (self._hosts, self._backfilled) if priority is not Priority.LIVE else (self._hosts,):
                counted[host] += sign * urls
                if not counted[host]:
                    del counted[host]

    async def run(self) -> None:
        """Send for ever: every batch waits for its own hosts' limits, so that a slow host holds up no other."""
        async with asyncio.TaskGroup() as sending:
            while True:
                batch, hosts = await self._arrived.get()
                task = sending.create_task(self._carry(batch, hosts), name=f"send {batch.kind}")
                self._queued.add(task)
                task.add_done_callback(self._queued.discard)

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for the requests under way, but not for ever; what only waits for its turn stays held."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self._account.exclusive():
                for task in self._queued:
                    task.cancel()
                await asyncio.gather(*self._queued, return_exceptions=True)

    async def recheck(self) -> None:
        """Let go of the batches of which nothing is reserved any more, so that others have their turn at the limits."""
        if not self._waiting:
            return
        held = await self._store.held_ids()
        for task, batch in list(self._waiting.items()):
            if held.isdisjoint(batch.ids) and not batch.token:
                task.cancel()

    async def _carry(self, batch: Batch, hosts: Mapping[str, int]) -> None:
        try:
            await self._send(batch, _Bound())
        except Fenced as error:
            # The answers to other requests are still to be booked, so that nothing else is cancelled here.
            log.warning("lease.fenced", account=self._account.name, term=self._term.number, error=str(error))
            self._term.end()
        finally:
            if batch.token:
                self._repeated.difference_update(batch.ids)
            self._count(hosts, batch.priority, -1)
            self._changed()

    async def _send(self, batch: Batch, bound: _Bound) -> None:
        target = self._account.targets[batch.target]
        task = asyncio.current_task()
        assert task is not None
        self._waiting[task] = batch
        try:
            await target.admit(batch.kind, batch.urls, priority=batch.priority)
            while not self._term.may_begin():
                await asyncio.sleep(RENEWAL_SECONDS)
        finally:
            del self._waiting[task]
        async with self._account.slot(batch.priority):
            answer = await self._request(batch)
        bound.calls -= 1
        if isinstance(answer, BatchTooLarge | BatchRejected):
            await self._refused(batch, answer, bound)

    async def _request(self, batch: Batch) -> NotSent | None:
        """Write one request and book its answer; return a refusal whose culprit is still to be found."""
        if self._draining:
            return None  # it waited for its turn before the end began, so it would get it before the end
        now = self._clock.now()
        closed = max(self._account.open_at(now), self._account.closed_until_for(batch.kind)) > now
        is_past = self._account.is_past(batch.kind, batch.attempts[0].created_at, now)
        if batch.token:
            # Past, it would count where nothing is reserved: when it is looked at next it is taken for spent.
            if not closed and not is_past:
                await self._repeat(batch)
            return None
        if closed or is_past:
            # Closed meanwhile, or reserved in a window that is over: reserved again when it may be sent.
            await self._book("book", lambda: self._store.refund(batch.ids))
            return None
        token = secrets.token_hex(12) + token_mark(self._account.targets[batch.target])
        going = frozenset(await self._book("book", lambda: self._store.mark_sending(batch.ids, token=token)))
        if len(going) < len(batch.attempts):
            log.info("sender.withdrawn", account=self._account.name, urls=len(batch.attempts) - len(going))
            batch = batch.of(attempt for attempt in batch.attempts if attempt.id in going)
        return await self._write(batch._replace(token=token)) if batch.attempts else None

    async def _write(self, batch: Batch) -> NotSent | None:
        """Write one request that is noted as being sent."""
        try:
            receipt = await self._submit(batch)
        except SendingEnded as error:
            log.info("sender.no_time_left", account=self._account.name, urls=len(batch.urls), error=str(error))
            await self._book("book", lambda: self._store.refund(batch.ids))
        except OutcomeUnknown as error:
            await self._unknown(batch, error)
        except (BatchTooLarge, BatchRejected) as error:
            await self._book("book", lambda: self._store.back_to_held(batch.ids))
            return error
        except NotSent as error:
            await self._book("book", lambda: self._store.refund(batch.ids))
            self._not_sent(batch.kind, error)
        else:
            await self._accepted(batch, receipt)
        return None

    async def _unknown(self, batch: Batch, error: OutcomeUnknown) -> None:
        """Note an unknown outcome, as long as it takes to be settled; of what may be repeated none is."""
        log.warning("sender.unknown", account=self._account.name, urls=len(batch.urls), error=str(error))
        how = self._account.targets[batch.target].unknown_outcome
        if how is UnknownOutcome.REPEAT:
            await self._book("book", lambda: self._store.refund(batch.ids))
            self._not_sent(batch.kind, error)
            return
        wait = RESEND_SECONDS if how is UnknownOutcome.TOKEN else self._first_look_seconds / 2
        next_look_at = self._clock.now() + wait
        await self._book(
            "book", partial(self._store.mark_unknown, batch.ids, next_look_at=next_look_at, error=str(error))
        )

    def resend(self, batch: Batch) -> bool:
        """Queue a request with an unknown outcome once more, with its token; return False where it is queued."""
        if not self._repeated.isdisjoint(batch.ids):
            return False
        self._repeated.update(batch.ids)
        hosts = Counter(map(host_of, batch.urls))
        self._count(hosts, batch.priority, 1)
        self._arrived.put_nowait((batch, hosts))
        return True

    async def _repeat(self, batch: Batch) -> None:
        """Send a request once more with the token that it had; until it is answered its outcome stays unknown."""
        orders = await self._book("book", Controls(self._store).active)
        if any(
            one.kind is ControlKind.PAUSE and one.place.meets(batch.target, url) for one in orders for url in batch.urls
        ):
            return
        try:
            receipt = await self._submit(batch)
        except (BatchTooLarge, BatchRejected) as error:
            # It says nothing of the first one, which may have been accepted: so that counts as spent.
            log.error("sender.repeat_rejected", account=self._account.name, urls=len(batch.urls), error=str(error))
            await self._book("book", partial(self._store.presume_spent, batch.ids, error=str(error)))
        except TargetError as error:
            log.warning("sender.repeat_failed", account=self._account.name, urls=len(batch.urls), error=str(error))
            if not isinstance(error, SendingEnded):
                self._not_sent(batch.kind, error)
        else:
            await self._accepted(batch, receipt)

    async def _submit(self, batch: Batch) -> Receipt:
        """Send the request while the term lasts; raise ``SendingEnded`` where it could not begin in time."""
        if not self._term.may_begin():
            raise SendingEnded  # the transaction before took too long
        target, left = self._account.targets[batch.target], self._term.left_seconds()
        try:
            async with asyncio.timeout(left if math.isfinite(left) else None) as lasting:
                return await target.submit(batch.kind, batch.urls, force=batch.force, token=batch.token)
        except TimeoutError as error:
            if lasting.expired():
                raise OutcomeUnknown("the lease ended before the answer arrived") from error
            raise

    async def _accepted(self, batch: Batch, receipt: Receipt) -> None:
        """Book an answer, as one: what was accepted, what was refused, and what is not done everywhere yet."""
        task = ",".join(receipt.task_ids)
        reasons = {
            url: "; ".join(filter(None, (why, receipt.refused.get(url)))) for url, why in receipt.unfinished.items()
        }
        unfinished = [attempt for attempt in batch.attempts if attempt.url in reasons]
        # What one cache refused and another did not answer is refused once the other has answered.
        refused = [attempt for attempt in batch.attempts if attempt.url in receipt.refused.keys() - reasons]
        left_out = {attempt.id for attempt in (*refused, *unfinished)}
        accepted = dict.fromkeys([one for one in batch.ids if one not in left_out], task)
        culprits = _grouped(refused, lambda one: receipt.refused[one.url])
        answer = Answer(
            accepted,
            self._clock.now() + self._first_look_in(batch.target, receipt),
            {reason: [attempt.id for attempt in group] for reason, group in culprits.items()},
            self._again_later(unfinished, reasons),
        )
        try:
            await self._book("book", lambda: self._store.book_answer(answer))
        except Fenced:
            await self._note_late(batch, answer, task)
            raise
        for reason, group in culprits.items():
            self._note_refused(group, reason)
        self._account.note_unfinished(batch.target, next(iter(reasons.values()), ""), self._clock.now())
        for one in answer.unfinished:
            wait = round(one.retry_at - self._clock.now(), 1)
            log.warning(
                "sender.unfinished", account=self._account.name, urls=len(one.ids), error=one.reason, wait_seconds=wait
            )
        if accepted:
            self._account.record_success(batch.kind)
            kind, name = batch.kind.value, self._account.name
            log.info("sender.accepted", account=name, kind=kind, urls=len(accepted), task=task)

    def _first_look_in(self, name: str, receipt: Receipt) -> float:
        """Return when what was accepted is looked at, in seconds from now."""
        target = self._account.targets[name]
        if not (receipt.task_ids and isinstance(target, ReportsTasks)):
            return receipt.settles_after_seconds
        first_look = target.pace.first_look_seconds
        return self._first_look_seconds if first_look is None else first_look

    def _again_later(self, attempts: Sequence[Attempt], reasons: Mapping[str, str]) -> list[Unfinished]:
        """Let what some of several caches did not drop back off by itself: the rest goes on."""
        now = self._clock.now()
        return [
            Unfinished(
                [attempt.id for attempt in group],
                now + min(UNFINISHED_MOST_SECONDS, UNFINISHED_SECONDS * 2.0 ** min(tries - 1, 10)),
                reason,
            )
            for (reason, tries), group in _grouped(attempts, lambda one: (reasons[one.url], one.tries)).items()
        ]

    async def _note_late(self, batch: Batch, answer: Answer, task: str) -> None:
        """Keep for the next leader what was accepted; a request that it sends again must have all of its URLs."""
        log.warning("sender.answer_late", account=self._account.name, urls=len(batch.urls), task=task)
        how = self._account.targets[batch.target].unknown_outcome
        if len(answer.accepted) < len(batch.ids) and how is UnknownOutcome.TOKEN:
            return
        charges = charges_of(self._account.allowances, batch.kind, batch.attempts[0].created_at)
        note = partial(self._term.note_late_answer, answer.accepted, kind=batch.kind, charges=charges)
        await self._book("book", note)

    async def _refused(self, batch: Batch, error: NotSent, bound: _Bound) -> None:
        """Find the culprits: the URLs or the domain that the CDN names, or by halves."""
        named = [attempt for attempt in batch.attempts if isinstance(error, BatchRejected) and _names(error, attempt)]
        if named or len(batch.attempts) == 1:
            culprits = named or list(batch.attempts)
            await self._set_aside(culprits, advised(str(error), error.hint))
            gone = {attempt.id for attempt in culprits}
            rest = [attempt for attempt in batch.attempts if attempt.id not in gone]
            if rest:
                await self._send(batch.of(rest), bound)
        elif bound.calls <= 0:
            log.error("sender.set_aside", account=self._account.name, urls=len(batch.urls), error=str(error))
            retry_at, words = self._clock.now() + ASIDE_SECONDS, f"too many refusals in one batch: {error}"
            await self._book("book", lambda: self._store.fail(batch.ids, retry_at=retry_at, error=words))
        else:
            for half in split(batch):
                await self._send(half, bound)

    async def _set_aside(self, culprits: Sequence[Attempt], error: str) -> None:
        self._note_refused(culprits, error)
        await self._book("book", lambda: self._store.park([attempt.id for attempt in culprits], error=error))

    def _note_refused(self, culprits: Sequence[Attempt], error: str) -> None:
        for attempt in culprits:
            log.error("sender.parked", account=self._account.name, url=attempt.url, error=error)
            if attempt.kind is RefreshKind.DIRECTORY:
                # The needs below it are none of its own: they are free again, and must not be planned the same way.
                self._account.refuse(attempt.url, self._clock.now())

    def _not_sent(self, kind: RefreshKind, error: TargetError) -> None:
        now, account, wait = self._clock.now(), self._account, 0.0
        if isinstance(error, WindowFull):
            wait = error.retry_after_seconds
            account.window_full(kind, now + wait, str(error), now=now)
        elif isinstance(error, Throttled):
            account.throttled(now, error.retry_after_seconds, str(error))
        elif isinstance(error, QuotaExhausted):
            # The reading that follows says how much is left; only when that does not help does the wait grow.
            self.read_quota_soon = True
            names = [one.name for one in account.spends(kind) if error.allowance in (None, one.name)]
            if names and (error.allowance is not None or kind is RefreshKind.PREFETCH):
                wait = account.exhausted(names, now)
            else:
                # What refreshes stands in for one another, and the CDN does not say which allowance is used up: a plan
                # without one of them would spend another.
                account.record_failure(
                    now, str(error), remedy=error.hint, first_seconds=1.0, most_seconds=EXHAUSTED_MOST_SECONDS
                )
        elif isinstance(error, NotInPlan):
            wait = MISCONFIGURED_MOST_SECONDS
            account.window_full(kind, now + wait, str(error), now=now, remedy=error.hint)
        elif isinstance(error, Misconfigured):
            account.refused_for_good(str(error))
            account.record_failure(
                now,
                str(error),
                remedy=error.hint,
                first_seconds=10.0,
                most_seconds=MISCONFIGURED_MOST_SECONDS,
            )
        else:
            account.record_failure(now, str(error), remedy=error.hint, first_seconds=1.0, most_seconds=BACKOFF_SECONDS)
        log.warning(
            "sender.not_sent",
            account=account.name,
            code=error.code,
            error=str(error),
            hint=error.hint,
            kind=kind.value,
            wait_seconds=round(max(wait, account.closed_until - now), 1),
        )


def _names(error: BatchRejected, attempt: Attempt) -> bool:
    """Return whether a refusal names this URL, or its domain: with its port or without."""
    host = host_of(attempt.url)
    name, _, port = host.rpartition(":")
    return attempt.url in error.urls or error.domain in (host, name if port.isdigit() else host)


Key = TypeVar("Key", bound=Hashable)


def _grouped(attempts: Iterable[Attempt], key: Callable[[Attempt], Key]) -> dict[Key, list[Attempt]]:
    groups: dict[Key, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(key(attempt), []).append(attempt)
    return groups


FEW = 50


class Batch(NamedTuple):
    """Attempts that one request can carry: of one target, kind and force."""

    target: str
    kind: RefreshKind
    force: bool
    attempts: tuple[Attempt, ...]
    priority: Priority = Priority.LIVE
    """Whether all others go first."""
    token: str = ""
    """Names the request; set before it is sent only where it is sent once more."""

    @property
    def ids(self) -> list[int]:
        """Return the attempts' ids."""
        return [attempt.id for attempt in self.attempts]

    @property
    def urls(self) -> list[str]:
        """Return the attempts' URLs."""
        return [attempt.url for attempt in self.attempts]

    def of(self, attempts: Iterable[Attempt]) -> Batch:
        """Return a batch like this one with only these attempts; it is another request, or what is left of one."""
        return self._replace(attempts=tuple(attempts), token="")


def into_batches(
    attempts: Sequence[Attempt], limits: KindLimits, *, place: Callable[[str], str] = host_of, most: int | None = None
) -> Iterator[Batch]:
    """
    Yield batches of attempts of one target, kind and force, in their order.

    A place with many of them gets batches of its own: it neither waits for the limits of another
    place nor is refused for one. Places with few share, where the limits let them.

    Args:
        attempts: what is to be sent.
        limits: what one request may hold.
        place: returns the place of a URL.
        most: a lower bound on URLs in one request than the limits', if any.
    """
    by_place = _grouped(attempts, lambda attempt: place(attempt.url))
    few = [name for name, group in by_place.items() if len(group) < FEW]
    for names in (few, *([name] for name, group in by_place.items() if len(group) >= FEW)):
        yield from _filled([(name, attempt) for name in names for attempt in by_place[name]], limits, most)


def _filled(attempts: Iterable[tuple[str, Attempt]], limits: KindLimits, most: int | None) -> Iterator[Batch]:
    """Yield batches of attempts, each with its place."""
    urls_limit = min(limits.batch_urls, most or limits.batch_urls)
    part: list[Attempt] = []
    places: set[str] = set()
    size = 0
    for place, attempt in attempts:
        length = 0 if limits.batch_bytes is None else len(quote(attempt.url, safe="")) + 3
        full = len(part) >= urls_limit or (place not in places and len(places) >= limits.batch_places)
        if part and (full or (limits.batch_bytes is not None and size + length > limits.batch_bytes)):
            yield _batch(part)
            part, places, size = [], set(), 0
        part.append(attempt)
        places.add(place)
        size += length
    if part:
        yield _batch(part)


def _batch(attempts: Sequence[Attempt]) -> Batch:
    first = attempts[0]
    # In this order a request is sent again, too.
    return Batch(first.target, first.kind, first.force, tuple(sorted(attempts, key=lambda attempt: attempt.id)))


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Return the two halves of a batch of at least two."""
    middle = len(batch.attempts) // 2
    return batch.of(batch.attempts[:middle]), batch.of(batch.attempts[middle:])
