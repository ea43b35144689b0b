"""``cdn-listener quota``: our ledger next to the quota that the CDN reports."""

from __future__ import annotations

import time
from typing import Any

import typer

from listener.cli.common import (
    ConfigOption,
    JsonOption,
    load,
    print_json,
    print_table,
    reading,
    run_async,
    targets_closed,
)

__all__ = ["quota"]


def quota(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Show today's quota: our ledger and what the CDN reports. Exit status 1 if the CDN cannot be reached."""
    found, errors = run_async(_read(config))
    if as_json:
        print_json({"quota": found, "errors": errors})
    else:
        print_table(
            ("target", "kind", "limit", "spent", "held", "left", "live limit", "live left", "resets at"),
            [
                (
                    target,
                    kind,
                    *(row[name] for name in ("limit", "spent", "held", "left")),
                    *_live(row),
                    row["resets_at"],
                )
                for target, kinds in found.items()
                for kind, row in kinds.items()
            ],
        )
    for target, error in errors.items():
        typer.echo(f"error: {target}: {error}", err=True)
    return 1 if errors else 0


def _live(row: dict[str, Any]) -> tuple[object, object]:
    live = row["live"]
    return (live["limit"], live["remaining"]) if live else ("", "")


async def _read(config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    from listener.daemon.status import quota_of
    from listener.errors import TargetError
    from listener.plugins import load_targets

    settings = load(config)
    targets = load_targets(settings)
    errors: dict[str, str] = {}
    async with reading(settings) as store, targets_closed(targets):
        found = await quota_of(store, targets, now=time.time())
        for name, target in targets.items():
            try:
                live = await target.read_quota()
            except TargetError as error:
                live = {}
                errors[name] = f"{error} {error.hint}".strip()
            for kind, row in found[name].items():
                reported = next((reading for known, reading in live.items() if known.value == kind), None)
                row["live"] = None if reported is None else reported._asdict()
    return found, errors
