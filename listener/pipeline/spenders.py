"""Who spends an account's quota: what one source among several may spend by default, and which spends much of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping

from listener.pipeline.sites import Sites, share_name
from listener.planner import QuotaShare
from listener.refresh import Priority, RefreshKind
from listener.settings import Site
from listener.settings import site as settings
from listener.store.snapshot import Snapshot
from listener.store.staleness import Spender

__all__ = ["DEFAULT_SHARE", "REPORTED_PART", "SPAN_SECONDS", "Spenders", "large_spenders", "sets_a_share"]

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
