"""
Sites by URL: which site a URL belongs to, what its settings say, and who spends an account's quota.

A site's hours forbid directory refreshes while its origin can bear no wave of fetches (:func:`closed_until`). What one
source among several may spend by default, and which spends much, :class:`Spenders` says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from listener.change import Change
from listener.planner import QuotaShare
from listener.refresh import Priority, RefreshKind
from listener.router import Router
from listener.router.serving import served_by
from listener.settings import Hours, Site
from listener.settings import site as settings
from listener.store import NeedInput
from listener.store.controls import Spender
from listener.store.needs import Snapshot

__all__ = [
    "DEFAULT_SHARE",
    "REPORTED_PART",
    "SPAN_SECONDS",
    "Closed",
    "Sites",
    "Spenders",
    "closed_until",
    "large_spenders",
    "root_of",
    "sets_a_share",
    "share_name",
]


def root_of(url: str) -> str:
    """Return the scheme and host of a URL, with the ``/`` that ends them."""
    return url[: url.find("/", url.find("://") + 3) + 1]


def share_name(site: Site) -> str:
    """Return the name under which a site's share of the quota is kept."""
    return site.name or f"{site.source}:{site.prefix} {site.base_urls[0]}"


class Closed(NamedTuple):
    """The base URLs of sites whose hours forbid directory refreshes now."""

    bases: Sequence[str]
    until: float | None
    """When that ends for the first of them, in seconds since the epoch."""

    def holds(self, url: str) -> bool:
        """Return whether a refresh of this directory would refresh anything of such a site."""
        return any(url.startswith(base) or base.startswith(url) for base in self.bases)


class Sites:
    """The configured sites, with the router that serves them."""

    def __init__(self, sites: Sequence[Site], *, time_zone: str = "UTC") -> None:
        """Prepare these sites; ``time_zone`` is that of their hours."""
        self._sites = tuple(sites)
        self._time_zone = time_zone
        self.router = Router(sites)
        self._bases = sorted(
            ((target, base, site) for site in sites for target in site.targets for base in site.base_urls),
            key=lambda one: -len(one[1]),
        )
        self._by_host: dict[tuple[str, str], list[tuple[str, Site]]] = {}
        for target, base, site in self._bases:
            self._by_host.setdefault((target, root_of(base)), []).append((base, site))

    def route(self, change: Change) -> list[NeedInput]:
        """Return the needs that the change makes; raise :class:`~listener.errors.KeyRejected` like the router."""
        found = []
        for need in self.router.route(change):
            site = self._sites[need.site]
            found.append(NeedInput(need.target, need.url, need.scope, site.origin_delay_seconds, site.ignore_rewrites))
        return found

    def of(self, target: str, url: str) -> Site | None:
        """Return the site with the longest base URL that this URL starts with."""
        for base, site in self._by_host.get((target, root_of(url)), ()):
            if url.startswith(base):
                return site
        return None

    def behind(self, targets: Collection[str]) -> list[Site]:
        """Return the sites that any of these targets serves."""
        return [site for site in self._sites if not set(targets).isdisjoint(site.targets)]

    def targets_of(self, url: str) -> Sequence[str]:
        """Return the layers of the site with the longest base URL that this URL starts with; none where none has."""
        return next((site.targets for _, base, site in self._bases if url.startswith(base)), ())

    def targets_serving(self, url: str) -> Sequence[str]:
        """Return the same; raise :class:`~listener.errors.ConfigurationError` where no site serves the URL."""
        return served_by(self._sites, url).site.targets

    def closed(self, now: float) -> Closed:
        """Return where no directory may be refreshed at this hour."""
        found = [
            (base, until)
            for site in self._sites
            if (until := closed_until(site.directory_blackout, self._time_zone, now)) is not None
            for base in site.base_urls
        ]
        return Closed(tuple(base for base, _ in found), min((until for _, until in found), default=None))

    @property
    def expand_limit(self) -> int:
        """Return the largest subtree that any site lets be refreshed object by object."""
        return max((site.expand_limit for site in self._sites), default=0)


DEFAULT_SHARE = 0.75
"""The part of a day's quota that one source among several may spend where no site sets ``share`` or ``guaranteed``."""
REPORTED_PART = 0.25
"""A source that spends more than this part of what was left is reported."""
SPAN_SECONDS = 3600.0
"""Within which time that is counted."""
_KINDS = (RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS)


def sets_a_share(sites: Collection[Site]) -> bool:
    """Return whether any of these sites sets ``share`` or ``guaranteed``."""
    return any(site.share != settings.SiteShare() or site.guaranteed != settings.Guarantee() for site in sites)


class Spenders:
    """
    The spenders of one account's quota.

    They are its sites where one sets ``share`` or ``guaranteed``. Else they are its sources, or the sites of its only
    source. Sites with the same base URL cannot be distinguished by a URL, and are one spender.
    """

    def __init__(self, sites: Sites, targets: Collection[str]) -> None:
        """Take all sites, and the targets of the account."""
        self._sites = sites
        self.served = sites.behind(targets)
        self.has_shares = sets_a_share(self.served)
        found = [
            site
            for served in self.served
            for target in served.targets
            for base in served.base_urls
            if target in targets and (site := sites.of(target, base)) is not None
        ]
        self._by_source = not self.has_shares and len({site.source for site in found}) > 1
        self.are_several = len({self._name(site) for site in found}) > 1

    def name(self, target: str, url: str) -> str | None:
        """Return who pays for a refresh of this URL, if a site serves it."""
        site = self._sites.of(target, url)
        return None if site is None else self._name(site)

    def _name(self, site: Site) -> str:
        return site.source if self._by_source else share_name(site)

    def described(self, target: str, url: str, kind: RefreshKind) -> tuple[str, str] | None:
        """Return a spender's source, and what it is called; None for one whose share of this kind is set."""
        site = self._sites.of(target, url)
        if site is None or getattr(site.share, kind.value, 1.0) < 1.0:
            return None
        return site.source, f"source {site.source}" if self._by_source else f"site {share_name(site)}"

    def default_shares(
        self, snapshot: Snapshot, account: str, limits: Mapping[RefreshKind, int], *, now: float
    ) -> dict[tuple[str, RefreshKind], QuotaShare]:
        """Return the part that each spender may have where none is set; what backfills spent does not count."""
        spent: Counter[tuple[str, RefreshKind]] = Counter()
        for unit in snapshot.units_today(account, now=now):
            if unit.priority is Priority.LIVE and (name := self.name(unit.target, unit.url)) is not None:
                spent[name, unit.kind] += 1
        return {
            (name, kind): QuotaShare(
                greatest=_rounded_up(limits.get(kind, 0)),
                spent=spent[name, kind],
                used_up=f"its source has used up its {DEFAULT_SHARE:.0%} of the day (no site sets a share)",
            )
            for name in {self._name(site) for site in self.served}
            for kind in _KINDS
        }


def _rounded_up(limit: int) -> float:
    """Return the default share of a limit such that it is a whole number of units, and of one unit all."""
    return min(1.0, (math.ceil(DEFAULT_SHARE * limit) + 0.5) / max(1, limit))


def large_spenders(
    snapshot: Snapshot,
    account: str,
    spenders: Spenders,
    quota: Mapping[RefreshKind, int],
    *,
    now: float,
) -> list[Spender]:
    """
    Return who spent more than :data:`REPORTED_PART` of what was left an hour ago, of what the quota day has of it.

    Backfills are not counted: a person asked for them. A spender whose share is set is as it was meant.
    """
    if not spenders.are_several:
        return []
    spent: Counter[tuple[str, str, RefreshKind]] = Counter()
    all_spent: Counter[RefreshKind] = Counter()
    for target, kind, url, priority in snapshot.units_today(account, now=now, since=now - SPAN_SECONDS):
        all_spent[kind] += 1
        if priority is Priority.LIVE and (found := spenders.described(target, url, kind)) is not None:
            spent[*found, kind] += 1
    left = {
        kind: units + snapshot.budget(account, kind, now=now, default=quota.get(kind, 0)).left
        for kind, units in all_spent.items()
    }
    return [
        Spender(source, name, kind.value, units, left[kind])
        for (source, name, kind), units in sorted(spent.items())
        if units > REPORTED_PART * left[kind]
    ]


DAY_MINUTES = 24 * 60
LOOK_AHEAD_SECONDS = 48 * 3600.0
"""Spans that together fill the day never end: it is looked again then, instead of for ever."""


def closed_until(spans: Sequence[Hours], zone: str, now: float) -> float | None:
    """
    Return when the wall clock of the zone next shows a time outside all spans, in seconds since the epoch.

    None where it does now. What the clock shows decides, also where it is put on or back: a span that ends
    within an hour that is left out ends as that hour would have begun; one that ends within an hour that comes
    twice ends twice. Where the spans leave no minute of the day, a time two days ahead is returned.
    """
    place, at = ZoneInfo(zone), now
    while (end := _end(spans, datetime.fromtimestamp(at, place))) is not None:
        at = _turn(place, at, round(at + end.total_seconds()))
        if at - now > LOOK_AHEAD_SECONDS:
            break
    return at if at > now else None


def _end(spans: Sequence[Hours], local: datetime) -> timedelta | None:
    """Return how long the spans that hold this time go on by a clock that nobody touches; None outside of them."""
    minute = local.hour * 60 + local.minute
    left = [(span.to_minute - minute) % DAY_MINUTES or DAY_MINUTES for span in spans if span.holds(minute)]
    if not left:
        return None
    return timedelta(minutes=max(left), seconds=-local.second, microseconds=-local.microsecond)


def _turn(place: ZoneInfo, start: float, end: int) -> int:
    """Return the end, or the second before it from which on the clock is put on or back."""
    before, low, high = _offset(place, start), math.floor(start), end
    if _offset(place, end) == before:
        return end
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(place, middle) == before else (low, middle)
    return high


def _offset(place: ZoneInfo, at: float) -> timedelta | None:
    return datetime.fromtimestamp(at, place).utcoffset()
