"""The contract of a target, spoken with one site of Alibaba Cloud ESA."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from pydantic import BaseModel

from listener.alibaba import KEY_QUESTIONS
from listener.alibaba.calls import Request
from listener.alibaba.replies import Hints, Remedy, ReplyError, Rule, parse_receipt, parse_usage
from listener.alibaba.targets import ApiTarget
from listener.allowances import ALIBABA_DAY, DAY_SECONDS, Allowance, Day, Rolling
from listener.clock import Clock
from listener.contracts import UNLIMITED, Check, CheckState, Eviction, KindLimits, Pace, Questions, SettingQuestion
from listener.errors import BatchRejected, BatchTooLarge, Misconfigured, OutcomeUnknown, Unavailable
from listener.refresh import Priority, QuotaReading, Receipt, RefreshKind, Task
from listener.targets.alibaba_esa.requests import (
    KINDS,
    PAGE_SIZE,
    VERSION,
    TaskName,
    purge_request,
    quota_request,
    site_by_id_request,
    site_by_name_request,
    task_list_request,
)
from listener.targets.alibaba_esa.settings import Settings as EsaSettings
from listener.urls import host_of

__all__ = ["AlibabaEsa"]

HISTORY_DAYS: Final = 3
"""How long the task list is taken to show a task; the vendor publishes no figure, and this is CDN's."""
SPAN_MARGIN_SECONDS: Final = 2
"""Around the span in which a task was created: both clocks are read in whole seconds."""
MOST_PAGES: Final = 200
"""Of the tasks of one span: ten requests of 1,000 URLs."""
_SITE = "set site to the name or the id of a site of this account"
HINTS: Final = Hints(
    actions="esa:PurgeCaches, esa:GetPurgeQuota, esa:DescribePurgeTasks, esa:ListSites and esa:GetSite",
    endpoint="endpoint",
    object_type="endpoint",
    console="ESA",
    quota_ends="a site has a quota for each day, which ends at 00:00 UTC+8, and may have one for 30 days; see its plan",
    rules=(
        Rule(
            "InvalidParameter",
            Remedy.FIND_CULPRIT,
            "a URL is malformed, or its host is not of this site: correct base_urls, or set the site that serves it",
        ),
        Rule("InvalidSite", Remedy.STOP, _SITE),
        Rule("Site", Remedy.STOP, _SITE),
    ),
)


class Site(NamedTuple):
    """A site as the API shows it."""

    id: int
    name: str
    status: str
    why: str
    """Why it is offline."""
    plan: str


class AlibabaEsa(ApiTarget):
    """One site of Alibaba Cloud ESA."""

    Settings: ClassVar[type[BaseModel]] = EsaSettings
    questions: ClassVar[Questions] = Questions(
        settings=(SettingQuestion(key="site", text="Name or id of the site in ESA", required=True),),
        credentials=KEY_QUESTIONS,
    )
    pace = Pace(lanes=4, history_seconds=HISTORY_DAYS * DAY_SECONDS)
    limits: Mapping[RefreshKind, KindLimits]
    allowances: Sequence[Allowance]

    def __init__(
        self,
        name: str,
        settings: EsaSettings,
        *,
        clock: Clock | None = None,
        randomness: random.Random | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the settings; read no key and open no connection before the first call."""
        limits = settings.limits
        super().__init__(
            name,
            settings,
            version=VERSION,
            hints=HINTS,
            calls_per_second=limits.calls_per_second,
            task_list_calls_per_second=limits.task_list_calls_per_second,
            history_days=HISTORY_DAYS,
            clock=clock,
            randomness=randomness,
            environment=environment,
        )
        self.settings = settings
        self.account = f"esa:{settings.site.lower()}"
        self.limits = {
            RefreshKind.FILE: KindLimits(limits.batch_urls),
            RefreshKind.DIRECTORY: KindLimits(
                limits.batch_directories, eviction=Eviction.HARD if settings.force else Eviction.EITHER
            ),
            RefreshKind.IGNORE_PARAMS: KindLimits(limits.batch_directories),
        }
        self.allowances = [one for kind in self.limits for one in _allowances(kind, settings)]
        self._site_id = settings.site_id
        self._site_turns = asyncio.Lock()

    def place(self, url: str) -> str:  # noqa: ARG002 - every URL is of the one site
        """Return the site."""
        return self.settings.site

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:  # noqa: ARG002
        """Wait until a request keeps the limit of calls."""
        await self.client.calls.take()

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str = "") -> Receipt:  # noqa: ARG002
        """
        Ask for one batch; again, within a bound, only after a definite throttle.

        Raises a :class:`~listener.errors.TargetError` by remedy. ``force`` is sent for directories and
        ignore-params only: a file is always evicted. The API takes no ``token``.
        """
        if len(urls) > self.limits[kind].batch_urls:
            raise BatchTooLarge(f"{len(urls)} URLs are too many for one request")
        request = purge_request(await self.site_id(), kind, urls, force=force)
        began = self._clock.now()
        try:
            fields = await self.client.write(request)
        except BatchRejected as error:
            if "SiteId" not in str(error):
                raise
            # Otherwise every URL would be set aside, one by one, for a setting.
            raise Misconfigured(str(error), hint=_SITE, code=error.code, request_id=error.request_id) from error
        try:
            receipt = parse_receipt(fields)
        except ReplyError as error:
            raise OutcomeUnknown(f"the CDN answered {request.action} with HTTP 200, but {error}") from error
        ahead = self.client.clock_skew_seconds or 0.0
        ended = self._clock.now()
        names = [TaskName.of(one, kind, began - ahead, ended - ahead) for one in receipt.task_ids]
        return receipt._replace(task_ids=tuple(map(str, names)))

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return what is known of these tasks; one that is not known (yet) is simply absent."""
        names = [name for text in dict.fromkeys(task_ids) if (name := TaskName.parse(text)) is not None]
        found: list[Task] = []
        for type_ in dict.fromkeys(name.type for name in names):
            of_type = sorted((name for name in names if name.type == type_), key=lambda name: name.start)
            for group in _overlapping(of_type):
                found += await self._tasks_of(type_, group)
        return found

    async def _tasks_of(self, type_: str, names: Sequence[TaskName]) -> list[Task]:
        span = (names[0].start - SPAN_MARGIN_SECONDS, max(name.end for name in names) + SPAN_MARGIN_SECONDS)
        asked: dict[str, list[str]] = {}
        for name in names:
            asked.setdefault(name.task_id, []).append(str(name))
        rows, _ = await self._list(type_, span=span)
        found = [row._replace(task_id=text) for row in rows for text in asked.get(row.task_id, ())]
        return list(map(self.by_our_clock, found))

    async def search_tasks(self, kind: RefreshKind, url: str, span: tuple[int, int]) -> tuple[list[Task], bool]:
        """Return the tasks of a URL in a span of the CDN's clock, and whether these are all."""
        rows, complete = await self._list(KINDS[kind][0], span=span, url=url)
        return [row._replace(task_id=str(_name_of(row, span))) for row in rows], complete

    async def _list(self, type_: str, **question: Any) -> tuple[list[Task], bool]:
        site_id = await self.site_id()

        def page_of(page: int) -> Request:
            return task_list_request(site_id, type_, page=page, **question)

        return await self.all_pages(page_of, size=PAGE_SIZE, most=MOST_PAGES)

    async def read_quota(self) -> Mapping[str, QuotaReading]:
        """Return what is left of each day and of 30 days; a limit of 0 for 30 days says that there is none."""
        site_id = await self.site_id()
        readings: dict[str, QuotaReading] = {}
        for kind in self.limits:
            fields = await self.client.read(quota_request(site_id, kind))
            if (day := parse_usage(fields, "Quota", "Usage")) is not None:
                readings[kind.value] = day
            if (month := parse_usage(fields, "Quota30Day", "Usage30Day")) is not None:
                readings[_of_30_days(kind)] = month if month.limit else QuotaReading(UNLIMITED, UNLIMITED)
        return readings

    async def reads(self) -> Sequence[Request]:
        """Return a question for each permission to read that is needed besides the quota's."""
        return [task_list_request(await self.site_id(), KINDS[RefreshKind.FILE][0], page=1)]

    # -- the site ----------------------------------------------------------------------------------

    async def site_id(self) -> int:
        """Return the id of the site; a name is looked up once. Raises :class:`~listener.errors.Misconfigured`."""
        async with self._site_turns:
            if self._site_id is None:
                self._site_id = (await self._site_of_name()).id
            return self._site_id

    async def _site_of_name(self) -> Site:
        name = self.settings.site.lower()
        fields = await self.client.read(site_by_name_request(name))
        rows = fields.get("Sites")
        sites = [site for row in rows if (site := _site(row)) is not None] if isinstance(rows, list) else []
        for site in sites:
            if site.name.lower() == name:
                return site
        raise Misconfigured(f"the account of this access key has no site {name}", hint=_SITE)

    async def check_before(self) -> Sequence[Check]:
        """Return the check of the site."""
        return [await self._check_site()]

    async def _check_site(self) -> Check:
        found: list[Site] = []

        async def ask() -> str:
            found.append(await self._look_up())
            site = found[0]
            return f"{site.name}, id {site.id}, {site.status}{f', plan {site.plan}' if site.plan else ''}"

        check = await self.tried("site", ask)
        if not found or found[0].status.lower() == "active":
            return check
        state = CheckState.WARNING if found[0].status.lower() == "pending" else CheckState.FAILED
        why = f" ({found[0].why})" if found[0].why else ""
        return Check(check.subject, state, check.message + why, "look at the site in the ESA console")

    async def check_urls(self, urls: Sequence[str]) -> Sequence[Check]:
        """Warn about each host that the name of the site does not cover: unless it is a custom one, it is refused."""
        name = (await self._look_up()).name.lower()
        found = []
        for host in dict.fromkeys(host_of(url).lower() for url in urls):
            bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if bare != name and not bare.endswith(f".{name}"):
                message = f"is not below {name}: ESA refuses the URLs of hosts that are not of this site"
                hint = "correct base_urls of the site in [[sites]], or set the site that serves this host"
                found.append(Check(f"{self.name}: {host}", CheckState.WARNING, message, hint))
        return found

    async def _look_up(self) -> Site:
        if self.settings.site_id is None:
            return await self._site_of_name()
        fields = await self.client.read(site_by_id_request(self.settings.site_id))
        site = _site(fields.get("SiteModel"))
        if site is None:
            raise Unavailable("the CDN answered GetSite with HTTP 200, but named no site")
        return site


def _allowances(kind: RefreshKind, settings: EsaSettings) -> list[Allowance]:
    """A purge takes one unit of the day and one of the 30 days."""
    key = kind.name.lower()
    month = getattr(settings.quota_30_days, key) or UNLIMITED
    offset, costs = ALIBABA_DAY.offset_seconds, {kind: 1}
    return [
        Allowance(name=kind.value, limit=getattr(settings.quota, key), window=Day(offset), costs=costs),
        Allowance(name=_of_30_days(kind), limit=month, window=Rolling(30, offset), costs=costs),
    ]


def _of_30_days(kind: RefreshKind) -> str:
    return f"{kind.value}-30-days"


def _name_of(task: Task, span: tuple[int, int]) -> TaskName:
    began, ended = span if task.created_at is None else (task.created_at, task.created_at)
    return TaskName.of(task.task_id, task.kind, began, ended)


def _site(row: object) -> Site | None:
    if not isinstance(row, dict) or not str(row.get("SiteId", "")).isdecimal():
        return None
    texts = [str(row.get(key) or "")[:100] for key in ("SiteName", "Status", "OfflineReason", "PlanSpecName")]
    return Site(int(row["SiteId"]), *texts)


def _overlapping(names: Sequence[TaskName]) -> list[list[TaskName]]:
    """Return names, sorted by their starts, in groups whose spans touch."""
    groups: list[list[TaskName]] = []
    for name in names:
        if groups and name.start <= max(one.end for one in groups[-1]) + 2 * SPAN_MARGIN_SECONDS:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups
