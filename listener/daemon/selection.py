"""Which site, and which URLs, the options of a command select."""

from __future__ import annotations

from listener.errors import ConfigurationError
from listener.plugins import sites_of
from listener.router.routing import normal_or_refused, served_by
from listener.settings import Settings, Site, nearest
from listener.store.controls import Place
from listener.urls import encode_path

__all__ = ["choose_site", "places", "prefixes", "require_overlap"]


def choose_site(settings: Settings, site: str | None) -> Site:
    """Return the configuration's only site, or the one of this name or number, of this source or base URL."""
    sites = settings.sites
    if site is None and len(sites) == 1:
        return sites[0]
    ways: list[list[tuple[str, ...]]] = [
        [(one.name, str(at)) for at, one in enumerate(sites)],
        [(one.source, *one.base_urls) for one in sites],
    ]
    for names in ways if site is not None else ():
        named = [one for one, called in zip(sites, names, strict=True) if site in called]
        if len(named) == 1:
            return named[0]
    wrong = f"the configuration has {len(sites)} sites" if site is None else f"there is no site {site}"
    hint = "; ".join(f"--site {one.name or at}: {one.source} {one.prefix}".rstrip() for at, one in enumerate(sites))
    raise ConfigurationError(wrong, hint=hint or "add a [[sites]] table")


def places(settings: Settings, *, site: str | None, target: str | None) -> list[Place]:
    """Return the URLs of a site, of a target, of one on the other; without either every URL of every target."""
    if target is not None and target not in settings.targets:
        raise ConfigurationError(f"there is no target {target!r}", hint=nearest(target, settings.targets))
    if site is None:
        return [Place(target or "")]
    chosen = choose_site(settings, site)
    others = sites_of(settings).other_bases(chosen)
    return [
        *(Place(target or "", base) for base in chosen.base_urls),
        *(Place(name, base) for name, base in others if target in (None, name)),
    ]


def prefixes(settings: Settings, prefix: str | None, *, site: str | None, target: str | None = None) -> list[Place]:
    """
    Return the URLs that a prefix names: a URL, or the beginning of a path below every base URL of the sites.

    With ``target`` those of this one only.
    """
    known = sites_of(settings)
    if prefix is not None and "://" in prefix:
        url = normal_or_refused(prefix)
        named = [("", url), *known.other_addresses(url)]
    else:
        sites = settings.sites if site is None else [choose_site(settings, site)]
        path = encode_path((prefix or "").removeprefix("/").encode("utf-8", "surrogateescape"))
        bases = [("", base) for one in sites for base in one.base_urls]
        bases += [other for one in sites for other in known.other_bases(one)]
        named = [(name, base + path) for name, base in bases]
    return [Place(target or name, url) for name, url in dict.fromkeys(named) if not name or target in (None, name)]


def require_overlap(settings: Settings, prefix: str) -> None:
    """Raise :class:`~listener.errors.ConfigurationError` if no URL of a site can start with this prefix."""
    known = sites_of(settings)
    bases = [base for one in settings.sites for base in known.bases(one)]
    if not any(base.startswith(prefix) or prefix.startswith(base) for base in bases):
        served_by(settings.sites, prefix)
