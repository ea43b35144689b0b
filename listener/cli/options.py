"""Options that several commands take: a site, a target, a reason, a span of time; and what they select."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from listener.settings import Settings, Site
    from listener.store.controls import Place

__all__ = [
    "NullOption",
    "PrefixOption",
    "ReasonOption",
    "SiteOption",
    "TargetOption",
    "choose_site",
    "places",
    "prefixes",
    "span_option",
]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")
MOST_SECONDS: Final = 366 * 86400.0


def _seconds(text: str) -> float:
    """Return the seconds in a span such as ``90``, ``10m`` or ``1h30m``."""
    if not _SPAN.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a duration: write 90s, 10m, 1h30m or 2d")
    parts = re.findall(r"([\d.]+)([smhd]?)", text)
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if seconds > MOST_SECONDS:
        raise typer.BadParameter(f"{text!r} is longer than a year")
    return seconds


def span_option(name: str, meaning: str) -> Any:
    """Return an option that takes a span of time, written as ``90s``, ``10m``, ``1h30m`` or ``2d``, in seconds."""
    return typer.Option(name, parser=_seconds, metavar="SPAN", help=meaning)


SiteOption = Annotated[
    str | None,
    typer.Option("--site", metavar="N", help="Which of the [[sites]]: its name, number (from 0), source or base URL."),
]
NullOption = Annotated[
    bool, typer.Option("--null", "-0", help="List entries end with NUL, as from find -print0 or git diff -z.")
]
PrefixOption = Annotated[
    str | None,
    typer.Option("--prefix", metavar="P", help="Only URLs that start with this: a URL, or a path below the site."),
]
TargetOption = Annotated[str | None, typer.Option("--target", metavar="NAME", help="Only this target.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. Kept in the audit.")]


def choose_site(settings: Settings, site: str | None) -> Site:
    """Return the configuration's only site, or the one of this name or number, of this source or base URL."""
    from listener.errors import ConfigurationError

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
    from listener.errors import ConfigurationError
    from listener.settings import nearest
    from listener.store.controls import Place

    if target is not None and target not in settings.targets:
        raise ConfigurationError(f"there is no target {target!r}", hint=nearest(target, settings.targets))
    if site is None:
        return [Place(target or "")]
    return [Place(target or "", base) for base in choose_site(settings, site).base_urls]


def prefixes(settings: Settings, prefix: str | None, *, site: str | None) -> list[Place]:
    """Return the URLs that a prefix names: a URL, or the beginning of a path below every base URL of the sites."""
    from listener.router.serving import normal_or_refused
    from listener.store.controls import Place
    from listener.urls import encode_path

    if prefix is not None and "://" in prefix:
        return [Place("", normal_or_refused(prefix))]
    sites = settings.sites if site is None else [choose_site(settings, site)]
    path = encode_path((prefix or "").removeprefix("/").encode("utf-8", "surrogateescape"))
    bases = dict.fromkeys(base for one in sites for base in one.base_urls)
    return [Place("", base + path) for base in bases]


def echo_under_way(requests: int) -> None:
    """Print how many requests can no longer be stopped, if there are any."""
    if requests:
        typer.echo(f"{requests} request{'s are' if requests > 1 else ' is'} under way and cannot be stopped")
