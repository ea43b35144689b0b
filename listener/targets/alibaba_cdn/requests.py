"""
What is sent to the API: actions as requests, with their parameters where the official SDK puts them.

========================= =========================================== ====================
action                    query                                       form
========================= =========================================== ====================
refresh                   -                                           ObjectPath, ObjectType, Force
prefetch                  ObjectPath, Area, L2Preload, …              -
questions                 everything                                  -
========================= =========================================== ====================

DCDN's SDK puts a refresh into the query as well; its documentation allows the form, which takes 1,000 long URLs.
``ObjectPath`` is separated by line feeds, so every URL is looked at once more here, whatever was checked before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from listener.alibaba.calls import Request
from listener.alibaba.paths import require_plain
from listener.alibaba.signature import percent_encode, timestamp
from listener.errors import BatchTooLarge
from listener.refresh import RefreshKind
from listener.targets.alibaba_cdn.services import Service
from listener.targets.alibaba_cdn.settings import AccountSettings, Prefetch

__all__ = [
    "PREFETCH_BATCH_BYTES",
    "quota_request",
    "refresh_request",
    "task_list_request",
    "tasks_by_id_request",
]

PREFETCH_BATCH_BYTES = 6_000
"""
URLs of one prefetch as the query carries them, each encoded once more, with a separator.

Servers commonly take request lines of 8 KiB (the vendor documents no limit), and a V1 signature
with a temporary key's token takes some 1.5 KiB of it.
"""

_OBJECT_TYPES = {RefreshKind.FILE: "File", RefreshKind.DIRECTORY: "Directory"}


def refresh_request(kind: RefreshKind, urls: Sequence[str], *, force: bool, settings: AccountSettings) -> Request:
    """Return the refresh of a batch; a prefetch too. ``Force`` is sent where it means something: not for files."""
    require_plain(kind, urls)
    if kind is RefreshKind.PREFETCH:
        return _prefetch_request(urls, settings.prefetch, settings.service)
    object_type = _OBJECT_TYPES.get(kind, settings.ignore_params_type)
    forced = {"Force": "true"} if force and kind is not RefreshKind.FILE and settings.service.forces else {}
    return Request(settings.service.refresh, {}, {"ObjectPath": "\n".join(urls), "ObjectType": object_type, **forced})


def _prefetch_request(urls: Sequence[str], options: Prefetch, service: Service) -> Request:
    query = {"ObjectPath": "\n".join(urls)}
    if options.area:
        query["Area"] = options.area
    if options.l2_preload:
        query["L2Preload"] = "true"
    if options.query_hash_key:
        query["QueryHashkey"] = "true"
    if options.with_header is not None:
        query["WithHeader"] = json.dumps(options.with_header, separators=(",", ":"), sort_keys=True)
    encoded_bytes = len(percent_encode(query["ObjectPath"]))
    if encoded_bytes > PREFETCH_BATCH_BYTES and len(urls) > 1:
        message = f"{len(urls)} URLs take {encoded_bytes} bytes of a request's URL, more than {PREFETCH_BATCH_BYTES}"
        raise BatchTooLarge(message, code="listener.length")
    return Request(service.prefetch, query)


def quota_request(service: Service) -> Request:
    """Return the question for the day's quota."""
    return Request(service.quota, {})


def tasks_by_id_request(service: Service, task_ids: Sequence[str]) -> Request:
    """Return the question for up to ten tasks, where the service has one."""
    if service.tasks_by_id is None:
        raise ValueError(f"version {service.version} has no question for tasks by id")
    return Request(service.tasks_by_id, {"TaskId": ",".join(task_ids)})


def task_list_request(
    service: Service,
    *,
    page: int,
    page_size: int,
    task_id: str | None = None,
    url: str | None = None,
    object_type: str | None = None,
    span: tuple[float, float] | None = None,
) -> Request:
    """Return the question for a page of the task list; ``span`` is in seconds since the epoch, sent in whole ones."""
    query = {"PageNumber": str(page), "PageSize": str(page_size)}
    if task_id is not None:
        query["TaskId"] = task_id
    if url is not None:
        query["ObjectPath"] = url
    if object_type is not None:
        query["ObjectType"] = object_type
    if span is not None:
        query |= {"StartTime": timestamp(span[0]), "EndTime": timestamp(span[1])}
    return Request(service.task_list, query)
