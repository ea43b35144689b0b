"""Which site serves a URL, and which keys a URL may stand for; what no site serves is refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from listener.change import key_to_text
from listener.errors import ConfigurationError
from listener.settings import Site
from listener.urls import decode_path, normal_url

__all__ = ["Served", "keys_at", "normal_or_refused", "served_by"]

_OTHER_SCHEME = {"http": "https", "https": "http"}


class Served(NamedTuple):
    """A URL below a site's base URL."""

    url: str
    base: str
    site: Site

    @property
    def keys(self) -> list[str]:
        """
        The keys that the URL may stand for, the likeliest first; none where it has a query that the site does not name.

        A folder's URL stands for its index documents; ``/about`` also for ``about.html`` where the site strips that.
        """
        path, mark, query = self.url[len(self.base) :].partition("?")
        if mark and not self.site.all_params and query not in self.site.query_variants:
            return []
        return keys_at(self.site, key_to_text(decode_path(path)))


def keys_at(site: Site, path: str) -> list[str]:
    """Return the keys that a site may serve at a decoded path below its base URL, the likeliest first."""
    key = site.prefix + path
    if not path or path.endswith("/"):
        return [key + name for name in site.index_documents]
    folders = [f"{key}/{name}" for name in site.index_documents] if site.strip_suffixes else []
    return [key, *(key + suffix for suffix in site.strip_suffixes), *folders]


def normal_or_refused(text: str) -> str:
    """Return a URL in normal form; raise :class:`~listener.errors.ConfigurationError` saying what is wrong with it."""
    try:
        return normal_url(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text}: is not a URL that can be refreshed: {error}", hint="write it as a browser requests it"
        ) from None


def served_by(sites: Sequence[Site], url: str, *, target: str | None = None) -> Served:
    """
    Return the longest base URL that this URL (in normal form) starts with, of any site or of one with this target.

    Raises :class:`~listener.errors.ConfigurationError` where there is none; the hint names the base URL that would
    match with the other scheme, or all of them.
    """
    bases = [
        Served(url, base, site) for site in sites for base in site.base_urls if target is None or target in site.targets
    ]
    found = [one for one in bases if url.startswith(one.base)]
    if found:
        return max(found, key=lambda one: len(one.base))
    whose = "any site's base URL" if target is None else f"any base URL of target {target}"
    raise ConfigurationError(f"{url}: is not below {whose}", hint=_nearest_base(url, bases))


def _nearest_base(url: str, bases: Sequence[Served]) -> str:
    scheme, _, rest = url.partition("://")
    other = f"{_OTHER_SCHEME.get(scheme, scheme)}://{rest}"
    for one in bases:
        if other.startswith(one.base):
            return f"The base URL is {one.base}: write {other}, or add the {scheme} one to base_urls."
    names = ", ".join(dict.fromkeys(one.base for one in bases))
    return f"Base URLs are: {names or 'none'}."
