"""``cdn-listener plan``: what would be refreshed, offline; and which URLs a key has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import load, log_at, print_json, print_table, reason_for
from listener.cli.options import ConfigOption, JsonOption, NullOption, SiteOption, VerboseOption
from listener.text import printable

if TYPE_CHECKING:
    from listener.allowances import Allowance
    from listener.planner import KeyPlan
    from listener.settings import Settings, Site

__all__ = ["plan"]


def plan(
    changes: Annotated[
        Path | None, typer.Option("--changes", metavar="FILE", help="Changed keys, one a line; - reads stdin.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="KEY", help="Print the URLs of a key, each with the rule behind it."),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            "--objects", metavar="FILE", help="All keys of the storage, to count what a directory would evict."
        ),
    ] = None,
    null: NullOption = False,
    files: Annotated[int, typer.Option("--files", min=0, help="File refreshes available.")] = 10_000,
    directories: Annotated[int, typer.Option("--directories", min=0, help="Directory refreshes available.")] = 100,
    paths: Annotated[
        int | None,
        typer.Option("--paths", min=0, help="Free paths of CloudFront available, for files and directories together."),
    ] = None,
    dollars: Annotated[
        float, typer.Option("--dollars", min=0, help="What may be spent on paths beyond --paths, in dollars.")
    ] = 0.0,
    site: SiteOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Plan offline: which refreshes would cover the changes, what would be deferred, and why. Nothing is sent."""
    from listener.daemon.selection import choose_site
    from listener.errors import ConfigurationError
    from listener.planner import plan_keys
    from listener.planner.constants import OBJECT_DOLLARS

    if dollars and paths is None:
        raise ConfigurationError("plan: --dollars buys paths of CloudFront", hint="add --paths, the free ones left")
    if (changes is None) == (explain is None):
        raise ConfigurationError(
            "plan: give either --changes FILE or --explain KEY", hint="--changes - reads keys from stdin"
        )
    if explain is not None:
        return _explain(config, site, explain, as_json=as_json)
    assert changes is not None
    settings = _settings(config, site)
    chosen = None if settings is None else choose_site(settings, site)
    made = plan_keys(
        _keys("--changes", changes, settings, chosen, null=null),
        _keys("--objects", objects, settings, chosen, null=null) if objects is not None else [],
        files=files,
        directories=directories,
        min_directory_depth=1 if chosen is None else chosen.min_directory_depth,
        shared=None if paths is None else _paths(paths, dollars),
        object_dollars=OBJECT_DOLLARS if settings is None else settings.planner.object_dollars,
    )
    prefix = "" if chosen is None else chosen.prefix
    if as_json:
        print_json(_plain(made, prefix))
    else:
        _show(made, prefix, verbose=verbose)
    return 0


def _paths(free: int, dollars: float) -> Allowance:
    """Return so many free paths, and those that so many dollars buy."""
    from listener.allowances import Allowance, Month
    from listener.refresh import RefreshKind
    from listener.targets.cloudfront.prices import DOLLARS_PER_PATH

    paid = int(dollars / DOLLARS_PER_PATH + 1e-9)
    costs = {RefreshKind.FILE: 1, RefreshKind.DIRECTORY: 1}
    return Allowance(
        name="paths", limit=free + paid, window=Month(), costs=costs, free=free, unit_dollars=DOLLARS_PER_PATH
    )


def _settings(config: Path | None, site: str | None) -> Settings | None:
    """Return the settings; None where there is no configuration and none was asked for."""
    from listener.errors import ConfigurationError
    from listener.settings import find_file

    log_at("warning")
    if config is None and site is None:
        try:
            find_file(os.environ)
        except ConfigurationError:
            typer.echo(
                "no configuration found: assuming that every key is served and min_directory_depth = 1", err=True
            )
            return None
    return load(config)


def _keys(option: str, path: Path, settings: Settings | None, site: Site | None, *, null: bool) -> list[str]:
    """Return the keys of a list that the site serves, without its prefix."""
    from listener.backfill import KeyLines, key_lines, read_entries
    from listener.change import key_to_text
    from listener.router import Filter

    name = f"{option} {path}"
    if settings is None or site is None:
        lines = KeyLines(name=name, null=null)
    else:
        lines = key_lines(settings, site.source, name=name, null=null)
    keys = [key_to_text(key) for key in lines.keys(read_entries(path, null=null))]
    if site is None:
        return keys
    keep = Filter(site.include, site.exclude)
    cut = [key[len(site.prefix) :] for key in keys if key.startswith(site.prefix)]
    return [key for key in cut if (keep.takes_below(key) if key.endswith("/") else keep.takes(key))]


def _plain(made: KeyPlan, prefix: str) -> dict[str, Any]:
    return {
        "refreshes": [{**one._asdict(), "key": prefix + one.key} for one in made.refreshes],
        "deferred": [{**one._asdict(), "key": prefix + one.key} for one in made.deferred],
        "spent": made.spent,
        "collateral": made.collateral,
        "dollars": made.dollars,
    }


def _show(made: KeyPlan, prefix: str, *, verbose: bool) -> None:
    print_table(
        ("kind", "key", "covers", "collateral", "reason"),
        [
            (one.kind, prefix + one.key, one.covers, one.collateral, reason_for(one.reason, verbose=verbose))
            for one in made.refreshes
        ],
    )
    for one in made.deferred:
        typer.echo(f"deferred  {prefix}{one.key}  {reason_for(one.reason, verbose=verbose)}")
    spent = ", ".join(f"{count} {kind}" for kind, count in made.spent.items())
    money = f", ${made.dollars:.3f}" if made.dollars else ""
    typer.echo(f"spent: {spent}{money}; deferred: {len(made.deferred)}; collateral: {made.collateral}")


def _explain(config: Path | None, site: str | None, argument: str, *, as_json: bool) -> int:
    """Print the addresses of a key as the chosen site, or all sites, serve it; return 1 where it has none."""
    from listener.backfill import key_lines
    from listener.change import key_to_text
    from listener.daemon.selection import choose_site
    from listener.router.routing import normal_or_refused, served_by

    settings = load(config)
    sites = settings.sites if site is None else [choose_site(settings, site)]
    if argument.startswith(("http://", "https://")):
        source = served_by(sites, normal_or_refused(argument)).site.source
        sites = [one for one in sites if one.source == source]
    sources = dict.fromkeys(one.source for one in sites)
    entry, name = os.fsencode(argument), "--explain"
    keys = {source: key_to_text(key_lines(settings, source, name=name).argument(entry)) for source in sources}
    addresses, problem = _addresses(settings, sites, keys)
    key = next(iter(keys.values()))
    if as_json:
        print_json({"key": key, "addresses": addresses, "problem": problem})
    elif problem:
        typer.echo(printable(f"{key}: {problem}"))
    else:
        columns = ("kind", "target", "url", "rule")
        print_table(columns, [[one[column] for column in columns] for one in addresses])
    return 1 if problem else 0


def _addresses(settings: Settings, sites: Sequence[Site], keys: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
    """Return the addresses of each source's key as plain data, and why there are none."""
    from listener.errors import KeyRejected
    from listener.plugins import sites_of
    from listener.refresh import KIND_OF_SCOPE

    router = sites_of(settings).router
    found: list[dict[str, Any]] = []
    try:
        for source, key in keys.items():
            for need, rule in router.explain(source, key):
                site = settings.sites[need.site]
                if site not in sites:
                    continue
                row = {"kind": KIND_OF_SCOPE[need.scope].value, "source": source, "site": site.name or need.site}
                found.append({**row, "target": need.target, "url": need.url, "rule": rule})
    except KeyRejected as error:
        return [], f"rejected: {error}. {error.hint}"
    if found:
        return found, ""
    return found, f"no site serves it: {'; '.join(_why_not(site, keys[site.source]) for site in sites)}"


def _why_not(site: Site, key: str) -> str:
    """Return why a site does not take a key."""
    name = site.name or site.base_urls[0]
    if not key.startswith(site.prefix):
        return f"{name} serves keys that start with {site.prefix}"
    return f"{name} leaves it out (include, exclude)"
