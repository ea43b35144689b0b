"""``cdn-listener tasks``: what was asked of the CDN, why, and what became of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from listener.cli.common import ConfigOption, JsonOption, load, print_json, print_table, reading, run_async

__all__ = ["tasks"]

_TIMES = ("created_at", "sent_at", "accepted_at", "finished_at")
_DEEDS = ("at", "action", "subject", "count", "reason")
_COLUMNS = ("id", "state", "kind", "url", "task_id", "looks", "tries", "created_at", "reason", "error")


def tasks(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many, newest first.")] = 50,
    url: Annotated[str | None, typer.Option("--url", help="Only those of exactly this URL.")] = None,
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Instead: what people held, paused, approved, cancelled, and why.")
    ] = False,
) -> None:
    """The attempts, newest first: what was asked of the CDN, why, and what became of it."""
    columns, none = (_DEEDS, "nothing was done by hand") if by_hand else (_COLUMNS, "nothing was asked of any CDN yet")
    found = run_async(_deeds(config, limit) if by_hand else _read(config, limit, url))
    if as_json:
        print_json(found)
    elif found:
        print_table(columns, [[row[column] for column in columns] for row in found])
    else:
        typer.echo(none)


async def _deeds(config: Any, limit: int) -> list[dict[str, Any]]:
    from listener.daemon.status import iso
    from listener.store.controls import Controls

    async with reading(load(config)) as store:
        rows = [] if store is None else await Controls(store).audit(limit=limit)
    return [{**row, "at": iso(row["at"])} for row in rows]


async def _read(config: Any, limit: int, url: str | None) -> list[dict[str, Any]]:
    from listener.daemon.status import iso
    from listener.router.serving import normal_or_refused

    settings = load(config)
    asked = None if url is None else normal_or_refused(url)
    async with reading(settings) as store:
        rows = [] if store is None else await store.history(limit=limit, url=asked)
    return [{**row, **{name: iso(row[name]) for name in _TIMES}, "force": bool(row["force"])} for row in rows]
