"""
The API's actions: decoded parameters in, the reply's fields out, in both versions of CDN's API, and in DCDN's.

===================== ================================= ============================= ===========================
..                    CDN 2018-05-10                    CDN 2014-11-11                DCDN 2018-01-15
===================== ================================= ============================= ===========================
types                 File, Directory, IgnoreParams     File, Directory               as CDN's
Force                 yes                               ignored                       yes
prefetch spends       a quota of its own                the quota of files            a quota of its own
task by id            yes                               no                            yes
history, page size    3 days, 100                       7 days, 50                    3 days, 50
directory in replies  ``directory``                     ``path``                      ``path``
malformed path        ``InvalidObjectPath.Malformed``   ``ObjectPath.Malformed``      as CDN's
rows of the list      ``CDNTask``                       ``CDNTask``                   ``Task``
===================== ================================= ============================= ===========================

Regex refreshes are not emulated: the type is answered with ``InvalidObjectType.ValueNotSupported``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from listener.alibaba.signature import timestamp
from listener.allowances import DAY_SECONDS
from listener.emulator.alibaba.account import EmulatedAccount, Submission
from listener.emulator.alibaba.faults import Rejection
from listener.emulator.alibaba.parameters import TaskQuery, parse_query
from listener.emulator.faults import FaultBook
from listener.emulator.tasks import TaskRecord
from listener.refresh import RefreshKind

__all__ = ["CDN_VERSIONS", "DCDN_VERSIONS", "Api", "Call", "Does", "Reply", "Version"]

REGEX_QUOTA = "20"
BLOCK_QUOTA = "300"
"""Shown only: regex refreshes and blocking are not emulated. The vendor's defaults."""
MAX_TASK_IDS = 10
"""Ids in one DescribeRefreshTaskById, by the vendor's parameter list."""
TRUE = "true"


class Does(StrEnum):
    """What an action does, whatever it is called."""

    REFRESH = "refresh"
    PREFETCH = "prefetch"
    LIST = "list"
    BY_ID = "by id"
    QUOTA = "quota"
    SITES = "sites"
    SITE = "site"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What differs between the versions of the API, and between CDN and DCDN."""

    name: str
    actions: Mapping[str, Does]
    types: Mapping[str, RefreshKind]
    wire: Mapping[RefreshKind, str]
    """ObjectType in replies and in queries for tasks."""
    malformed_code: str
    history_seconds: float
    max_page_size: int
    forces: bool
    prefetch_spends: RefreshKind
    prefetch_answer: str = "PushTaskId"
    rows: str = "CDNTask"
    """The list within ``Tasks``."""
    shows_edge: bool = True
    """Whether the quota shows prefetches to the edge apart."""


V2018: Final = Version(
    name="2018-05-10",
    actions={
        "RefreshObjectCaches": Does.REFRESH,
        "PushObjectCache": Does.PREFETCH,
        "DescribeRefreshTasks": Does.LIST,
        "DescribeRefreshTaskById": Does.BY_ID,
        "DescribeRefreshQuota": Does.QUOTA,
    },
    # The English reference alone calls IgnoreParams "ExQuery"; both are taken.
    types={
        "File": RefreshKind.FILE,
        "Directory": RefreshKind.DIRECTORY,
        "IgnoreParams": RefreshKind.IGNORE_PARAMS,
        "ExQuery": RefreshKind.IGNORE_PARAMS,
    },
    wire={
        RefreshKind.FILE: "file",
        RefreshKind.DIRECTORY: "directory",
        RefreshKind.IGNORE_PARAMS: "ignoreparams",
        RefreshKind.PREFETCH: "preload",
    },
    malformed_code="InvalidObjectPath.Malformed",
    history_seconds=3 * DAY_SECONDS,
    max_page_size=100,
    forces=True,
    prefetch_spends=RefreshKind.PREFETCH,
)
V2014: Final = replace(
    V2018,
    name="2014-11-11",
    actions={name: does for name, does in V2018.actions.items() if does is not Does.BY_ID},
    types={"File": RefreshKind.FILE, "Directory": RefreshKind.DIRECTORY},
    wire={**V2018.wire, RefreshKind.DIRECTORY: "path"},
    malformed_code="ObjectPath.Malformed",
    history_seconds=7 * DAY_SECONDS,
    max_page_size=50,
    forces=False,
    prefetch_spends=RefreshKind.FILE,
    shows_edge=False,
)
DCDN: Final = replace(
    V2018,
    name="2018-01-15",
    actions={
        "RefreshDcdnObjectCaches": Does.REFRESH,
        "PreloadDcdnObjectCaches": Does.PREFETCH,
        "DescribeDcdnRefreshTasks": Does.LIST,
        "DescribeDcdnRefreshTaskById": Does.BY_ID,
        "DescribeDcdnRefreshQuota": Does.QUOTA,
    },
    wire={**V2018.wire, RefreshKind.DIRECTORY: "path"},
    max_page_size=50,
    prefetch_answer="PreloadTaskId",
    rows="Task",
    shows_edge=False,
)
CDN_VERSIONS: Final = {version.name: version for version in (V2018, V2014)}
DCDN_VERSIONS: Final = {DCDN.name: DCDN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that has passed the gate."""

    action: str
    version: Version
    parameters: Mapping[str, str]
    now: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The fields of an answer, without its RequestId, and what was accepted."""

    fields: Mapping[str, Any]
    accepted: tuple[TaskRecord, ...] = ()


class Api:
    """The actions over one account."""

    def __init__(self, account: EmulatedAccount, faults: FaultBook, versions: Mapping[str, Version]) -> None:
        """Serve this account in these versions; the faults decide how late the status of a task is."""
        self._account = account
        self._faults = faults
        self._versions = versions
        self._does: dict[Does, Callable[[Call], Reply]] = {
            Does.REFRESH: self._refresh,
            Does.PREFETCH: self._prefetch,
            Does.LIST: self._tasks,
            Does.BY_ID: self._task_by_id,
            Does.QUOTA: self._quota,
        }

    def version_of(self, action: str, version: str) -> Version | None:
        """Return the version, where the API has it with the action."""
        found = self._versions.get(version)
        return found if found is not None and action in found.actions else None

    def answer(self, call: Call) -> Reply:
        """Execute the call. Raise :class:`Rejection`, having changed nothing."""
        return self._does[call.version.actions[call.action]](call)

    def _refresh(self, call: Call) -> Reply:
        object_type = call.parameters.get("ObjectType") or "File"
        kind = call.version.types.get(object_type)
        if kind is None:
            raise Rejection("InvalidObjectType.ValueNotSupported", value=object_type)
        forced = call.version.forces and kind is not RefreshKind.FILE
        return self._submit(
            Submission(
                action=call.action,
                kind=kind,
                object_path=call.parameters.get("ObjectPath", ""),
                force=forced and call.parameters.get("Force", "").lower() == TRUE,
                malformed_code=call.version.malformed_code,
            ),
            call.now,
            answer="RefreshTaskId",
        )

    def _prefetch(self, call: Call) -> Reply:
        return self._submit(
            Submission(
                action=call.action,
                kind=RefreshKind.PREFETCH,
                object_path=call.parameters.get("ObjectPath", ""),
                malformed_code=call.version.malformed_code,
                spends=call.version.prefetch_spends,
            ),
            call.now,
            answer=call.version.prefetch_answer,
        )

    def _submit(self, submission: Submission, now: float, *, answer: str) -> Reply:
        records = tuple(self._account.submit(submission, now))
        ids = dict.fromkeys(record.task_id for record in records)
        return Reply({answer: ",".join(ids)}, records)

    def _tasks(self, call: Call) -> Reply:
        query = parse_query(call.parameters, wire=call.version.wire, max_page_size=call.version.max_page_size)
        found = self._found(query, call)
        first = (query.page_number - 1) * query.page_size
        page = list(islice(found, first, first + query.page_size))
        return Reply(
            {
                "Tasks": {call.version.rows: [self._task(record, call.version) for record in page]},
                "PageNumber": query.page_number,
                "PageSize": query.page_size,
                "TotalCount": len(found),
            }
        )

    def _found(self, query: TaskQuery, call: Call) -> list[TaskRecord]:
        oldest = call.now - call.version.history_seconds
        candidates = (record for record in self._candidates(query, call.now) if record.created_at > oldest)
        return [record for record in self._read(candidates, call.now) if query.holds(record)]

    def _candidates(self, query: TaskQuery, now: float) -> Iterable[TaskRecord]:
        if query.path is not None:
            return self._account.tasks.by_path(query.path, now)
        if query.task_id is not None:
            return reversed(self._account.tasks.by_id(query.task_id, now))
        return self._account.tasks.newest_first(now)

    def _read(self, records: Iterable[TaskRecord], now: float) -> Iterable[TaskRecord]:
        lag_seconds = self._faults.seconds("late-status", now)
        for record in records:
            record.read(now, lag_seconds)
            yield record

    def _task_by_id(self, call: Call) -> Reply:
        ids = [text.strip() for text in call.parameters.get("TaskId", "").split(",") if text.strip()]
        if not ids:
            raise Rejection("MissingParameter", name="TaskId")
        if len(ids) > MAX_TASK_IDS or not all(text.isdecimal() for text in ids):
            raise Rejection("InvalidTaskId.Malformed")
        oldest = call.now - call.version.history_seconds
        found = [record for task_id in dict.fromkeys(ids) for record in self._account.tasks.by_id(task_id, call.now)]
        kept = [record for record in self._read(found, call.now) if record.created_at > oldest]
        return Reply({"Tasks": [self._task(record, call.version) for record in kept], "TotalCount": len(kept)})

    def _task(self, record: TaskRecord, version: Version) -> dict[str, str]:
        return {
            "TaskId": record.task_id,
            "ObjectPath": record.path,
            "ObjectType": version.wire[record.kind],
            "Status": record.status(),
            "Process": record.process(),
            "CreationTime": timestamp(record.created_at),
            "Description": record.description(),
        }

    def _quota(self, call: Call) -> Reply:
        self._account.lower_limits(call.now)
        prefetch = call.version.prefetch_spends
        fields = {
            **self._figures("Url", RefreshKind.FILE, call.now),
            **self._figures("Dir", RefreshKind.DIRECTORY, call.now),
            **self._figures("Preload", prefetch, call.now),
            "BlockQuota": BLOCK_QUOTA,
            "BlockRemain": BLOCK_QUOTA,
        }
        if call.version.shows_edge:
            fields |= self._figures("PreloadEdge", prefetch, call.now)
        if RefreshKind.IGNORE_PARAMS in call.version.types.values():
            fields |= self._figures("IgnoreParams", RefreshKind.IGNORE_PARAMS, call.now)
            fields |= {"RegexQuota": REGEX_QUOTA, "RegexRemain": REGEX_QUOTA}
        return Reply(fields)

    def _figures(self, name: str, kind: RefreshKind, now: float) -> dict[str, str]:
        ledger = self._account.ledger
        return {f"{name}Quota": str(ledger.limits[kind]), f"{name}Remain": str(ledger.remaining(kind, now))}
