"""``cdn-listener prefetch``: URLs to be fetched into the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from listener.cli.common import ConfigOption, JsonOption
from listener.cli.hand import Order, carry_out

__all__ = ["prefetch"]


def prefetch(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="What to fetch, below a site's base URL.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    target: Annotated[str | None, typer.Option("--target", metavar="NAME", help="Only this target.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the CDN says that it is done.")] = False,
) -> int:
    """Fetch URLs into the cache, after any refresh of them. Exit status 3 when something was deferred or parked."""
    return carry_out(config, Order(urls=urls, prefetch=True, target=target, wait=wait), as_json=as_json)
