"""
The emulated Alibaba Cloud ESA: sites with a quota of their own, for each day and for 30 days.

Refreshes by URL, directory and path with any query are emulated; what else ``PurgeCaches`` can do is refused. A request
has one task id. The list of tasks shows those of one site and one type, and does not know ids.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any, Final, NamedTuple

from aiohttp import web

from listener.alibaba.signature import Credentials, timestamp
from listener.allowances import ALIBABA_DAY, DAY_SECONDS
from listener.emulator.alibaba.account import EmulatedAccount, QuotaLedger, Submission
from listener.emulator.alibaba.actions import Api, Call, Does, Reply, Version
from listener.emulator.alibaba.emulator import api_routes, fault_table
from listener.emulator.alibaba.faults import Rejection
from listener.emulator.alibaba.parameters import parse_query
from listener.emulator.core import CoreSettings, EmulatorCore
from listener.emulator.faults import FaultBook
from listener.emulator.server import Surroundings
from listener.emulator.tasks import TaskRecord, is_below
from listener.errors import ConfigurationError
from listener.refresh import RefreshKind

__all__ = ["EsaEmulator", "EsaSettings", "Site", "parse_site"]

CONTENT: Final = {
    RefreshKind.FILE: "Files",
    RefreshKind.DIRECTORY: "Directories",
    RefreshKind.IGNORE_PARAMS: "IgnoreParams",
}
"""The list within ``Content`` for each type."""
TYPES: Final = {"file": RefreshKind.FILE, "directory": RefreshKind.DIRECTORY, "ignoreParams": RefreshKind.IGNORE_PARAMS}
NAMES: Final = {kind: name for name, kind in TYPES.items()}
ESA: Final = Version(
    name="2024-09-10",
    actions={
        "PurgeCaches": Does.REFRESH,
        "DescribePurgeTasks": Does.LIST,
        "GetPurgeQuota": Does.QUOTA,
        "ListSites": Does.SITES,
        "GetSite": Does.SITE,
    },
    types=TYPES,
    wire={kind: name.lower() for kind, name in NAMES.items()},
    malformed_code="InvalidParameter",
    history_seconds=3 * DAY_SECONDS,
    max_page_size=50,
    forces=True,
    prefetch_spends=RefreshKind.PREFETCH,
)
VERSIONS: Final = {ESA.name: ESA}
CALLS_PER_SECOND: Final = 50
"""Of each action; the vendor publishes no figure."""
QUOTA: Final[Mapping[RefreshKind, int]] = {
    RefreshKind.FILE: 1_000,
    RefreshKind.DIRECTORY: 100,
    RefreshKind.IGNORE_PARAMS: 100,
}
"""Units a day of a site with the smallest plan."""
MOST_DOMAINS: Final = 1_000
WINDOW_DAYS: Final = 30


class Site(NamedTuple):
    """One site of the account."""

    name: str
    """A domain; its subdomains belong to it."""
    id: int


def parse_site(text: str) -> Site:
    """Read ``NAME[=ID]``; without an id it has one of its own."""
    name, _, given = text.lower().partition("=")
    if not re.fullmatch(r"[a-z0-9.:-]+", name) or (given and not re.fullmatch(r"[0-9]{1,15}", given)):
        raise ConfigurationError(
            f"The site {text!r} cannot be read.", hint="Its form is NAME[=ID], with an ID of up to 15 digits."
        )
    return Site(name, int(given) if given else int(hashlib.sha256(name.encode()).hexdigest()[:12], 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class EsaSettings(CoreSettings):
    """Everything that can be set."""

    credentials: Credentials
    """The one access key that may call; with a security token set, calls must carry it."""
    sites: tuple[Site, ...] = ()
    """Empty for one site that has the host of the edge."""
    quota: Mapping[RefreshKind, int] = field(default_factory=dict)
    """Units a day of each site; kinds that are left out keep the default."""
    quota_30_days: Mapping[RefreshKind, int] = field(default_factory=dict)
    """Units in 30 days of each site; kinds that are left out, or 0, have no such limit."""


class SiteLedger(QuotaLedger):
    """Units accepted for a site: those of the day, and those of the last 30 days."""

    def __init__(self, limits: Mapping[RefreshKind, int], limits_30_days: Mapping[RefreshKind, int]) -> None:
        """Start with the limits of each kind; 0 in 30 days: none."""
        super().__init__(limits)
        self.limits_30_days = dict(limits_30_days)

    def spent_30_days(self, kind: RefreshKind, now: float) -> int:
        """Return the units accepted today and on the 29 days before."""
        first = ALIBABA_DAY.start(now) - (WINDOW_DAYS - 1) * DAY_SECONDS
        return sum(spent[kind] for start, spent in self._spent.items() if start >= first)

    def remaining(self, kind: RefreshKind, now: float) -> int:
        """Return what is left of both limits."""
        left, limit = super().remaining(kind, now), self.limits_30_days.get(kind, 0)
        return min(left, max(0, limit - self.spent_30_days(kind, now))) if limit else left


class SiteAccount(EmulatedAccount):
    """One site: a request of it has one task id, and names its own hosts only."""

    ledger: SiteLedger

    def __init__(self, site: Site, ledger: SiteLedger, **given: Any) -> None:
        """Start with nothing spent."""
        super().__init__(quota={}, per_minute={}, most_domains=MOST_DOMAINS, **given)
        self.site = site
        self.ledger = ledger
        self._requests = 0

    def check_domain(self, domain: str, action: str, now: float) -> None:
        """Raise :class:`Rejection` for a domain that is not of the site."""
        if not is_below(domain, self.site.name):
            raise Rejection("InvalidParameter", name="Content")
        super().check_domain(domain, action, now)

    def new_ids(self, domains: Sequence[str], kind: RefreshKind, now: float) -> Iterable[str]:
        """Return the same id for each path."""
        self._requests += 1
        (task_id,) = self.tasks.new_ids([f"{self.site.id}/{self._requests}"], kind, now)
        return repeat(task_id, len(domains))


class EsaApi(Api):
    """The actions over the sites of an account."""

    def __init__(self, sites: Sequence[SiteAccount], faults: FaultBook) -> None:
        """Serve these sites, which share one book of tasks."""
        super().__init__(sites[0], faults, VERSIONS)
        self._sites = {one.site.id: one for one in sites}
        self._does |= {Does.SITES: self._list_sites, Does.SITE: self._show_site}

    def _site(self, call: Call) -> SiteAccount:
        text = call.parameters.get("SiteId", "")
        if not text:
            raise Rejection("MissingParameter", name="SiteId")
        site = self._sites.get(int(text)) if text.isdecimal() else None
        if site is None:
            raise Rejection("SiteNotFound", site=text)
        return site

    def _refresh(self, call: Call) -> Reply:
        site, kind = self._site(call), _kind(call)
        submission = Submission(
            action=call.action,
            kind=kind,
            object_path="\n".join(_content(call.parameters.get("Content", ""), CONTENT[kind])),
            force=kind is not RefreshKind.FILE and call.parameters.get("Force", "").lower() == "true",
            malformed_code=call.version.malformed_code,
        )
        records = tuple(site.submit(submission, call.now))
        return Reply({"TaskId": records[0].task_id}, records)

    def _tasks(self, call: Call) -> Reply:
        site, given = self._site(call), call.parameters
        names = {"ObjectPath": "Content", "ObjectType": "Type"}
        asked = {name: given.get(names.get(name, name), "") for name in (*names, "StartTime", "EndTime", "Status")}
        pages = {name: given[name] for name in ("PageNumber", "PageSize") if name in given}
        asked = {**asked, **pages, "ObjectType": asked["ObjectType"] or "file"}
        query = parse_query(asked, wire=call.version.wire, max_page_size=call.version.max_page_size)
        found = [record for record in self._found(query, call) if is_below(record.key.host, site.site.name)]
        first = (query.page_number - 1) * query.page_size
        rows = [_row(record) for record in islice(found, first, first + query.page_size)]
        paged = {"PageNumber": query.page_number, "PageSize": query.page_size, "TotalCount": len(found)}
        return Reply({"Tasks": rows, **paged})

    def _quota(self, call: Call) -> Reply:
        site, kind = self._site(call), _kind(call)
        site.lower_limits(call.now)
        ledger = site.ledger
        return Reply(
            {
                "Quota": str(ledger.limits[kind]),
                "Usage": str(ledger.spent(kind, call.now)),
                "Quota30Day": str(ledger.limits_30_days.get(kind, 0)),
                "Usage30Day": str(ledger.spent_30_days(kind, call.now)),
            }
        )

    def _list_sites(self, call: Call) -> Reply:
        name, how = call.parameters.get("SiteName", "").lower(), call.parameters.get("SiteSearchType") or "exact"
        fits: Mapping[str, Callable[[str, str], bool]] = {
            "exact": operator.eq,
            "prefix": str.startswith,
            "suffix": str.endswith,
            "fuzzy": operator.contains,
        }
        if how not in fits:
            raise Rejection("InvalidParameter", name="SiteSearchType")
        rows = [_site_row(one.site) for one in self._sites.values() if not name or fits[how](one.site.name, name)]
        return Reply({"Sites": rows, "PageNumber": 1, "PageSize": 500, "TotalCount": len(rows)})

    def _show_site(self, call: Call) -> Reply:
        return Reply({"SiteModel": _site_row(self._site(call).site)})


def _kind(call: Call) -> RefreshKind:
    name = call.parameters.get("Type", "")
    if not name:
        raise Rejection("MissingParameter", name="Type")
    if name not in TYPES:
        raise Rejection("InvalidParameter", name="Type")
    return TYPES[name]


def _content(text: str, name: str) -> Iterator[str]:
    """Yield the paths of a list within ``Content``."""
    try:
        found = json.loads(text)[name]
    except (ValueError, KeyError, TypeError) as error:
        raise Rejection("InvalidParameter", name="Content") from error
    if not isinstance(found, list) or not found:
        raise Rejection("InvalidParameter", name="Content")
    for path in found:
        if not isinstance(path, str) or not path or "\n" in path:
            raise Rejection("InvalidParameter", name="Content")
        yield path


def _row(record: TaskRecord) -> dict[str, str]:
    status = record.status()
    return {
        "TaskId": record.task_id,
        "Content": record.path,
        "Type": NAMES[record.kind],
        "Status": "Refreshing" if status == "Pending" else status,
        "Process": record.process(),
        "CreateTime": timestamp(record.created_at),
        "Description": record.description(),
    }


def _site_row(site: Site) -> dict[str, Any]:
    return {"SiteId": site.id, "SiteName": site.name, "Status": "active", "PlanSpecName": "basicplan"}


class EsaEmulator(EmulatorCore):
    """A local Alibaba ESA; ``sites`` is public for tests."""

    table = fault_table(VERSIONS)
    settings: EsaSettings

    def __init__(self, settings: EsaSettings) -> None:
        """Connect the parts without opening anything. Raise :class:`ConfigurationError` for a missing origin."""
        super().__init__(settings, history_seconds=ESA.history_seconds)
        self.sites = [
            SiteAccount(
                site,
                SiteLedger({**QUOTA, **settings.quota}, settings.quota_30_days),
                faults=self.faults,
                tasks=self.tasks,
                task_seconds=settings.task_seconds,
            )
            for site in settings.sites or (parse_site(settings.edge_host),)
        ]

    def routes(self, around: Surroundings) -> Sequence[web.RouteDef]:
        """Return the one route of the API."""
        rates = dict.fromkeys(ESA.actions, CALLS_PER_SECOND)
        page = "https://next.api.aliyun.com/document/ESA/2024-09-10/errorCode"
        return api_routes(around, EsaApi(self.sites, self.faults), self.settings.credentials, rates, help_page=page)

    def overview(self, now: float) -> Mapping[str, Any]:
        """Return what each site may spend, and what it has spent."""
        return {
            "window": ALIBABA_DAY.start(now),
            "resets_at": ALIBABA_DAY.end(now),
            "sites": {one.site.name: _figures(one, now) for one in self.sites},
        }


def _figures(one: SiteAccount, now: float) -> dict[str, Any]:
    ledger = one.ledger
    return {
        "id": one.site.id,
        "limits": {kind.value: limit for kind, limit in ledger.limits.items()},
        "limits_30_days": {kind.value: limit for kind, limit in ledger.limits_30_days.items()},
        "remaining": {kind.value: ledger.remaining(kind, now) for kind in ledger.limits},
        "accepted": {str(start): units for start, units in ledger.windows().items()},
    }
