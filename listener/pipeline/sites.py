"""Sites by URL: which site a URL belongs to, and what its settings say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from listener.change import Change
from listener.pipeline.hours import closed_until
from listener.router import Router
from listener.router.serving import served_by
from listener.settings import Site
from listener.store import NeedInput

__all__ = ["Closed", "Sites", "root_of", "share_name"]


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
