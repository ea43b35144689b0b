"""What a configuration may say of a target of type ``alibaba-cdn``; secrets are no settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from listener.alibaba import KeySettings, Origin, Table

__all__ = ["FIRST_API_VERSION", "Limits", "Prefetch", "Quota", "Settings", "Timeouts"]

FIRST_API_VERSION = "2014-11-11"


class Quota(Table):
    """
    Refreshes a day to assume until the live quota is known, in URLs or directories.

    The defaults are those of newer accounts; an older one has 2,000 URLs. Too high a figure corrects
    itself with the first refusal, too low a one would leave quota unused where it cannot be read.
    """

    file: int = Field(10_000, ge=0)
    """URLs a day."""
    directory: int = Field(100, ge=0)
    """Directories a day."""
    ignore_params: int = Field(100, ge=0, alias="ignore-params")
    """URLs with any query a day."""
    prefetch: int = Field(1_000, ge=0)
    """URLs to fetch into the cache a day."""


class Limits(Table):
    """The vendor's limits on requests; lower them where others use the same account."""

    calls_per_second: float = Field(50, gt=0)
    """Calls a second in all: RefreshObjectCaches and PushObjectCache take 50 a second and account."""
    urls_per_domain_minute: int = Field(1_000, ge=1)
    """URLs a domain and minute. Vendor pages say 1,000 or 10,000, by their date: the lower is safe."""
    directories_per_domain_minute: int = Field(100, ge=1)
    """Directories a domain and minute."""
    batch_urls: int = Field(1_000, ge=1, le=1_000)
    """URLs in one request."""
    batch_directories: int = Field(100, ge=1, le=100)
    """Directories in one request."""
    batch_prefetches: int = Field(100, ge=1, le=100)
    """URLs in one prefetch request; their length bounds it too, since they travel in the request's URL."""
    batch_domains: int = Field(10, ge=1, le=10)
    """Different domains in one request."""
    task_list_share: float = Field(1 / 3, gt=0, le=1)
    """The part of the vendor's read limits (tasks by id 30, task list 10, quota 20 calls a second) to use."""


class Timeouts(Table):
    """How long to wait for the API, and over how many connections."""

    connect_seconds: float = Field(5, gt=0)
    """For a connection, its name look-up and TLS included: nothing was sent when this ends."""
    answer_seconds: float = Field(30, gt=0)
    """For the whole call: when this ends a refresh may have been accepted, and the task list is searched."""
    retry_seconds: float = Field(30, ge=0)
    """For all tries of a call that was throttled; after it the caller decides."""
    tries: int = Field(4, ge=1, le=20)
    """Tries of a call that was throttled, the first included."""
    connections: int = Field(8, ge=1)
    """Connections at once."""


class Prefetch(Table):
    """Options of PushObjectCache."""

    area: Literal["domestic", "overseas"] | None = None
    """Where to fetch to; unset: wherever the domain is served."""
    l2_preload: bool = False
    """Fetch to the second cache level, which spares the origin and leaves the edge cold."""
    query_hash_key: bool = False
    """Look up the domain's hash key instead of taking the URL for it."""
    with_header: dict[str, list[str]] | None = None
    """Request headers to fetch with: each variant of a ``Vary`` needs its own; unset: gzip."""


class Settings(KeySettings):
    """An account of Alibaba Cloud CDN."""

    endpoint: Origin = "https://cdn.aliyuncs.com"
    """Where the API is: scheme, host and port. Plain http is for emulators and tests."""
    signature: Literal["acs3-hmac-sha256", "hmac-sha1"] = "acs3-hmac-sha256"
    """How requests are signed; ``hmac-sha1`` is for endpoints that do not know the newer form."""
    api_version: Literal["2018-05-10", "2014-11-11"] = "2018-05-10"
    """The older one has no forced directory refreshes, no ignore-params and no tasks by id."""
    account: str = Field("main", min_length=1)
    """Targets of one account share its quota: give them the same name, and others another."""
    force: bool = True
    """
    Directory refreshes evict everything below, unchanged objects too. Without it nodes only revalidate,
    and keep an old copy whose validator did not advance (a rename, a restored file): stale, yet "Complete".
    """
    ignore_params_type: str = Field("IgnoreParams", min_length=1, pattern=r"^[A-Za-z]+$")
    """The ObjectType for "this path with any query"; some English pages call it ExQuery."""
    quota: Quota = Quota()
    """Refreshes a day to assume until the live quota is known."""
    limits: Limits = Limits()
    """Requests to keep to; the vendor's own limits by default."""
    timeouts: Timeouts = Timeouts()
    """Patience with the API, and connections to it."""
    prefetch: Prefetch = Prefetch()
    """Options of prefetch requests."""

    @property
    def is_first_version(self) -> bool:
        """Whether the API is the one of 2014."""
        return self.api_version == FIRST_API_VERSION
