"""``cdn-listener probe``: a URL in the storage, the index, the origin and at each edge, with the verdict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from listener.cli.common import importing, load, print_json, print_table, reading, run_async, say
from listener.cli.options import ConfigOption, JsonOption, SiteOption
from listener.text import printable

if TYPE_CHECKING:
    from listener.backfill.probing import Asked, Comparison, Place
    from listener.settings import Settings
    from listener.settings.edge import Edge

__all__ = ["probe"]

_STATES = {"unknown": "cannot be decided"}
_SHOWN_ABOVE = frozenset({"etag", "last-modified", "age", "date"})
"""Headers that the table has, and the date of the answer."""


def probe(
    what: Annotated[str, typer.Argument(metavar="URL|KEY", help="A URL of a site, or a key: each of its URLs.")],
    edge: Annotated[
        list[str] | None,
        typer.Option(
            "--edge",
            metavar="ADDRESS",
            help="Also request it at this IP address (ADDRESS:PORT), with the host of the site. May be repeated."
            " Default: verifier.edge.edges.",
        ),
    ] = None,
    site: SiteOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare a URL in the storage, the index, the origin and at each edge. Exit status 3 where it is not fresh."""
    with importing():
        from listener.backfill import probing

    settings = load(config)
    edges = _edges(edge) if edge else list(settings.verifier.edge.addresses)
    found = run_async(_compare(settings, _asked(settings, what, site), edges))
    if as_json:
        print_json({"urls": [probing.as_json(one) for one in found]})
    else:
        for one in found:
            _show(one)
    if not any(one.answered for one in found):
        return 1
    return 0 if all(one.state == "fresh" for one in found) else 3


def _edges(texts: Sequence[str]) -> list[Edge]:
    from listener.errors import ConfigurationError
    from listener.settings.edge import edge_of

    try:
        return [edge_of(text) for text in texts]
    except ValueError as error:
        raise ConfigurationError(f"--edge: {error}", hint="resolve the name, and give the address") from None


def _asked(settings: Settings, what: str, site: str | None) -> list[Asked]:
    from listener.backfill import key_lines
    from listener.backfill.probing import asked_of_key, asked_of_url
    from listener.change import key_to_text
    from listener.daemon.selection import choose_site

    if what.startswith(("http://", "https://")):
        return asked_of_url(settings, what)
    sites = settings.sites if site is None else [choose_site(settings, site)]
    lines = {one.source: key_lines(settings, one.source, name="KEY") for one in sites}
    return asked_of_key(sites, {name: key_to_text(one.argument(os.fsencode(what))) for name, one in lines.items()})


async def _compare(settings: Settings, asked: Sequence[Asked], edges: Sequence[Edge]) -> list[Comparison]:
    from listener.backfill.probing import compare, prober_for
    from listener.clock import SystemClock

    clock = SystemClock()
    async with reading(settings) as store, prober_for(settings, edges=edges, clock=clock) as prober:
        return [await compare(settings, store, prober, one, edges=edges, clock=clock) for one in asked]


def _show(found: Comparison) -> None:
    say(printable(f"{found.url}: {_STATES.get(found.state, found.state)}"))
    say(printable(f"key {found.key or 'unknown'} of source {found.source}"))
    print_table(("place", "state", "status", "bytes", "last modified", "tag", "age", "reason"), map(_row, found.places))
    for place in found.places:
        shown = [(name, value) for name, value in place.evidence if name not in _SHOWN_ABOVE]
        if shown:
            say(printable(f"{place.name}: {'; '.join(f'{name}: {value}' for name, value in shown)}"))
    if found.remedy:
        say(printable(found.remedy))


def _row(place: Place) -> Sequence[object]:
    moment = (
        None if place.modified_at is None else f"{datetime.fromtimestamp(place.modified_at, UTC):%Y-%m-%d %H:%M:%S}"
    )
    age = None if place.age_seconds is None else f"{place.age_seconds} s"
    return place.name, place.state, place.status, place.size_bytes, moment, place.tag, age, place.reason
