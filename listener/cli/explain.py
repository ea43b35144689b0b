"""``cdn-listener plan --explain``: the addresses of a key, each with the rule that made it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from listener.cli.common import load, print_json, print_table
from listener.cli.places import choose_site
from listener.printable import printable

if TYPE_CHECKING:
    from listener.settings import Site

__all__ = ["explain_key"]


def explain_key(config: Path | None, site: str | None, argument: str, *, as_json: bool) -> int:
    """Print the addresses of a key as the chosen site, or all sites, serve it; return 1 where it has none."""
    from listener.change import key_to_text

    settings = load(config)
    key = key_to_text(os.fsencode(argument))
    sites = settings.sites if site is None else [choose_site(settings, site)]
    addresses, problem = _addresses(sites, key)
    if as_json:
        print_json({"key": key, "addresses": addresses, "problem": problem})
    elif problem:
        typer.echo(printable(f"{key}: {problem}"))
    else:
        columns = ("kind", "target", "url", "rule")
        print_table(columns, [[one[column] for column in columns] for one in addresses])
    return 1 if problem else 0


def _addresses(sites: Sequence[Site], key: str) -> tuple[list[dict[str, Any]], str]:
    """Return the addresses as plain data, and why there are none."""
    from listener.errors import KeyRejected
    from listener.refresh import RefreshKind, Scope
    from listener.router import Router

    kinds = {
        Scope.EXACT: RefreshKind.FILE,
        Scope.ALL_PARAMS: RefreshKind.IGNORE_PARAMS,
        Scope.SUBTREE: RefreshKind.DIRECTORY,
    }
    router = Router(sites)
    found: list[dict[str, Any]] = []
    try:
        for source in dict.fromkeys(site.source for site in sites):
            for need, rule in router.explain(source, key):
                row = {"kind": kinds[need.scope].value, "source": source, "site": sites[need.site].name or need.site}
                found.append({**row, "target": need.target, "url": need.url, "rule": rule})
    except KeyRejected as error:
        return [], f"refused: {error}. {error.hint}"
    return found, "" if found else f"no site serves it: {'; '.join(_why_not(site, key) for site in sites)}"


def _why_not(site: Site, key: str) -> str:
    """Return why a site does not take a key."""
    name = site.name or site.base_urls[0]
    if not key.startswith(site.prefix):
        return f"{name} serves keys that start with {site.prefix}"
    return f"{name} leaves it out (include, exclude)"
