"""What a configuration may say of a target of type ``alibaba-esa``; secrets are no settings."""

from __future__ import annotations

from pydantic import Field

from listener.alibaba import Origin, Table
from listener.alibaba.calls import ApiSettings

__all__ = ["Limits", "Quota", "Settings", "ThirtyDays"]


class Quota(Table):
    """
    Purges a day to assume until the live quota is known.

    The defaults fit every plan: the smallest one has 1,000 URLs a day.
    """

    file: int = Field(1_000, ge=0)
    """URLs a day."""
    directory: int = Field(100, ge=0)
    """Directories a day."""
    ignore_params: int = Field(100, ge=0, alias="ignore-params")
    """URLs with any query a day."""


class ThirtyDays(Table):
    """Purges in 30 days to assume until the live quota is known; 0: as many as the days allow."""

    file: int = Field(0, ge=0)
    """URLs in 30 days."""
    directory: int = Field(0, ge=0)
    """Directories in 30 days."""
    ignore_params: int = Field(0, ge=0, alias="ignore-params")
    """URLs with any query in 30 days."""


class Limits(Table):
    """Limits on requests; lower them where others use the same account."""

    calls_per_second: float = Field(10, gt=0)
    """Calls a second in all: the vendor publishes no figure."""
    task_list_calls_per_second: float = Field(5, gt=0)
    """Pages of the task list a second."""
    batch_urls: int = Field(1_000, ge=1, le=1_000)
    """URLs in one request."""
    batch_directories: int = Field(100, ge=1, le=100)
    """Directories, or URLs with any query, in one request."""


class Settings(ApiSettings):
    """One site of Alibaba Cloud ESA."""

    endpoint: Origin = "https://esa.cn-hangzhou.aliyuncs.com"
    """Where the API is; ``https://esa.ap-southeast-1.aliyuncs.com`` outside of mainland China; http for emulators."""
    site: str = Field(min_length=1, pattern=r"^(\d{1,19}|[A-Za-z0-9.-]{1,253})$")
    """The site, by its name (``example.com``) or its id; alike in all of its targets, which share its quota."""
    force: bool = True
    """
    Directory purges evict everything below, unchanged objects too. Without it nodes only revalidate,
    and keep an old copy whose validator did not advance (a rename, a restored file): stale, yet "Complete".
    """
    quota: Quota = Quota()
    """Purges a day to assume until the live quota is known."""
    quota_30_days: ThirtyDays = ThirtyDays()
    """Purges in 30 days to assume until the live quota is known."""
    limits: Limits = Limits()
    """Requests to keep to."""

    @property
    def site_id(self) -> int | None:
        """Return the id of the site, where the setting is one."""
        return int(self.site) if self.site.isdecimal() else None
