"""``cdn-listener plan``: what would be refreshed, offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import ConfigOption, JsonOption, log_at, print_json, print_table
from listener.cli.places import NullOption, SiteOption, choose_site

if TYPE_CHECKING:
    from listener.planner import KeyPlan
    from listener.settings import Settings, Site

__all__ = ["plan"]


def plan(
    changes: Annotated[
        Path | None, typer.Option("--changes", metavar="FILE", help="Changed keys, one a line; - is stdin.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="KEY", help="The addresses of a key, each with the rule that made it."),
    ] = None,
    objects: Annotated[
        Path | None, typer.Option("--objects", metavar="FILE", help="All keys of the storage, for the collateral.")
    ] = None,
    null: NullOption = False,
    files: Annotated[int, typer.Option("--files", min=0, help="URL refreshes that may be spent.")] = 10_000,
    directories: Annotated[int, typer.Option("--directories", min=0, help="Directory refreshes, likewise.")] = 100,
    site: SiteOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Plan without any CDN: which refreshes would cover the changes, what would wait, and why."""
    from listener.cli.explain import explain_key
    from listener.errors import ConfigurationError
    from listener.planner import plan_keys

    if (changes is None) == (explain is None):
        raise ConfigurationError(
            "plan: give either --changes FILE or --explain KEY", hint="--changes - reads keys from stdin"
        )
    if explain is not None:
        return explain_key(config, site, explain, as_json=as_json)
    assert changes is not None
    settings = _settings(config, site)
    chosen = None if settings is None else choose_site(settings, site)
    made = plan_keys(
        _keys("--changes", changes, settings, chosen, null=null),
        _keys("--objects", objects, settings, chosen, null=null) if objects is not None else [],
        files=files,
        directories=directories,
        min_directory_depth=1 if chosen is None else chosen.min_directory_depth,
    )
    prefix = "" if chosen is None else chosen.prefix
    if as_json:
        print_json(_plain(made, prefix))
    else:
        _show(made, prefix)
    return 0


def _settings(config: Path | None, site: str | None) -> Settings | None:
    """Return the settings; None without any configuration, where none is wanted either."""
    from listener.errors import ConfigurationError
    from listener.settings import find_file, load_settings

    log_at("warning")
    if config is None and site is None:
        try:
            find_file(os.environ)
        except ConfigurationError:
            typer.echo("no configuration: every key is served, directories from depth 1 on may be refreshed", err=True)
            return None
    return load_settings(config, os.environ)


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
    }


def _show(made: KeyPlan, prefix: str) -> None:
    print_table(
        ("kind", "key", "covers", "collateral", "reason"),
        [(one.kind, prefix + one.key, one.covers, one.collateral, one.reason) for one in made.refreshes],
    )
    for one in made.deferred:
        typer.echo(f"deferred  {prefix}{one.key}  {one.reason}")
    spent = ", ".join(f"{count} {kind}" for kind, count in made.spent.items())
    typer.echo(f"spent: {spent}; deferred: {len(made.deferred)}; collateral: {made.collateral}")
