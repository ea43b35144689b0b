"""Which site, and which URLs, the options of a command select."""

from __future__ import annotations

from listener.errors import ConfigurationError
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
    return [Place(target or "", base) for base in choose_site(settings, site).base_urls]


def prefixes(settings: Settings, prefix: str | None, *, site: str | None) -> list[Place]:
    """Return the URLs that a prefix names: a URL, or the beginning of a path below every base URL of the sites."""
    if prefix is not None and "://" in prefix:
        return [Place("", normal_or_refused(prefix))]
    sites = settings.sites if site is None else [choose_site(settings, site)]
    path = encode_path((prefix or "").removeprefix("/").encode("utf-8", "surrogateescape"))
    bases = dict.fromkeys(base for one in sites for base in one.base_urls)
    return [Place("", base + path) for base in bases]


def require_overlap(settings: Settings, prefix: str) -> None:
    """Raise :class:`~listener.errors.ConfigurationError` if no URL of a site can start with this prefix."""
    if not any(base.startswith(prefix) for one in settings.sites for base in one.base_urls):
        served_by(settings.sites, prefix)
