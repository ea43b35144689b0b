"""
Every setting, where it is declared: what it does, its unit, its default and the reason for it.

The tables of sources and targets stay as they were written, apart from their ``type``: the plugin of
that type checks them against its own ``Settings`` (see :mod:`listener.plugins`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from listener.settings.problems import Problem
from listener.urls import normal_base_url, normal_url

__all__ = [
    "Admin",
    "Coalescer",
    "Origin",
    "Planner",
    "PluginTable",
    "Settings",
    "Share",
    "Site",
    "Store",
    "Verifier",
]

Item = TypeVar("Item", bound=Hashable)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_DATABASES = ("sqlite", "postgresql", "postgres")

Seconds = Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)]
"""A span of at most a year."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _unique(items: tuple[Item, ...]) -> tuple[Item, ...]:
    repeated = [item for at, item in enumerate(items) if item in items[:at]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} stands there twice")
    return items


def _at_least_one(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if not items:
        raise ValueError("must not be empty")
    return items


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _glob(pattern: str) -> str:
    if not pattern:
        raise ValueError("a pattern must not be empty")
    return pattern


def _index_document(name: str) -> str:
    if not name or "/" in name:
        raise ValueError("must be a plain file name")
    return name


def _query(text: str) -> str:
    query = text.removeprefix("?")
    return normal_url(f"http://h/?{query}").partition("?")[2] if query else ""


BaseUrl = Annotated[str, AfterValidator(normal_base_url)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_unique)]
Globs = Annotated[tuple[Annotated[str, AfterValidator(_glob)], ...], BeforeValidator(_listed)]
PluginTable = dict[str, Any]
"""The table of one source or target as it was written; ``type`` names its plugin."""


class Origin(NamedTuple):
    """Where settings came from, for messages about them."""

    path: Path | None = None
    """The file that was read."""
    variables: Mapping[str, str] = {}
    """Dotted key to the environment variable (or file) that set it."""


class Section(BaseModel):
    """A table of the configuration: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Store(Section):
    """Where state is kept."""

    url: str = "sqlite:////var/lib/cdn-listener/state.db"
    """``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``postgresql://…``. By default a
    file in the directory that the systemd unit and the container image own."""
    keep_days: Annotated[float, Field(gt=0, le=3660)] = 30.0
    """Days for which settled attempts and the audit trail are kept: a month, so that last month's
    quota can be explained, and no more, so that the file does not grow for ever."""

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        scheme, separator, rest = url.partition(":")
        if scheme not in _DATABASES or not separator or not rest.startswith("//"):
            raise ValueError("must start with sqlite:/// or postgresql://")
        return url


class Coalescer(Section):
    """How long changes are gathered before a refresh is planned."""

    quiet_seconds: Seconds = 1.0
    """A URL is due once nothing happened to it for so long. A second joins the events of one save or
    one deploy step and is short beside the five minutes that a refresh takes."""
    cap_seconds: Seconds = 30.0
    """A URL that never comes to rest is due so long after its first change anyway."""
    unfinished_quiet_seconds: Seconds = 5.0
    """As ``quiet_seconds``, for an object whose writer may not be done; longer, because refreshing a
    half-written file spends quota on a copy that is stale again at once."""
    unfinished_cap_seconds: Seconds = 60.0
    """As ``cap_seconds``, for an object whose writer may not be done."""

    @model_validator(mode="after")
    def _caps_follow_quiet(self) -> Self:
        for prefix in ("", "unfinished_"):
            quiet, cap = getattr(self, f"{prefix}quiet_seconds"), getattr(self, f"{prefix}cap_seconds")
            if cap < quiet:
                raise ValueError(f"{prefix}cap_seconds ({cap}) is below {prefix}quiet_seconds ({quiet})")
        return self


class Planner(Section):
    """How quota is spent."""

    reserve: Fraction = 0.1
    """Part of a day's quota that only urgent refreshes may use: a tenth, so that an emergency at the
    end of the day can still be answered."""


class Verifier(Section):
    """How tasks are followed to their end."""

    first_seconds: Seconds = 60.0
    """The first look at a task comes so long after it was accepted; earlier looks mostly find it running."""
    interval_seconds: Annotated[Seconds, Field(gt=0)] = 30.0
    """The shortest time between two looks at one task; it grows while the task stays unfinished."""
    give_up_seconds: Annotated[Seconds, Field(gt=0)] = 3600.0
    """A task that is not done by then is unconfirmed: told, and not sent again for its age alone. An
    hour is ten times what Alibaba Cloud names as usual."""


class Admin(Section):
    """The HTTP port for people and probes."""

    listen: str = "127.0.0.1:9180"
    """``host:port`` of the status page, ``/livez``, ``/readyz`` and ``/metrics``; empty turns it off.
    Loopback, because it has no log-in."""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        host, separator, port = listen.rpartition(":")
        if listen and not (separator and host and port.isdecimal() and port.isascii() and int(port) < 65536):
            raise ValueError("must be host:port, as in 127.0.0.1:9180, or empty")
        return listen


class Share(Section):
    """At most these parts of a day's quota for one site, while others want theirs."""

    file: Fraction = 1.0
    """Part of the quota of URL refreshes; all of it by default."""
    directory: Fraction = 1.0
    """Part of the quota of directory refreshes; all of it by default."""


class Site(Section):
    """Which part of a storage stands behind which URLs of which CDN."""

    source: str
    """Name of the source whose changes it takes."""
    target: str | None = Field(default=None, exclude=True)
    """Name of the target to refresh; short for ``targets`` with one name."""
    targets: Names = ()
    """Names of the targets in layer order: the cache next to the origin first, since an outer cache
    that is refreshed first would fetch the old copy again from the inner one."""
    base_urls: Annotated[
        tuple[BaseUrl, ...], BeforeValidator(_listed), AfterValidator(_unique), AfterValidator(_at_least_one)
    ]
    """URLs under which the keys are served, one per host and scheme that caches separately. A port is allowed."""
    prefix: str = ""
    """Only keys that start so; it is cut off the key. Ends with ``/`` unless empty."""
    include: Globs = ("**",)
    """Only keys that match one of these, after ``prefix`` was cut: ``*`` within a folder, ``**`` across
    folders, ``?`` one character, ``[a-z]`` a choice."""
    exclude: Globs = ()
    """Never keys that match one of these."""
    index_documents: Annotated[
        tuple[Annotated[str, AfterValidator(_index_document)], ...], BeforeValidator(_listed), AfterValidator(_unique)
    ] = ("index.html",)
    """A change of a file so named also refreshes its folder's URL: ``a/index.html`` and ``a/``."""
    query_variants: Annotated[
        tuple[Annotated[str, AfterValidator(_query)], ...], BeforeValidator(_listed), AfterValidator(_unique)
    ] = ()
    """Queries under which the same key is cached as well (``w=200``), each a URL of its own; the plain
    URL is always refreshed."""
    all_params: bool = False
    """Refresh a key's path with whatever query, by a refresh that ignores parameters, where the target can."""
    min_directory_depth: Annotated[int, Field(ge=0, le=64)] = 1
    """The blast radius: a directory refresh names at least so many folders below the base URL. 0 allows
    the base itself, 1 ``a/``; by default a mistake cannot evict a whole site."""
    origin_delay_seconds: Seconds = 0.0
    """Wait so long after a change, where the origin sees it later than we do; else the CDN would fetch the old copy."""
    min_interval_seconds: Seconds = 30.0
    """The shortest time between two refreshes of one URL; it grows by itself while quota is scarce. A
    refresh takes minutes, so that sending faster heals nothing."""
    max_ttl_seconds: Seconds = 0.0
    """How long the CDN keeps anything of this site; what has been stale for longer settles by itself as
    expired. 0: unknown, nothing expires."""
    share: Share = Share()
    """At most these parts of a day's quota, while other sites want theirs."""
    expand_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """A renamed or deleted folder with at most so many known objects is refreshed object by object where
    that is cheaper; a larger one as a directory. A thousand URLs are one request."""

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_folder(cls, prefix: str) -> str:
        return prefix if not prefix or prefix.endswith("/") else prefix + "/"

    @model_validator(mode="before")
    @classmethod
    def _one_way_to_name_targets(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        target, targets = table.get("target"), table.get("targets")
        if (target is None) == (not targets):
            raise ValueError('name either target = "…" or targets = ["…", …]')
        return {**table, "target": None, "targets": [target] if target is not None else targets}


class Settings(Section):
    """All settings of one process."""

    store: Store = Store()
    """Where state is kept."""
    coalescer: Coalescer = Coalescer()
    """How long changes are gathered before a refresh is planned."""
    planner: Planner = Planner()
    """How quota is spent."""
    verifier: Verifier = Verifier()
    """How tasks are followed to their end."""
    admin: Admin = Admin()
    """The HTTP port for people and probes."""
    sources: dict[str, PluginTable] = {}
    """Where changes come from, by name; ``type`` names the plugin, the other keys are the plugin's."""
    targets: dict[str, PluginTable] = {}
    """The CDN accounts to refresh, by name; ``type`` names the plugin, the other keys are the plugin's."""
    sites: tuple[Site, ...] = ()
    """What is served where."""

    _origin: Origin = PrivateAttr(default=Origin())

    @property
    def origin(self) -> Origin:
        """Where these settings came from."""
        return self._origin

    def problems(self) -> Iterable[Problem]:
        """Yield what is wrong between the tables: names that lead nowhere, sites that say the same twice."""
        for group in ("sources", "targets"):
            yield from _plugin_problems(group, getattr(self, group))
        if self.sources and not self.sites:
            yield Problem("sites", "there is none, so that no change leads to a refresh", "Add a [[sites]] table.")
        seen: dict[Hashable, int] = {}
        for number, site in enumerate(self.sites):
            yield from _site_problems(f"sites.{number}", site, self)
            for place in _places(site):
                first = seen.setdefault(place, number)
                if first != number:
                    yield Problem(f"sites.{number}", f"says the same as sites.{first}", "Remove one of the two.")
                    break


def _plugin_problems(group: str, tables: Mapping[str, PluginTable]) -> Iterable[Problem]:
    for name, table in tables.items():
        if not _NAME.fullmatch(name):
            hint = "Use letters, digits, - and _, at most 64 of them."
            yield Problem(f"{group}.{name}", "is no usable name", hint)
        if not isinstance(table.get("type"), str):
            hint = 'Add type = "…"; `cdn-listener plugins` lists the types.'
            yield Problem(f"{group}.{name}.type", "is missing, or is no text", hint)


def _site_problems(key: str, site: Site, settings: Settings) -> Iterable[Problem]:
    if site.source not in settings.sources:
        yield Problem.of_unknown_name(f"{key}.source", "source", site.source, settings.sources)
    for target in site.targets:
        if target not in settings.targets:
            yield Problem.of_unknown_name(f"{key}.target", "target", target, settings.targets)


def _places(site: Site) -> Iterable[Hashable]:
    for target in site.targets:
        for base in site.base_urls:
            yield site.source, site.prefix, target, base, site.include, site.exclude
