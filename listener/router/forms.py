"""
Under which one URL a target keeps what its CDN does not distinguish; pure.

=============================== =========================================================================
a CDN that                      has as the address of a URL
=============================== =========================================================================
takes the path alone            the URL with the host of the target's first base URL
cannot be asked for a URL       the beginning that it can be asked for, with a ``*`` behind it: all that
                                begins so is refreshed
anything else                   the URL itself
=============================== =========================================================================

A beginning that is shorter than the site's base URL, or whose folder is above ``min_directory_depth``, would refresh
more than the site allows: then the address is the URL, and the target refuses it with the reason.

An outer layer waits for inner ones by URL. So hosts are kept apart at a target that is an outer layer of a site with
another host than its addresses would have, though a path is then requested for each host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from listener.contracts import JoinsUrls
from listener.settings import Site

__all__ = ["Forms", "root_of"]

PLAIN: Final = "_.~!$&'()*+,;=:@-"
"""What a path may have besides letters, digits and ``/``, as it is."""
EXAMPLE: Final = "https://www.example.com/"


class _Form(NamedTuple):
    """What one target makes of URLs."""

    target: JoinsUrls
    root: str
    """Scheme and host of the addresses; empty: those of each URL."""


class Forms:
    """The addresses of URLs at each target."""

    def __init__(self, sites: Sequence[Site], targets: Mapping[str, object]) -> None:
        """Prepare the targets (or their classes), by name; those that join no URLs keep each as it is."""
        self._forms: dict[str, _Form] = {}
        for name, target in targets.items():
            if isinstance(target, JoinsUrls):
                self._forms[name] = _Form(target, _shared_root(sites, name) if target.shares_hosts else "")

    def base(self, target: str, url: str) -> str:
        """Return the address of a base URL: never a shorter one."""
        form = self._forms.get(target)
        return url if form is None or not form.root else form.root + url[len(root_of(url)) :]

    def of(self, target: str, base: str, url: str, *, min_depth: int) -> str:
        """Return the address of a URL below a base URL, both with the host of addresses."""
        named = self.nameable(target, url)
        if named == url:
            return url
        beginning = named[:-1]
        is_allowed = beginning.startswith(base) and beginning.count("/", len(base)) >= min_depth
        return named if is_allowed else url

    def nameable(self, target: str, url: str) -> str:
        """Return what a target can be asked for, however much that is."""
        form = self._forms.get(target)
        return url if form is None else form.target.nameable(url)

    def changed(self, targets: Iterable[str], tails: Iterable[str] = ()) -> re.Pattern[str] | None:
        """Return what is found in names that one of these targets cannot be asked for; None where it can for all."""
        forms = [form.target for name in targets if (form := self._forms.get(name)) is not None]
        found = [one for one in PLAIN if any(form.nameable(EXAMPLE + one) != EXAMPLE + one for form in forms)]
        if any(form.nameable(f"{EXAMPLE}x{tail}") != f"{EXAMPLE}x{tail}" for form in forms for tail in tails):
            return re.compile("")  # every name
        return re.compile(f"[{re.escape(''.join(found))}]") if found else None


def _shared_root(sites: Sequence[Site], target: str) -> str:
    """Return the scheme and host of a target's addresses; empty where its hosts are to be kept apart."""
    served = [site for site in sites if target in site.targets]
    roots = [root_of(base) for site in served for base in site.base_urls]
    layered = {root_of(base) for site in served if site.targets.index(target) for base in site.base_urls}
    return roots[0] if roots and layered <= {roots[0]} else ""


def root_of(url: str) -> str:
    """Return the scheme and host of a URL, with the ``/`` that ends them."""
    return url[: url.find("/", url.find("://") + 3) + 1]
