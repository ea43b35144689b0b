"""
Actions of the API as requests; pure. Parameters stand where the official SDK puts them.

========================= =========================================== ====================
action                    query                                       form
========================= =========================================== ====================
RefreshObjectCaches       -                                           ObjectPath, ObjectType, Force
PushObjectCache           ObjectPath, Area, L2Preload, …              -
DescribeRefresh*          everything                                  -
========================= =========================================== ====================

All are POSTs: no HTTP library sends one again by itself. ``ObjectPath`` is separated by line feeds,
so every URL is looked at once more here, whatever was checked before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from listener.alibaba.signature import percent_encode, timestamp
from listener.errors import BatchRejected, BatchTooLarge
from listener.refresh import RefreshKind
from listener.targets.alibaba_cdn.settings import Prefetch, Settings

__all__ = [
    "FORM_TYPE",
    "LONGEST_URL_BYTES",
    "PREFETCH_BATCH_BYTES",
    "Request",
    "domain_of",
    "quota_request",
    "refresh_request",
    "require_plain",
    "task_list_request",
    "tasks_by_id_request",
]

FORM_TYPE = "application/x-www-form-urlencoded"
LONGEST_URL_BYTES = 1_024
"""The vendor's limit for a prefetched URL; none is written for a refresh, so the same is kept."""
PREFETCH_BATCH_BYTES = 6_000
"""
URLs of one prefetch as the query carries them, each encoded once more, with a separator.

Servers commonly take request lines of 8 KiB (the vendor documents no limit), and a V1 signature
with a temporary key's token takes some 1.5 KiB of it.
"""

_PLAIN_URL = re.compile(r"https?://[!-\[\]-~]+")
_OBJECT_TYPES = {RefreshKind.FILE: "File", RefreshKind.DIRECTORY: "Directory"}


class Request(NamedTuple):
    """One call: its action, and its parameters by place."""

    action: str
    query: Mapping[str, str]
    form: Mapping[str, str] | None = None

    @property
    def body(self) -> bytes:
        """The bytes to hash and to send."""
        return urlencode(self.form).encode() if self.form is not None else b""

    @property
    def content_type(self) -> str | None:
        """The body's type; ``None`` without a body."""
        return FORM_TYPE if self.form is not None else None


def domain_of(url: str) -> str:
    """Return the host, and the port where there is one: what the limits per domain count by."""
    return urlsplit(url).netloc.lower()


def require_plain(kind: RefreshKind, urls: Sequence[str]) -> None:
    """
    Raise :class:`~listener.errors.BatchRejected` for a URL that could become another's request.

    That is one with a blank, a control or non-ASCII character, a backslash or a fragment, of more
    than 1,024 bytes, or a directory without a closing slash or with a query.
    """
    if not urls:
        raise ValueError("no URL to ask for")
    for url in urls:
        if problem := _problem(kind, url):
            raise BatchRejected(f"{url[:200]!r} {problem}; it was not sent", code="listener.url")


def _problem(kind: RefreshKind, url: str) -> str:
    if not _PLAIN_URL.fullmatch(url) or "#" in url:
        return "is no percent-encoded http(s) URL without a fragment"
    if len(url) > LONGEST_URL_BYTES:
        return f"has {len(url)} bytes, more than {LONGEST_URL_BYTES}"
    if kind is RefreshKind.DIRECTORY and (not url.endswith("/") or "?" in url):
        return "is no directory: it must end with / and have no query"
    return ""


def refresh_request(kind: RefreshKind, urls: Sequence[str], *, force: bool, settings: Settings) -> Request:
    """Return the refresh of a batch; a prefetch too. ``Force`` is sent where it means something: not for files."""
    require_plain(kind, urls)
    if kind is RefreshKind.PREFETCH:
        return _prefetch_request(urls, settings.prefetch)
    object_type = _OBJECT_TYPES.get(kind, settings.ignore_params_type)
    forced = {"Force": "true"} if force and kind is not RefreshKind.FILE and not settings.is_first_version else {}
    return Request("RefreshObjectCaches", {}, {"ObjectPath": "\n".join(urls), "ObjectType": object_type, **forced})


def _prefetch_request(urls: Sequence[str], options: Prefetch) -> Request:
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
    return Request("PushObjectCache", query)


def quota_request() -> Request:
    """Return the question for the day's quota."""
    return Request("DescribeRefreshQuota", {})


def tasks_by_id_request(task_ids: Sequence[str]) -> Request:
    """Return the question for up to ten tasks (2018-05-10 only)."""
    return Request("DescribeRefreshTaskById", {"TaskId": ",".join(task_ids)})


def task_list_request(
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
    return Request("DescribeRefreshTasks", query)
