"""``cdn-listener tasks``: the requests sent to the CDN, why, and their outcome."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from listener.cli.common import (
    ConfigOption,
    JsonOption,
    VerboseOption,
    load,
    print_json,
    print_table,
    reading,
    reason_for,
    run_async,
)

__all__ = ["tasks"]

_TIMES = ("created_at", "sent_at", "accepted_at", "finished_at")
_ACTIONS = ("at", "action", "subject", "count", "reason")
_COLUMNS = ("id", "state", "kind", "url", "task_id", "looks", "tries", "created_at", "reason", "error")


def tasks(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most this many, newest first.")] = 50,
    url: Annotated[str | None, typer.Option("--url", help="Only those of exactly this URL.")] = None,
    manual: Annotated[
        bool,
        typer.Option("--manual", help="List what operators held, paused, approved or cancelled instead."),
    ] = False,
    old_manual: Annotated[bool, typer.Option("--by-hand", hidden=True)] = False,
    verbose: VerboseOption = False,
) -> None:
    """List requests to the CDN, newest first: why each was sent, and its outcome."""
    manual = manual or old_manual
    columns, none = (_ACTIONS, "no manual actions yet") if manual else (_COLUMNS, "nothing was sent to any CDN yet")
    found = run_async(_actions(config, limit) if manual else _attempts(config, limit, url))
    if as_json:
        print_json(found)
    elif found:
        rows = [{**row, "reason": reason_for(row["reason"], verbose=verbose)} for row in found]
        print_table(columns, [[row[column] for column in columns] for row in rows])
    else:
        typer.echo(none)


async def _actions(config: Any, limit: int) -> list[dict[str, Any]]:
    from listener.daemon.status import iso
    from listener.store.controls import Controls

    async with reading(load(config)) as store:
        rows = [] if store is None else await Controls(store).audit(limit=limit)
    return [{**row, "at": iso(row["at"])} for row in rows]


async def _attempts(config: Any, limit: int, url: str | None) -> list[dict[str, Any]]:
    from listener.daemon.status import iso
    from listener.router.serving import normal_or_refused

    settings = load(config)
    normal = None if url is None else normal_or_refused(url)
    async with reading(settings) as store:
        rows = [] if store is None else await store.history(limit=limit, url=normal)
    return [{**row, **{name: iso(row[name]) for name in _TIMES}, "force": bool(row["force"])} for row in rows]
