"""``cdn-listener refresh``: URLs by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from listener.cli.common import ConfigOption, JsonOption
from listener.cli.hand import Order, carry_out

__all__ = ["refresh"]


def refresh(
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="What to refresh, below a site's base URL.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    directory: Annotated[
        bool, typer.Option("--directory", help="Everything below each URL, which ends with /.")
    ] = False,
    urgent: Annotated[bool, typer.Option("--urgent", help="At once and from the reserve; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the audit.")] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="NAME", help="Only this target.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the CDN says that it is done.")] = False,
) -> int:
    """Refresh URLs through the same store and ledger. Exit status 3 when something was deferred or parked."""
    order = Order(urls=urls, directory=directory, urgent=urgent, reason=reason, target=target, wait=wait)
    return carry_out(config, order, as_json=as_json)
