"""``cdn-listener cancel``: what is stale is to stay so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from listener.cli.common import ConfigOption, JsonOption, load, print_json, run_async, writing
from listener.cli.places import SiteOption, TargetOption, echo_under_way, places, prefixes

if TYPE_CHECKING:
    from listener.settings import Settings
    from listener.store.controls import Place

__all__ = ["cancel"]


def cancel(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the audit.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", help="Only URLs that start so: a URL, or a path of the site.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every URL of every target.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Settle what is stale without a refresh: caches keep the old copy until it expires. What is sent stays sent."""
    from listener.errors import ConfigurationError

    settings = load(config)
    if not everything and site is None and target is None and prefix is None:
        raise ConfigurationError("cancel: nothing is named", hint="give --site, --target or --prefix, or --all")
    where = places(settings, site=site, target=target)
    if prefix is not None:
        where = [place._replace(target=target or "") for place in prefixes(settings, prefix, site=site)]
    if not yes and not (
        sys.stdin.isatty()
        and typer.confirm(f"Leave old copies in the caches below {', '.join(place.words for place in where)}?")
    ):
        raise ConfigurationError("cancel: nobody said yes", hint="add --yes")
    count, under_way = run_async(_cancel(settings, where, reason))
    if as_json:
        print_json({"cancelled": count, "requests_under_way": under_way})
    else:
        typer.echo(f"cancelled {count}")
        echo_under_way(under_way)
    return 0


async def _cancel(settings: Settings, where: Sequence[Place], reason: str) -> tuple[int, int]:
    from listener.store.controls import Controls

    async with writing(settings) as store:
        controls = Controls(store)
        count = sum([await controls.cancel(place, reason=reason) for place in where])
        return count, await controls.under_way(where)
