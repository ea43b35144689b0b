"""A site: which part of a storage is served under which URLs of which CDN."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from listener.settings.sections import Fraction, Listed, Seconds, Section
from listener.urls import normal_base_url, normal_url

__all__ = [
    "PATH",
    "AlsoPattern",
    "Guarantee",
    "Hours",
    "Site",
    "SiteShare",
    "Spelling",
    "also_pattern",
    "stripped_suffix",
]

PATH: Final = "{path}"
"""Matches any non-empty text in a pattern, slashes included."""
ARROW: Final = "->"
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]*\}")

Spelling = Literal["browser", "plus", "encoded", "strict", "nfc", "nfd"]
"""A way to write a key as a URL, in addition to the canonical one; ``listener.router.addresses`` has the table."""

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class AlsoPattern(NamedTuple):
    """One rule from a key to another path under which it is served."""

    text: str
    """As written in the configuration, for ``plan --explain``."""
    before: str
    after: str
    """What a key starts and ends with; together the whole key where ``exact``."""
    exact: bool
    """True where the left side has no ``{path}``: one key."""
    result: str
    """The path, with ``{path}`` where the matched text goes."""

    def matched(self, key: str) -> str | None:
        """Return what ``{path}`` matches in this key: empty for an exact rule, None if the key does not match."""
        if self.exact:
            return "" if key == self.before else None
        fits = key.startswith(self.before) and key.endswith(self.after)
        text_end = len(key) - len(self.after)
        return key[len(self.before) : text_end] if fits and text_end > len(self.before) else None

    def path(self, text: str) -> str:
        """Return the path for the matched text."""
        return self.result.replace(PATH, text)


def also_pattern(text: str) -> AlsoPattern:
    """
    Return the rule that a text like ``{path}.gz -> {path}`` states.

    Both sides are relative to the site: after ``prefix`` was cut off the key, below the base URL; a leading ``/`` is
    dropped. Raises :class:`ValueError`, saying what is wrong with it.
    """
    left, arrow, right = text.partition(ARROW)
    left, right = (side.strip() for side in (left, right))
    if not arrow or not left or not right:
        raise ValueError(f'{text!r}: write a key, an arrow and a path, as in "{PATH}.gz {ARROW} {PATH}"')
    if unknown := set(_PLACEHOLDER.findall(left + right)) - {PATH}:
        raise ValueError(f"{text!r}: {min(unknown)} is unknown; {PATH} stands for any text")
    left, right = (side.removeprefix("/") for side in (left, right))
    before, found, after = left.partition(PATH)
    if PATH in after:
        raise ValueError(f"{text!r}: {PATH} occurs twice before the arrow; use it once")
    if PATH in right and not found:
        raise ValueError(f"{text!r}: {PATH} occurs only after the arrow; use it before the arrow, too")
    if "?" in right or "#" in right:
        raise ValueError(f"{text!r}: a path has no ? and no #; name queries in query_variants")
    if left == right:
        raise ValueError(f"{text!r}: both sides are the same, so it adds no address")
    return AlsoPattern(text, before, after, not found, right)


def stripped_suffix(text: str) -> str:
    """Return a suffix for ``strip_suffixes``; raise :class:`ValueError` where it cannot be one."""
    if not text.startswith(".") or "/" in text or len(text) < len(".x"):
        raise ValueError(f'{text!r}: a suffix starts with a dot and has no slash, as in ".html"')
    return text


Item = TypeVar("Item", bound=Hashable)


def _unique(items: tuple[Item, ...]) -> tuple[Item, ...]:
    repeated = [item for at, item in enumerate(items) if item in items[:at]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return items


def _at_least_one(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if not items:
        raise ValueError("must not be empty")
    return items


def _glob(pattern: str) -> str:
    if not pattern:
        raise ValueError("a pattern must not be empty")
    return pattern


def _index_document(name: str) -> str:
    if not name or "/" in name:
        raise ValueError("must be a plain file name")
    return name


def _also(text: str) -> str:
    return also_pattern(text).text


def _origin(text: str) -> str:
    return normal_base_url(text) if text else ""


def _query(text: str) -> str:
    query = text.removeprefix("?")
    return normal_url(f"http://h/?{query}").partition("?")[2] if query else ""


class Hours(NamedTuple):
    """A span of the day by the wall clock, which may pass midnight; includes ``from``, excludes ``to``."""

    from_minute: int
    to_minute: int

    def holds(self, minute: int) -> bool:
        """Return whether it contains this minute of the day."""
        if self.from_minute < self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


def _hours(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = _HOURS.fullmatch(value)
    if found is None:
        raise ValueError("must be a span of the day such as 18:00-23:30")
    hour, minute, to_hour, to_minute = map(int, found.groups())
    if (hour, minute) == (to_hour, to_minute):
        raise ValueError("is empty: a span must not end when it begins")
    return Hours(hour * 60 + minute, to_hour * 60 + to_minute)


def _hours_text(span: Hours) -> str:
    ends = (span.from_minute, span.to_minute)
    return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in ends)


BaseUrl = Annotated[str, AfterValidator(normal_base_url)]
Names = Annotated[tuple[str, ...], Listed, AfterValidator(_unique)]
Globs = Annotated[tuple[Annotated[str, AfterValidator(_glob)], ...], Listed]


class SiteShare(Section):
    """At most these parts of an allowance, such as a day's quota, for one site, while other sites need theirs."""

    file: Fraction = 1.0
    """Part of what file refreshes may spend; all of it by default."""
    directory: Fraction = 1.0
    """Part of what directory refreshes may spend; all of it by default."""


class Guarantee(Section):
    """
    At least these parts of an allowance, such as a day's quota, for one site; the unused rest is lent shortly before
    the reset.
    """

    file: Fraction = 0.0
    """Part of what file refreshes may spend; nothing by default."""
    directory: Fraction = 0.0
    """Part of what directory refreshes may spend; nothing by default."""


class Site(Section):
    """Which part of a storage is served under which URLs of which CDN."""

    name: str = ""
    """Name for ``--site``. Without one, use the number, counted from 0."""
    source: str
    """Name of the source."""
    target: str | None = Field(default=None, exclude=True)
    """Name of the target to refresh; short for ``targets`` with one name."""
    targets: Names = ()
    """Names of the targets in layer order, the cache next to the origin first: an outer cache that is refreshed
    first would fetch the old copy again from the inner one."""
    base_urls: Annotated[tuple[BaseUrl, ...], Listed, AfterValidator(_unique), AfterValidator(_at_least_one)]
    """URLs under which the keys are served, one per host and scheme that is cached separately. May have a port."""
    prefix: str = ""
    """Only keys that start with this; it is removed from the key. Ends with ``/`` unless empty."""
    include: Globs = ("**",)
    """Only keys that match one of these, after ``prefix`` was removed: ``*`` within a folder, ``**`` across folders,
    ``?`` one character, ``[a-z]`` a choice."""
    exclude: Globs = ()
    """Leave out keys that match one of these."""
    index_documents: Annotated[
        tuple[Annotated[str, AfterValidator(_index_document)], ...], Listed, AfterValidator(_unique)
    ] = ("index.html",)
    """A change of a file with this name also refreshes the URL of its folder: ``a/index.html`` and ``a/``."""
    strip_suffixes: Annotated[
        tuple[Annotated[str, AfterValidator(stripped_suffix)], ...], Listed, AfterValidator(_unique)
    ] = ()
    """Clean URLs: a key with this ending is also served without it (``.html``: ``about.html`` as ``about``), and the
    folder of an index document also without its slash (``blog/index.html`` as ``blog``). Each address costs a
    refresh."""
    also: Annotated[tuple[Annotated[str, AfterValidator(_also)], ...], Listed, AfterValidator(_unique)] = ()
    """Further paths under which a key is served, as ``key -> path`` with ``{path}`` for any text: ``{path}.gz ->
    {path}`` if compressed copies are served under the plain name. Each address costs a refresh."""
    spellings: Annotated[tuple[Spelling, ...], Listed, AfterValidator(_unique)] = ("browser", "plus")
    """URL spellings to refresh in addition to the canonical one, where they differ: ``browser`` (``[ ] |``
    unescaped), ``plus`` (``%2B`` for ``+``, as S3 expects), ``encoded`` (``encodeURIComponent``), ``strict`` (all
    but letters, digits and ``-._~``), ``nfc`` and ``nfd`` (Unicode normal forms). Each one that differs costs a
    refresh; ``[]`` refreshes the canonical spelling only."""
    query_variants: Annotated[tuple[Annotated[str, AfterValidator(_query)], ...], Listed, AfterValidator(_unique)] = ()
    """Queries under which the same key is also cached (``w=200``), each a URL of its own. The plain URL is always
    refreshed."""
    all_params: bool = False
    """Refresh a key's path with any query, with a refresh that ignores parameters, if the target supports it."""
    directory_blackout: Annotated[
        tuple[
            Annotated[
                Hours,
                BeforeValidator(_hours, json_schema_input_type=str),
                PlainSerializer(_hours_text, return_type=str),
            ],
            ...,
        ],
        Listed,
    ] = ()
    """Spans of the day such as ``18:00-23:30`` without directory refreshes, for hours in which the origin could not
    serve everything again. In ``planner.time_zone``. File refreshes and manual requests are still sent."""
    min_directory_depth: Annotated[int, Field(ge=0, le=64)] = 1
    """The blast radius: a directory refresh is at least this many folders below the base URL. 0 allows the base
    itself, 1 ``a/``. By default, a mistake cannot evict a whole site."""
    origin_url: Annotated[str, AfterValidator(_origin)] = ""
    """Where the origin serves what is below a base URL, so that probes can ask it, too: the CDN fetches from there.
    With an IP address it is requested with the host of the site."""
    origin_delay_seconds: Seconds = 0.0
    """Wait this long after a change, for an origin that sees it later than cdn-listener; otherwise the CDN would
    fetch the old copy."""
    min_interval_seconds: Seconds = 30.0
    """Shortest time between two refreshes of one URL; it grows while quota is scarce. A refresh takes minutes, so
    sending more often does not help."""
    max_ttl_seconds: Seconds = 0.0
    """How long the CDN caches anything of this site. What has been stale for longer is settled as expired. 0:
    unknown, nothing expires."""
    share: SiteShare = SiteShare()
    """At most these parts of what the account may spend, while other sites need theirs."""
    guaranteed: Guarantee = Guarantee()
    """At least these parts of what the account may spend, whatever other sites of the account publish."""
    priority: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How urgent this site is compared with others of its account. When quota is short, a site with 2 goes before
    one with 1 until that has waited a day longer."""
    evictions_per_minute: Annotated[int, Field(ge=0)] = 0
    """Unchanged objects that directory refreshes may evict per minute, since each is fetched from the origin again.
    A single directory above this limit is sent at the start of a minute. 0: unlimited."""
    ignore_rewrites: bool = False
    """Ignore an object that is written again with the same ETag, where events are ordered (Amazon S3). The risk:
    headers that changed with it (Cache-Control, Content-Type) stay cached as they were."""
    expand_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """A renamed or deleted folder with at most this many known objects is refreshed object by object where that is
    cheaper; a larger one as a directory."""

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_folder(cls, prefix: str) -> str:
        return prefix if not prefix or prefix.endswith("/") else prefix + "/"

    @model_validator(mode="after")
    def _guarantees_within_shares(self) -> Self:
        for kind in ("file", "directory"):
            least, most = getattr(self.guaranteed, kind), getattr(self.share, kind)
            if least > most:
                raise ValueError(f"guaranteed.{kind} ({least}) is above share.{kind} ({most})")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_way_to_name_targets(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        target, targets = table.get("target"), table.get("targets")
        if (target is None) == (not targets):
            raise ValueError('name either target = "…" or targets = ["…", …]')
        return {**table, "target": None, "targets": [target] if target is not None else targets}
