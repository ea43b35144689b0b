"""``cdn-listener store``: maintenance of the store."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from listener.cli.common import load, print_json
from listener.cli.options import ConfigOption, JsonOption

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Maintain the store: back up, check, compact, move.")


def _state_file(url: str) -> Path:
    from listener.configuration import sqlite_path
    from listener.store.owner import absent

    path = sqlite_path(url)
    if not path.exists():
        raise absent(url)
    return path


def _in_postgres(url: str) -> ModuleType | None:
    """Return what maintains a PostgreSQL store; None for a state file."""
    from listener.configuration import is_postgres

    if not is_postgres(url):
        return None
    from listener.store.postgres import require_driver

    require_driver()
    from listener.store.postgres import maintenance

    return maintenance


@app.command("backup")
def backup(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="The copy; must not exist yet.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the state file, also while the daemon runs. The copy is consistent."""
    from listener.settings import expanded
    from listener.store.sqlite import maintenance

    url, to = load(config).store.url, expanded(to)
    if postgres := _in_postgres(url):
        raise postgres.backup_advice()
    size_bytes = maintenance.backup(_state_file(url), to)
    if as_json:
        print_json({"file": str(to), "size_bytes": size_bytes})
    else:
        typer.echo(f"{to}: {size_bytes} bytes")


@app.command("check")
def check(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Check that the store is intact and its rows agree, without changing it. Exit status 1 if not."""
    from listener.store.sqlite import maintenance

    store = load(config).store
    if postgres := _in_postgres(store.url):
        found = postgres.check(store.url, prepared=store.prepared)
    else:
        found = maintenance.check(_state_file(store.url))
    if as_json:
        print_json({"sound": not found, "findings": found})
    else:
        for one in found or ["sound"]:
            typer.echo(one)
    return 1 if found else 0


@app.command("compact")
def compact(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Return the space of removed rows to the disk. Stop the daemon first."""
    from listener.store.sqlite import maintenance

    url = load(config).store.url
    if postgres := _in_postgres(url):
        raise postgres.compact_advice()
    done = maintenance.compact(_state_file(url))
    if as_json:
        print_json(done._asdict())
    else:
        typer.echo(f"{done.before_bytes} bytes before, {done.after_bytes} bytes after")


@app.command("move")
def move(
    origin: Annotated[str, typer.Argument(metavar="FROM_URL", help="The store to copy, as store.url names it.")],
    destination: Annotated[str, typer.Argument(metavar="TO_URL", help="A new one: nothing may be in it.")],
    as_json: JsonOption = False,
) -> None:
    """Copy a store to another database, all of it or nothing. Stop every daemon that uses it first."""
    from listener.cli.common import log_at
    from listener.cli.moving import moved

    log_at("warning")
    rows = moved(origin, destination)
    if as_json:
        print_json({"rows": rows})
    else:
        typer.echo(f"{sum(rows.values())} rows moved; set store.url to the new one, and start the daemon")
