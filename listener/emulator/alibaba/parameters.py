"""Parameters of calls: the paths of a refresh, and queries for tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from listener.emulator.alibaba.faults import Rejection
from listener.emulator.tasks import CacheKey, TaskRecord, cache_key
from listener.refresh import RefreshKind

__all__ = ["MAX_DOMAINS", "MAX_PATHS", "TaskQuery", "parse_paths", "parse_query", "parse_time"]

MAX_PATHS = {
    RefreshKind.FILE: 1000,
    RefreshKind.DIRECTORY: 100,
    RefreshKind.IGNORE_PARAMS: 100,
    RefreshKind.PREFETCH: 100,
}
"""Paths in one call: RefreshObjectCaches and PushObjectCache in the vendor's reference; it names no figure for
IgnoreParams, so its daily quota is taken."""
MAX_DOMAINS = 10
"""Distinct domains in one call of CDN and DCDN, from the same reference."""
DEFAULT_PAGE_SIZE = 20
MAX_PAGE_NUMBER = 100_000
STATUSES = ("Complete", "Refreshing", "Failed", "Pending")


def parse_paths(
    object_path: str, kind: RefreshKind, *, malformed_code: str, most_domains: int
) -> list[tuple[str, CacheKey]]:
    """
    Return each path of an ``ObjectPath`` with its key, in order, or reject the whole batch.

    Lines end with LF or CR LF; empty ones are passed over. Raise :class:`Rejection`: too many
    paths or domains, a malformed path (``malformed_code`` depends on the API version), a directory
    without its final ``/``, or a wildcard domain.
    """
    lines = [line for raw in object_path.split("\n") if (line := raw.removesuffix("\r"))]
    if not lines:
        raise Rejection("MissingParameter", name="ObjectPath")
    if len(lines) > MAX_PATHS[kind]:
        raise Rejection("SingleRequest.OverLimit", limit=MAX_PATHS[kind], what="paths of this type")
    parsed = [(line, _parse_path(line, kind, malformed_code)) for line in lines]
    hosts = {key.host for _, key in parsed}
    if any("*" in host for host in hosts):
        raise Rejection("InvalidExtensiveDomain.ValueNotSupported")
    if len(hosts) > most_domains:
        raise Rejection("SingleRequest.OverLimit", limit=most_domains, what="domains")
    return parsed


def _parse_path(path: str, kind: RefreshKind, malformed_code: str) -> CacheKey:
    try:
        key = cache_key(path)
    except ValueError as error:
        raise Rejection(malformed_code) from error
    if kind is RefreshKind.DIRECTORY and not key.target.endswith("/"):
        raise Rejection(malformed_code)
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """A query for tasks; ``None`` matches any."""

    task_id: str | None
    path: str | None
    kind: RefreshKind | None
    domain: str | None
    status: str | None
    since: float | None
    """Seconds since the epoch, as ``until``; both ends belong to the span."""
    until: float | None
    page_number: int
    page_size: int

    def holds(self, record: TaskRecord) -> bool:
        """Return whether a record matches, as it is shown now."""
        return (
            self.task_id in (None, record.task_id)
            and self.path in (None, record.path)
            and self.kind in (None, record.kind)
            and self.domain in (None, record.key.host, record.key.host.rpartition(":")[0])
            and self.status in (None, record.status())
            and (self.since is None or self.since <= int(record.created_at))
            and (self.until is None or int(record.created_at) <= self.until)
        )


def parse_query(parameters: Mapping[str, str], *, wire: Mapping[RefreshKind, str], max_page_size: int) -> TaskQuery:
    """Return the query; ``wire`` names the kinds. Raise :class:`Rejection` for what the vendor rejects."""
    task_id, status = parameters.get("TaskId"), parameters.get("Status")
    if task_id and not task_id.isdecimal():
        raise Rejection("InvalidTaskId.Malformed")
    if status and status not in STATUSES:
        raise Rejection("InvalidStatus.ValueNotSupported", value=status)
    if (status or parameters.get("DomainName")) and not parameters.get("ObjectType"):
        raise Rejection("MissingParameter.ObjectType")
    since, until = _span(parameters)
    return TaskQuery(
        task_id=task_id or None,
        path=parameters.get("ObjectPath") or None,
        kind=_kind(parameters.get("ObjectType"), wire),
        domain=(parameters.get("DomainName") or "").lower() or None,
        status=status or None,
        since=since,
        until=until,
        page_number=_number(parameters, "PageNumber", default=1, limit=MAX_PAGE_NUMBER),
        page_size=_number(parameters, "PageSize", default=min(DEFAULT_PAGE_SIZE, max_page_size), limit=max_page_size),
    )


def parse_time(text: str) -> float | None:
    """Return seconds since the epoch of ``YYYY-MM-DDThh:mm:ssZ``; ``None`` when it is of another form."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _kind(object_type: str | None, wire: Mapping[RefreshKind, str]) -> RefreshKind | None:
    if not object_type:
        return None
    kinds = {name: kind for kind, name in wire.items()} | {"directory": RefreshKind.DIRECTORY}
    if object_type.lower() not in kinds:
        raise Rejection("InvalidObjectType.ValueNotSupported", value=object_type)
    return kinds[object_type.lower()]


def _span(parameters: Mapping[str, str]) -> tuple[float | None, float | None]:
    start, end = parameters.get("StartTime"), parameters.get("EndTime")
    if not start and not end:
        return None, None
    if not start or not end:
        raise Rejection("MissingParameter", name="EndTime" if start else "StartTime")
    since, until = parse_time(start), parse_time(end)
    if since is None:
        raise Rejection("InvalidStartTime.Malformed")
    if until is None:
        raise Rejection("InvalidEndTime.Malformed")
    if until <= since:
        raise Rejection("InvalidEndTime.Mismatch")
    return since, until


def _number(parameters: Mapping[str, str], name: str, *, default: int, limit: int) -> int:
    text = parameters.get(name) or str(default)
    if not text.isdecimal() or len(text) > len(str(limit)) or not 1 <= int(text) <= limit:
        raise Rejection(f"Invalid{name}.ValueNotSupported", limit=limit)
    return int(text)
