"""``cdn-listener backfill --mode audit``: what differs from the index and, where that is asked for, at the edge."""

from __future__ import annotations

import random
import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from listener.cli.common import print_json, print_table, reading
from listener.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from listener.settings import Settings
    from listener.sources.listing import Listing

__all__ = ["audit", "told_to_people"]

EDGE_PER_SECOND = 20.0


async def audit(settings: Settings, listing: Listing, *, as_json: bool, edge_samples: int) -> int:
    """Compare the listing with the index, and with the edge where that is wanted; nothing is changed."""
    from listener.backfill import ask_edge
    from listener.backfill import audit as compared
    from listener.pipeline.sites import Sites

    async with reading(settings) as store:
        told: dict[str, Any] = (await compared(listing, store)).as_json()
    if edge_samples:
        report = await ask_edge(
            listing,
            Sites(settings.sites),
            count=edge_samples,
            per_second=EDGE_PER_SECOND,
            now=time.time,
            chance=random.Random(),  # noqa: S311 - no secret
        )
        told["edge"] = report.as_json()
    if as_json or not sys.stdout.isatty():
        print_json(told)
    else:
        _show(told)
    return 0


def _show(told: Mapping[str, Any]) -> None:
    for line in told_to_people(told):
        typer.echo(line)
    if told.get("edge", {}).get("examples"):
        examples = told["edge"]["examples"]
        print_table(("URL", "state", "reason"), [(one["url"], one["state"], one["reason"]) for one in examples])


def told_to_people(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an audit found (as JSON has it), a line each, and what to do about it."""
    differ = told["changed"] + told["unknown"] + told["gone"]
    yield f"listed {told['same'] + told['changed'] + told['unknown']}; as the index knows them: {told['same']}"
    yield f"  changed {told['changed']}, unknown to the index {told['unknown']}, gone {told['gone']}"
    yield from (f"  {printable(key)}" for key in told["examples"])
    if differ:
        yield "refresh what differs: cdn-listener backfill --mode repair"
    if (edge := told.get("edge")) is not None:
        yield (
            f"the edge was asked for {edge['asked']} of {edge['listed']}:"
            f" fresh {edge['fresh']}, stale {edge['stale']}, unknown {edge['unknown']}"
        )
