"""What commands share: options and what they select, the configuration, access to the state file, and output."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from listener.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from listener.settings import Settings, Site
    from listener.store import Store
    from listener.store.controls import Place
    from listener.store.ownership import Owner


__all__ = [
    "INTERRUPTED",
    "ConfigOption",
    "JsonOption",
    "NullOption",
    "PrefixOption",
    "ReasonOption",
    "SiteOption",
    "TargetOption",
    "VerboseOption",
    "choose_site",
    "console",
    "load",
    "log_at",
    "owner_of_store",
    "places",
    "prefixes",
    "present",
    "print_json",
    "print_table",
    "reading",
    "reason_for",
    "run_async",
    "span_option",
    "writing",
]

T = TypeVar("T")

INTERRUPTED = 130
"""The exit status of a command that was interrupted."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration file. Default: $LISTENER_CONFIG, listener.toml, /etc/cdn-listener/listener.toml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Also print the numbers behind each decision.")]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")
MOST_SECONDS: Final = 366 * 86400.0


def log_at(default: str) -> None:
    """Set up logging on stderr, at ``$LISTENER_LOG_LEVEL`` or else this level."""
    from listener.telemetry import configure_logging, level_of

    configure_logging(level=level_of(os.environ, default))


def load(config: Path | None) -> Settings:
    """Return the settings, with logging set up for a command other than the daemon."""
    from listener.settings import load_settings

    log_at("warning")
    return load_settings(config, os.environ)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; log how many repeated events were suppressed."""
    from listener.cli.process import run_to_end

    try:
        return run_to_end(main)
    finally:
        from listener.telemetry import report_repeats

        report_repeats(at_once=True)


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[Store | None]:
    """Open the state file for reading, without creating or changing anything; None where there is none yet."""
    from listener.store import open_store

    if not _has_state(settings):
        yield None
        return
    async with open_store(settings.store.url, readonly=True) as store:
        yield store


def _has_state(settings: Settings) -> bool:
    from listener.configuration import sqlite_path
    from listener.errors import StoreError

    path = sqlite_path(settings.store.url)
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"cannot read the state file {path}: {error.strerror}", hint="check the permissions of its directory"
        ) from None


@asynccontextmanager
async def writing(settings: Settings) -> AsyncIterator[Store]:
    """Open the state file while another process may own it; raise StoreError where there is none yet."""
    from listener.store import open_store

    store = present(open_store(settings.store.url) if _has_state(settings) else None)
    async with store:
        yield store


def present(store: Store | None) -> Store:
    """Return the store; raise StoreError where there is none yet."""
    from listener.errors import StoreError

    if store is None:
        raise StoreError("there is no state file yet", hint="start the daemon first: cdn-listener run")
    return store


def owner_of_store(settings: Settings) -> Owner:
    """Return whether a process owns the state file, and which."""
    from listener.configuration import sqlite_path
    from listener.store.ownership import owner_of

    return owner_of(sqlite_path(settings.store.url))


def console(*, stderr: bool = False) -> Console:
    """Return a console for text; unless it is a terminal, lines are not wrapped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, markup=False, width=None if stream.isatty() else 240)


def print_json(value: Any) -> None:
    """Print plain data as JSON; control characters, which keys may contain, are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        plain = text.replace("\n", "").isprintable()
    except UnicodeEncodeError:
        plain = False
    typer.echo(text if plain else json.dumps(value, indent=2, default=str))


def reason_for(reason: str, *, verbose: bool) -> str:
    """Return the decision in a reason, and with ``verbose`` the numbers behind it."""
    from listener.planner import split_reason

    decision, numbers = split_reason(reason)
    return f"{decision} ({numbers})" if verbose and numbers else decision


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    console().print(table)


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
    from listener.router.routing import normal_or_refused
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
