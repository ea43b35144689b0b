"""What a configuration may say of a target of type ``alibaba-cdn`` or ``alibaba-dcdn``; secrets are no settings."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from pydantic import Field

from listener.alibaba import Origin, Table
from listener.alibaba.calls import ApiSettings
from listener.targets.alibaba_cdn.services import CDN, DCDN, FIRST_CDN, Service

__all__ = ["AccountSettings", "DcdnLimits", "DcdnSettings", "Limits", "Prefetch", "Quota", "Settings"]


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


class Prefetch(Table):
    """Options of PushObjectCache, or DCDN's PreloadDcdnObjectCaches."""

    area: Literal["domestic", "overseas"] | None = None
    """Where to fetch to; unset: wherever the domain is served."""
    l2_preload: bool = False
    """Fetch to the second cache level, which spares the origin and leaves the edge cold."""
    query_hash_key: bool = False
    """Look up the domain's hash key instead of taking the URL for it."""
    with_header: dict[str, list[str]] | None = None
    """Request headers to fetch with: each variant of a ``Vary`` needs its own; unset: gzip."""


class DcdnLimits(Limits):
    """The vendor's limits on requests; lower them where others use the same account."""

    calls_per_second: float = Field(15, gt=0)
    """Calls a second in all: DCDN takes 30 refreshes and 15 prefetches a second and account."""


class AccountSettings(ApiSettings):
    """What CDN and DCDN have in common."""

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
    prefetch: Prefetch = Prefetch()
    """Options of prefetch requests."""

    @property
    @abstractmethod
    def service(self) -> Service:
        """Return the API that is called."""

    @property
    @abstractmethod
    def ledger(self) -> str:
        """Return what names the quota of this account: CDN's is not DCDN's."""


class Settings(AccountSettings):
    """An account of Alibaba Cloud CDN."""

    endpoint: Origin = "https://cdn.aliyuncs.com"
    """Where the API is: scheme, host and port. Plain http is for emulators and tests."""
    api_version: Literal["2018-05-10", "2014-11-11"] = "2018-05-10"
    """The older one has no forced directory refreshes, no ignore-params and no tasks by id."""

    @property
    def service(self) -> Service:
        """Return the version of CDN's API."""
        return FIRST_CDN if self.api_version == FIRST_CDN.version else CDN

    @property
    def ledger(self) -> str:
        """Return the account's name."""
        return self.account


class DcdnSettings(AccountSettings):
    """An account of Alibaba Cloud DCDN (Dynamic Route for CDN)."""

    endpoint: Origin = "https://dcdn.aliyuncs.com"
    """Where the API is: scheme, host and port. Plain http is for emulators and tests."""
    limits: DcdnLimits = DcdnLimits()
    """Requests to keep to; the vendor's own limits by default."""

    @property
    def service(self) -> Service:
        """Return DCDN's API."""
        return DCDN

    @property
    def ledger(self) -> str:
        """Return the account's name behind the service: one account has a quota for each."""
        return f"dcdn:{self.account}"
