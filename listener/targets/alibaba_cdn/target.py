"""The contract of a target, spoken with Alibaba Cloud CDN and DCDN."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from listener.alibaba import KEY_QUESTIONS, key_source, require_key
from listener.alibaba.calls import Request
from listener.alibaba.rates import DomainWindows, Window
from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS, ReplyError, parse_quota, parse_receipt, parse_tasks
from listener.allowances import Allowance, Day, for_each_kind
from listener.clock import QUOTA_RESET_OFFSET_SECONDS, Clock, SystemClock
from listener.contracts import Check, CheckState, Eviction, KindLimits, Pace, Questions, UnknownOutcome
from listener.egress import proxy_for
from listener.errors import BatchTooLarge, Misconfigured, NotSent, OutcomeUnknown, TargetError, Unavailable
from listener.refresh import Priority, QuotaReading, Receipt, RefreshKind, Task
from listener.targets.alibaba_cdn.requests import (
    PREFETCH_BATCH_BYTES,
    domain_of,
    quota_request,
    refresh_request,
    task_list_request,
    tasks_by_id_request,
)
from listener.targets.alibaba_cdn.settings import AccountSettings, DcdnSettings
from listener.targets.alibaba_cdn.settings import Settings as AlibabaCdnSettings
from listener.text import whole_number
from listener.urls import Spellings

if TYPE_CHECKING:
    from listener.alibaba.client import SignedClient


__all__ = ["AlibabaCdn", "AlibabaDcdn"]

IDS_PER_CALL = 10
BY_ID_CALLS_PER_SECOND = 30
TASK_LIST_CALLS_PER_SECOND = 10
QUOTA_CALLS_PER_SECOND = 20
MOST_PAGES = 20
"""A task holds at most 2,000 URLs; further pages of one URL in one span would be none of ours."""
DAY_SECONDS = 86_400
HISTORY_MARGIN_SECONDS = 300
"""Kept away from the oldest end of the task list: the CDN's clock decides what is too old."""


class AlibabaCdn:
    """An account of Alibaba Cloud CDN."""

    Settings: ClassVar[type[BaseModel]] = AlibabaCdnSettings
    questions: ClassVar[Questions] = Questions(credentials=KEY_QUESTIONS)
    name: str
    account: str
    limits: Mapping[RefreshKind, KindLimits]
    allowances: Sequence[Allowance]
    unknown_outcome = UnknownOutcome.TASKS
    pace = Pace(lanes=4, ids_per_look=IDS_PER_CALL, history_seconds=3 * DAY_SECONDS)

    def __init__(
        self,
        name: str,
        settings: AccountSettings,
        *,
        clock: Clock | None = None,
        randomness: random.Random | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the settings; read no key and open no connection before the first call."""
        self.name = name
        self.settings = settings
        self.account = settings.ledger
        self._service = settings.service
        self.limits = _limits(settings)
        quota = {kind: getattr(settings.quota, kind.name.lower()) for kind in self.limits}
        self.allowances = for_each_kind(quota, Day(QUOTA_RESET_OFFSET_SECONDS))
        self._clock = clock or SystemClock()
        self._environment = os.environ if environment is None else environment
        self._keys = key_source(settings, self._environment)
        self._randomness = randomness or random.Random()  # noqa: S311 - spreads retries
        self._left_seconds: Callable[[], float] = lambda: math.inf
        share = settings.limits.task_list_share
        self._by_id_calls = Window(BY_ID_CALLS_PER_SECOND * share, 1.0)
        self._task_list_calls = Window(TASK_LIST_CALLS_PER_SECOND * share, 1.0)
        self._quota_calls = Window(QUOTA_CALLS_PER_SECOND * share, 1.0)
        self._urls = DomainWindows(settings.limits.urls_per_domain_minute)
        self._directories = DomainWindows(settings.limits.directories_per_domain_minute)

    @cached_property
    def client(self) -> SignedClient:
        """What makes the calls."""
        # aiohttp is slow to import, and commands that only read the state file make no call.
        from listener.alibaba.client import SignedClient  # noqa: PLC0415

        return SignedClient(
            self.settings,
            version=self._service.version,
            calls_per_second=self.settings.limits.calls_per_second,
            hints=self._service.hints,
            keys=self._keys,
            clock=self._clock,
            randomness=self._randomness,
            left_seconds=self._seconds_left,
        )

    def send_while(self, left_seconds: Callable[[], float]) -> None:
        """Take what returns for how long requests may be written."""
        self._left_seconds = left_seconds

    def _seconds_left(self) -> float:
        return self._left_seconds()

    async def require_credentials(self) -> None:
        """Raise :class:`~listener.errors.ConfigurationError` for no usable access key, or a proxy that is none."""
        proxy_for(self.settings.endpoint)
        await require_key(self.settings, self._environment)

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Wait until a request of these URLs keeps the limits per domain and minute, then the one per second."""
        await self._domains(kind).take(Counter(domain_of(url) for url in urls), priority=priority)
        await self.client.calls.take()

    def place(self, url: str) -> str:
        """Return the domain."""
        return domain_of(url)

    def _domains(self, kind: RefreshKind) -> DomainWindows:
        return self._directories if kind is RefreshKind.DIRECTORY else self._urls

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str = "") -> Receipt:  # noqa: ARG002
        """
        Ask for one batch; again, within a bound, only after a definite throttle.

        Raises a :class:`~listener.errors.TargetError` by remedy. ``force`` is sent for directories and
        ignore-params only: a file is always evicted. The API takes no ``token``.
        """
        self._require_fitting(kind, urls)
        request = refresh_request(kind, urls, force=force, settings=self.settings)
        try:
            fields = await self.client.write(request)
        except NotSent:
            self._domains(kind).give_back(Counter(domain_of(url) for url in urls))
            raise
        try:
            return parse_receipt(fields)
        except ReplyError as error:
            raise OutcomeUnknown(f"the CDN answered {request.action} with HTTP 200, but {error}") from error

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return what is known of these tasks; one that is not known (yet) is simply absent."""
        ids = list(dict.fromkeys(task_ids))
        if self._service.tasks_by_id is None:
            found = [task for task_id in ids for task in (await self._list(task_id=task_id))[0]]
        else:
            parts = [ids[start : start + IDS_PER_CALL] for start in range(0, len(ids), IDS_PER_CALL)]
            found = [task for part in parts for task in await self._tasks_by_id(part)]
        return [self._by_our_clock(task) for task in found]

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """
        Return the tasks of exactly this URL created in the span (seconds since the epoch), newest first.

        Raises :class:`~listener.errors.OutcomeUnknown` where nothing was found but the list does not
        reach back to ``since``, or was too long to read: that it is absent would not be true.
        """
        history = self._service.history_days * DAY_SECONDS - HISTORY_MARGIN_SECONDS
        # The list speaks of the CDN's clock, which may be minutes from ours.
        ahead = self.client.clock_skew_seconds or 0.0
        since, until, now = since - ahead, until - ahead, self._clock.now() - ahead
        start = max(math.floor(since), math.ceil(now - history))
        end = max(math.ceil(until), math.floor(since) + 1)
        found: list[Task] = []
        complete = False
        if start < end:
            object_type = self._listed_type(kind)
            found, complete = await self._list(url=url, object_type=object_type, span=(start, end))
        spellings = Spellings([url])
        matching = [
            task._replace(url=url) for task in found if task.kind is kind and task.url and spellings.find(task.url)
        ]
        matching = [task for task in matching if task.created_at is None or start <= task.created_at <= end]
        if not matching and (start > math.floor(since) or not complete):
            raise OutcomeUnknown(f"the task list does not show whether {url} was accepted", code="listener.history")
        return sorted(map(self._by_our_clock, matching), key=lambda task: task.created_at or 0.0, reverse=True)

    async def read_quota(self) -> Mapping[str, QuotaReading]:
        """Return the live quota of each kind that the CDN reports and this API version can do, by the kind's name."""
        await self._quota_calls.take()
        quota = parse_quota(await self.client.read(quota_request(self._service)))
        return {kind.value: reading for kind, reading in quota.items() if kind in self.limits}

    async def check(self) -> Sequence[Check]:
        """
        Probe credentials, quota, clock skew and the permission for each read, without changing anything.

        The probes are in the order in which they stand on one another; without a key there is only the first.
        """
        key = await _tried(f"{self.name}: credentials", partial(_credentials, self))
        if key.state is CheckState.FAILED:
            return [key]
        quota = await _tried(f"{self.name}: quota", partial(_quota, self))
        reads = [
            await _tried(f"{self.name}: {request.action}", partial(_read, self, request))
            for request in _questions(self)
        ]
        return [key, quota, _clock(self), *reads]

    async def close(self) -> None:
        """Release connections; safe to call twice."""
        if "client" in vars(self):
            await self.client.close()

    # -- pieces ------------------------------------------------------------------------------------

    def _by_our_clock(self, task: Task) -> Task:
        """Return a task whose creation time is converted from the CDN's clock to this machine's."""
        skew = self.client.clock_skew_seconds
        return task if task.created_at is None or not skew else task._replace(created_at=task.created_at + skew)

    def _require_fitting(self, kind: RefreshKind, urls: Sequence[str]) -> None:
        limits = self.limits.get(kind)
        if limits is None:
            hint = "set api_version = '2018-05-10', or refresh without this kind"
            raise Misconfigured(f"API version {self._service.version} cannot do {kind.value}", hint=hint)
        if len(urls) > limits.batch_urls or len(set(map(domain_of, urls))) > limits.batch_places:
            raise BatchTooLarge(f"{len(urls)} URLs are too many, or of too many domains, for one request")

    async def _tasks_by_id(self, ids: Sequence[str]) -> list[Task]:
        await self._by_id_calls.take()
        try:
            return _tasks(await self.client.read(tasks_by_id_request(self._service, ids)))
        except Misconfigured as error:
            if not error.code.startswith("InvalidTaskId"):
                raise
        # One id that the CDN does not take must not hide the other nine.
        return [task for task_id in ids if len(ids) > 1 for task in await self._tasks_by_id([task_id])]

    async def _list(self, **question: Any) -> tuple[list[Task], bool]:
        """Return the tasks of all pages up to a bound, and whether these were all."""
        size = self._service.page_size
        found: list[Task] = []
        for page in range(1, MOST_PAGES + 1):
            await self._task_list_calls.take()
            fields = await self.client.read(task_list_request(self._service, page=page, page_size=size, **question))
            rows = _tasks(fields)
            found += rows
            total = _total(fields)
            if page * size >= total if total is not None else len(rows) < size:
                return found, True
        return found, False

    def _listed_type(self, kind: RefreshKind) -> str | None:
        """The task list has words of its own for each kind, and none for ignore-params."""
        directory = self._service.directory_type
        words = {RefreshKind.FILE: "file", RefreshKind.DIRECTORY: directory, RefreshKind.PREFETCH: "preload"}
        return words.get(kind)


class AlibabaDcdn(AlibabaCdn):
    """An account of Alibaba Cloud DCDN: other actions, other limits, the same rules."""

    Settings: ClassVar[type[BaseModel]] = DcdnSettings


def _limits(settings: AccountSettings) -> dict[RefreshKind, KindLimits]:
    own = settings.limits
    urls = min(own.batch_urls, own.urls_per_domain_minute)
    directories = min(own.batch_directories, own.directories_per_domain_minute)
    prefetches = min(own.batch_prefetches, own.urls_per_domain_minute)
    limits = {
        RefreshKind.FILE: KindLimits(urls, own.batch_domains),
        RefreshKind.DIRECTORY: KindLimits(directories, own.batch_domains, eviction=_directory_eviction(settings)),
        RefreshKind.PREFETCH: KindLimits(prefetches, own.batch_domains, PREFETCH_BATCH_BYTES),
    }
    if settings.service.ignores_params:
        # Its quota is a hundred a day, so a batch is never larger than a directory's.
        limits[RefreshKind.IGNORE_PARAMS] = KindLimits(directories, own.batch_domains)
    return limits


def _directory_eviction(settings: AccountSettings) -> Eviction:
    if not settings.service.forces:
        return Eviction.SOFT
    return Eviction.HARD if settings.force else Eviction.EITHER


def _tasks(fields: Mapping[str, Any]) -> list[Task]:
    try:
        return parse_tasks(fields)
    except ReplyError as error:
        raise Unavailable(f"the CDN answered with HTTP 200, but {error}") from error


def _total(fields: Mapping[str, Any]) -> int | None:
    return whole_number(str(fields.get("TotalCount", "")))


NOTABLE_SKEW_SECONDS = 60


async def _tried(subject: str, ask: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(subject, CheckState.OK, await ask())
    except TargetError as error:
        return Check(subject, CheckState.FAILED, str(error), error.hint)


async def _credentials(target: AlibabaCdn) -> str:
    key = await target.client.credentials()
    return f"access key {key.access_key_id[:4]}… from {target.settings.credentials}"


async def _quota(target: AlibabaCdn) -> str:
    quota = await target.read_quota()
    left = ", ".join(f"{name} {reading.remaining} of {reading.limit}" for name, reading in quota.items())
    return f"left today: {left}" if left else "the CDN reported no quota; using the configured one"


def _questions(target: AlibabaCdn) -> Sequence[Request]:
    service = target.settings.service
    listed = task_list_request(service, page=1, page_size=1)
    return [listed] if service.tasks_by_id is None else [listed, tasks_by_id_request(service, ["1"])]


async def _read(target: AlibabaCdn, request: Request) -> str:
    try:
        await target.client.read(request)
    except TargetError as error:
        if not error.code.startswith("InvalidTaskId"):
            raise
    return "permitted"


def _clock(target: AlibabaCdn) -> Check:
    subject, skew = f"{target.name}: clock", target.client.clock_skew_seconds
    if skew is None:
        return Check(subject, CheckState.WARNING, "no response contained the CDN's time")
    direction = "ahead of" if skew >= 0 else "behind"
    message = f"{abs(skew):.0f} s {direction} the CDN's (at most {CLOCK_TOLERANCE_SECONDS} s)"
    if abs(skew) <= NOTABLE_SKEW_SECONDS:
        return Check(subject, CheckState.OK, message)
    state = CheckState.FAILED if abs(skew) > CLOCK_TOLERANCE_SECONDS else CheckState.WARNING
    return Check(subject, state, message, "synchronise the clock of this machine (NTP)")
