"""The APIs that take refreshes as ``ObjectPath`` and ``ObjectType``: what differs between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from listener.alibaba.replies import CDN_HINTS, Hints
from listener.refresh import RefreshKind

__all__ = ["CDN", "DCDN", "FIRST_CDN", "Service"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One version of one API."""

    title: str
    version: str
    refresh: str
    """Names of actions, as the next four."""
    prefetch: str
    task_list: str
    tasks_by_id: str | None
    """None where tasks are looked up in the list, one by one."""
    quota: str
    page_size: int
    """Rows of a page of the task list, at most."""
    history_days: int
    """How long the task list shows a task."""
    directory_type: str = "directory"
    """The ObjectType of a directory in queries of the task list."""
    forces: bool = True
    """Whether ``Force`` is known."""
    ignores_params: bool = True
    """Whether a path can be refreshed with any query."""
    hints: Hints = CDN_HINTS

    @property
    def kinds(self) -> tuple[RefreshKind, ...]:
        """What can be asked for."""
        kinds = (RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.PREFETCH)
        return (*kinds, RefreshKind.IGNORE_PARAMS) if self.ignores_params else kinds


CDN: Final = Service(
    title="Alibaba Cloud CDN",
    version="2018-05-10",
    refresh="RefreshObjectCaches",
    prefetch="PushObjectCache",
    task_list="DescribeRefreshTasks",
    tasks_by_id="DescribeRefreshTaskById",
    quota="DescribeRefreshQuota",
    page_size=100,
    history_days=3,
)
FIRST_CDN: Final = replace(
    CDN,
    version="2014-11-11",
    tasks_by_id=None,
    page_size=50,
    history_days=7,
    directory_type="path",
    forces=False,
    ignores_params=False,
)
DCDN: Final = Service(
    title="Alibaba Cloud DCDN",
    version="2018-01-15",
    refresh="RefreshDcdnObjectCaches",
    prefetch="PreloadDcdnObjectCaches",
    task_list="DescribeDcdnRefreshTasks",
    tasks_by_id="DescribeDcdnRefreshTaskById",
    quota="DescribeDcdnRefreshQuota",
    page_size=50,
    history_days=3,
    hints=Hints(
        actions="dcdn:RefreshDcdnObjectCaches, dcdn:PreloadDcdnObjectCaches and dcdn:DescribeDcdnRefresh*",
        endpoint="endpoint",
        object_type="ignore_params_type",
        console="DCDN",
    ),
)
