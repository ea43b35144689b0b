"""The contract of a target, spoken with Alibaba Cloud CDN and DCDN."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel

from listener.alibaba import KEY_QUESTIONS
from listener.alibaba.calls import Request
from listener.alibaba.paths import domain_of
from listener.alibaba.rates import DomainWindows, Window
from listener.alibaba.replies import ReplyError, parse_quota, parse_receipt
from listener.alibaba.targets import ApiTarget, read_tasks
from listener.allowances import ALIBABA_DAY, DAY_SECONDS, Allowance, for_each_kind
from listener.clock import Clock
from listener.contracts import Eviction, KindLimits, Pace, Questions
from listener.errors import BatchTooLarge, Misconfigured, NotSent, OutcomeUnknown
from listener.refresh import Priority, QuotaReading, Receipt, RefreshKind, Task
from listener.targets.alibaba_cdn.requests import (
    PREFETCH_BATCH_BYTES,
    quota_request,
    refresh_request,
    task_list_request,
    tasks_by_id_request,
)
from listener.targets.alibaba_cdn.settings import AccountSettings, DcdnSettings
from listener.targets.alibaba_cdn.settings import Settings as AlibabaCdnSettings

__all__ = ["AlibabaCdn", "AlibabaDcdn"]

IDS_PER_CALL = 10
BY_ID_CALLS_PER_SECOND = 30
TASK_LIST_CALLS_PER_SECOND = 10
QUOTA_CALLS_PER_SECOND = 20
MOST_PAGES = 20
"""A task holds at most 2,000 URLs; further pages of one URL in one span would be none of ours."""


class AlibabaCdn(ApiTarget):
    """An account of Alibaba Cloud CDN."""

    Settings: ClassVar[type[BaseModel]] = AlibabaCdnSettings
    questions: ClassVar[Questions] = Questions(credentials=KEY_QUESTIONS)
    name: str
    account: str
    limits: Mapping[RefreshKind, KindLimits]
    allowances: Sequence[Allowance]
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
        self._service = service = settings.service
        share = settings.limits.task_list_share
        super().__init__(
            name,
            settings,
            version=service.version,
            hints=service.hints,
            calls_per_second=settings.limits.calls_per_second,
            task_list_calls_per_second=TASK_LIST_CALLS_PER_SECOND * share,
            history_days=service.history_days,
            clock=clock,
            randomness=randomness,
            environment=environment,
        )
        self.settings = settings
        self.account = settings.ledger
        self.limits = _limits(settings)
        quota = {kind: getattr(settings.quota, kind.name.lower()) for kind in self.limits}
        self.allowances = for_each_kind(quota, ALIBABA_DAY)
        self._by_id_calls = Window(BY_ID_CALLS_PER_SECOND * share, 1.0)
        self._quota_calls = Window(QUOTA_CALLS_PER_SECOND * share, 1.0)
        self._urls = DomainWindows(settings.limits.urls_per_domain_minute)
        self._directories = DomainWindows(settings.limits.directories_per_domain_minute)

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
        return [self.by_our_clock(task) for task in found]

    async def search_tasks(self, kind: RefreshKind, url: str, span: tuple[int, int]) -> tuple[list[Task], bool]:
        """Return the tasks of a URL in a span of the CDN's clock, and whether these are all."""
        return await self._list(url=url, object_type=self._listed_type(kind), span=span)

    async def read_quota(self) -> Mapping[str, QuotaReading]:
        """Return the live quota of each kind that the CDN reports and this API version can do, by the kind's name."""
        await self._quota_calls.take()
        quota = parse_quota(await self.client.read(quota_request(self._service)))
        return {kind.value: reading for kind, reading in quota.items() if kind in self.limits}

    async def reads(self) -> Sequence[Request]:
        """Return a question for each permission to read that is needed besides the quota's."""
        listed = task_list_request(self._service, page=1, page_size=1)
        by_id = self._service.tasks_by_id is not None
        return [listed, tasks_by_id_request(self._service, ["1"])] if by_id else [listed]

    # -- pieces ------------------------------------------------------------------------------------

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
            return read_tasks(await self.client.read(tasks_by_id_request(self._service, ids)))
        except Misconfigured as error:
            if not error.code.startswith("InvalidTaskId"):
                raise
        # One id that the CDN does not take must not hide the other nine.
        return [task for task_id in ids if len(ids) > 1 for task in await self._tasks_by_id([task_id])]

    async def _list(self, **question: Any) -> tuple[list[Task], bool]:
        size = self._service.page_size
        page_of = partial(task_list_request, self._service, page_size=size, **question)
        return await self.all_pages(lambda page: page_of(page=page), size=size, most=MOST_PAGES)

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
