"""
What is sent to ESA: actions as requests.

Questions stand where the official SDK puts them. A purge is a form: the SDK puts it into the query, which 1,000 long
URLs would overflow, and the vendor's gateway takes both.

The task list cannot be asked for a task by its id. The name that a receipt has is therefore the id with what finds it
in the list: ``16346513304.directory.1767326400.1767326401``, its type and the span of its creation by the CDN's clock.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from listener.alibaba.calls import Request
from listener.alibaba.paths import require_plain
from listener.alibaba.signature import timestamp
from listener.refresh import RefreshKind

__all__ = [
    "KINDS",
    "PAGE_SIZE",
    "VERSION",
    "TaskName",
    "purge_request",
    "quota_request",
    "site_by_id_request",
    "site_by_name_request",
    "task_list_request",
]

VERSION: Final = "2024-09-10"
PAGE_SIZE: Final = 50
"""Rows of a page of the task list, at most."""
KINDS: Final = {
    RefreshKind.FILE: ("file", "Files"),
    RefreshKind.DIRECTORY: ("directory", "Directories"),
    RefreshKind.IGNORE_PARAMS: ("ignoreParams", "IgnoreParams"),
}
"""Type of each kind, and the list of ``Content`` that has its URLs."""


class TaskName(NamedTuple):
    """What finds a task again."""

    task_id: str
    type: str
    start: int
    """The second of the CDN's clock before which it was not created, and below that after which it was not."""
    end: int

    @classmethod
    def of(cls, task_id: str, kind: RefreshKind, began: float, ended: float) -> Self:
        """Return the name of a task that a call in this span created."""
        return cls(task_id, KINDS[kind][0], math.floor(began), math.ceil(ended))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what a text names, or None where it is no such name."""
        found = re.fullmatch(r"([\w-]+)\.(\w+)\.(\d+)\.(\d+)", text)
        return None if found is None else cls(found[1], found[2], int(found[3]), int(found[4]))

    def __str__(self) -> str:
        """Return the name as a receipt has it."""
        return f"{self.task_id}.{self.type}.{self.start}.{self.end}"


def purge_request(site_id: int, kind: RefreshKind, urls: Sequence[str], *, force: bool) -> Request:
    """Return the purge of a batch. ``Force`` is sent where it means something: not for files."""
    require_plain(kind, urls)
    type_, name = KINDS[kind]
    form = {"SiteId": str(site_id), "Type": type_, "Content": json.dumps({name: list(urls)}, separators=(",", ":"))}
    if force and kind is not RefreshKind.FILE:
        form["Force"] = "true"
    return Request("PurgeCaches", {}, form)


def quota_request(site_id: int, kind: RefreshKind) -> Request:
    """Return the question for what is left of a kind."""
    return Request("GetPurgeQuota", {"SiteId": str(site_id), "Type": KINDS[kind][0]})


def task_list_request(
    site_id: int, type_: str, *, page: int, span: tuple[float, float] | None = None, url: str | None = None
) -> Request:
    """Return the question for a page of the site's tasks; ``span`` is in seconds since the epoch."""
    query = {"SiteId": str(site_id), "Type": type_, "PageNumber": str(page), "PageSize": str(PAGE_SIZE)}
    if span is not None:
        query |= {"StartTime": timestamp(span[0]), "EndTime": timestamp(span[1])}
    if url is not None:
        query["Content"] = url
    return Request("DescribePurgeTasks", query, method="GET")


def site_by_name_request(name: str) -> Request:
    """Return the question for the sites of this name."""
    return Request("ListSites", {"SiteName": name, "SiteSearchType": "exact", "PageSize": "50"}, method="GET")


def site_by_id_request(site_id: int) -> Request:
    """Return the question for a site."""
    return Request("GetSite", {"SiteId": str(site_id)}, method="GET")
