"""Who spends an account's quota: what one source among several may spend by default, and which spends much."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from listener.allowances import costs_of
from listener.pipeline.accounts import Account
from listener.planner import QuotaShare
from listener.refresh import Priority, RefreshKind
from listener.router.routing import Sites, share_name
from listener.settings import Site
from listener.settings import site as settings
from listener.store.controls import Spender
from listener.store.needs import Sent, Snapshot

__all__ = [
    "DEFAULT_SHARE",
    "REPORTED_PART",
    "SPAN_SECONDS",
    "Spenders",
    "large_spenders",
    "sets_a_share",
    "units_spent",
]

DEFAULT_SHARE = 0.75
"""The part of an allowance that one source among several may spend where no site sets ``share`` or ``guaranteed``."""


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
            if target in targets and (site := sites.of(target, sites.address(target, base))) is not None
        ]
        self._by_source = not self.has_shares and len({site.source for site in found}) > 1
        self.are_several = len({self._name(site) for site in found}) > 1

    def name(self, target: str, url: str) -> str | None:
        """Return who pays for a refresh of this URL, if a site serves it."""
        site = self._sites.of(target, url)
        return None if site is None else self._name(site)

    def live_payer(self, sent: Sent) -> str | None:
        """Return who pays for what was sent; None for what a backfill requested."""
        return self.name(sent.target, sent.url) if sent.priority is Priority.LIVE else None

    def _name(self, site: Site) -> str:
        return site.source if self._by_source else share_name(site)

    def described(self, target: str, url: str, kind: RefreshKind) -> tuple[str, str] | None:
        """Return a spender's source, and what it is called; None for one whose share of this kind is set."""
        site = self._sites.of(target, url)
        if site is None or getattr(site.share, kind.value, 1.0) < 1.0:
            return None
        return site.source, f"source {site.source}" if self._by_source else f"site {share_name(site)}"

    def default_shares(self, limits: Mapping[RefreshKind, int]) -> dict[tuple[str, RefreshKind], QuotaShare]:
        """Return the part that each spender may have where none is set."""
        return {
            (name, kind): QuotaShare(
                greatest=_rounded_up(limits.get(kind, 0)),
                used_up=f"its source has used up its {DEFAULT_SHARE:.0%} of the quota (no site sets a share)",
            )
            for name in {self._name(site) for site in self.served}
            for kind in _KINDS
        }


def _rounded_up(limit: int) -> float:
    """Return the default share of a limit such that it is a whole number of units, and of one unit all."""
    return min(1.0, (math.ceil(DEFAULT_SHARE * limit) + 0.5) / max(1, limit))


def units_spent(
    snapshot: Snapshot, account: Account, payer: Callable[[Sent], str | None], now: float
) -> Counter[tuple[str, str]]:
    """
    Return how many units of each allowance somebody has spent or holds, of those that count now.

    Args:
        snapshot: of the store.
        account: whose allowances.
        payer: returns who pays for what was sent; None: nobody.
        now: seconds since the epoch.
    """
    spent: Counter[tuple[str, str]] = Counter()
    allowances = account.allowances
    since = {one.name: one.window.first(now) for one in allowances}
    for sent in snapshot.sent_since(account.name, min(since.values())) if since else ():
        if (name := payer(sent)) is not None:
            for allowance, units in costs_of(allowances, sent.kind).items():
                spent[name, allowance] += units if sent.at >= since[allowance] else 0
    return spent


def large_spenders(snapshot: Snapshot, account: Account, spenders: Spenders, *, now: float) -> list[Spender]:
    """
    Return who spent more than :data:`REPORTED_PART` of what was left of an allowance an hour ago.

    Backfills are not counted: a person asked for them. A spender whose share is set is as it was meant.
    """
    if not spenders.are_several or not (allowances := account.allowances):
        return []
    spent: Counter[tuple[str, str, str]] = Counter()
    all_spent: Counter[str] = Counter()
    since = {one.name: max(one.window.first(now), now - SPAN_SECONDS) for one in allowances}
    for sent in snapshot.sent_since(account.name, now - SPAN_SECONDS):
        costs = costs_of(allowances, sent.kind)
        counted = {name: units for name, units in costs.items() if sent.at >= since[name]}
        all_spent.update(counted)
        if sent.priority is Priority.LIVE and (found := spenders.described(sent.target, sent.url, sent.kind)):
            spent.update({(*found, name): units for name, units in counted.items()})
    left = {
        one.name: all_spent[one.name] + snapshot.budget(account.name, one, now=now).left
        for one in allowances
        if one.name in all_spent
    }
    return [
        Spender(source, name, allowance, units, left[allowance])
        for (source, name, allowance), units in sorted(spent.items())
        if units > REPORTED_PART * left[allowance]
    ]
