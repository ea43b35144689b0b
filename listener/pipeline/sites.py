"""What the pipeline asks of sites by URL: which site a URL belongs to, and what its settings say."""

from __future__ import annotations

from collections.abc import Sequence

from listener.change import Change
from listener.router import Router
from listener.settings import Site
from listener.store import NeedInput

__all__ = ["Sites"]


class Sites:
    """The configured sites, with the router that serves them."""

    def __init__(self, sites: Sequence[Site]) -> None:
        """Prepare these sites."""
        self._sites = tuple(sites)
        self.router = Router(sites)
        self._bases = sorted(
            ((target, base, site) for site in sites for target in site.targets for base in site.base_urls),
            key=lambda one: -len(one[1]),
        )

    def route(self, change: Change) -> list[NeedInput]:
        """Return the needs that the change makes; raise :class:`~listener.errors.KeyRejected` like the router."""
        sites = self._sites
        return [
            NeedInput(need.target, need.url, need.scope, sites[need.site].origin_delay_seconds)
            for need in self.router.route(change)
        ]

    def of(self, target: str, url: str) -> Site | None:
        """Return the site with the longest base URL that this URL starts with."""
        for name, base, site in self._bases:
            if name == target and url.startswith(base):
                return site
        return None

    def targets_of(self, url: str) -> Sequence[str]:
        """Return the layers of the site with the longest base URL that this URL starts with; none where none has."""
        return next((site.targets for _, base, site in self._bases if url.startswith(base)), ())

    @property
    def expand_limit(self) -> int:
        """Return the largest subtree that any site lets be refreshed object by object."""
        return max((site.expand_limit for site in self._sites), default=0)
