"""``cdn-listener store``: maintenance of the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from listener.cli.common import load, print_json
from listener.cli.options import ConfigOption, JsonOption
from listener.errors import ConfigurationError
from listener.text import counted

if TYPE_CHECKING:
    from listener.settings import Settings
    from listener.store.orphans import Orphans

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Maintain the store: back up, check, compact, move, rename, forget.")


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


class Kind(StrEnum):
    """What has a name in the configuration and in the store."""

    SOURCE = "source"
    TARGET = "target"


@app.command("rename")
def rename(
    kind: Annotated[Kind, typer.Argument(metavar="source|target", help="What was renamed.")],
    old: Annotated[str, typer.Argument(metavar="OLD", help="The name that the store has.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name that the configuration has.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give what the store keeps of a source or target to its new name. Stop the daemon first."""
    from listener.settings import nearest

    settings = load(config)
    names = settings.sources if kind is Kind.SOURCE else settings.targets
    for name, is_wanted in ((new, True), (old, False)):
        if (name in names) is not is_wanted:
            state = "is not configured" if is_wanted else "is still configured"
            hint = nearest(name, names) if is_wanted else f"remove {kind.value} {old} from the configuration first"
            raise ConfigurationError(f"{kind.value} {name!r} {state}", hint=hint)

    async def renamed(orphans: Orphans) -> int:
        if kind is Kind.TARGET:
            return await orphans.rename_target(old, new)
        await orphans.rename_source(old, new)
        return 0

    count = _changed(settings, renamed)
    if as_json:
        print_json({"kind": kind.value, "old": old, "new": new, "needs": count})
    elif kind is Kind.TARGET:
        typer.echo(f"target {new} has the {counted(count, 'stale URL')} of {old}; start the daemon")
    else:
        typer.echo(f"source {new} has the index of {old}; start the daemon: its first scan finds what changed")


@app.command("forget")
def forget(
    kind: Annotated[Kind, typer.Argument(metavar="source|target", help="What was removed.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that the store has.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what the store keeps of a source (its index) or of a target (its stale URLs). Stop the daemon first."""
    settings = load(config)
    if name in (settings.sources if kind is Kind.SOURCE else settings.targets):
        hint = "remove it from the configuration first"
        raise ConfigurationError(f"{kind.value} {name!r} is still configured", hint=hint)

    async def forgotten(orphans: Orphans) -> int:
        if kind is Kind.TARGET:
            return await orphans.forget_target(name)
        await orphans.forget_source(name)
        return 0

    count = _changed(settings, forgotten)
    if as_json:
        print_json({"kind": kind.value, "name": name, "needs": count})
    else:
        what = f"the {counted(count, 'stale URL')}" if kind is Kind.TARGET else "the index"
        typer.echo(f"forgot {what} of {kind.value} {name}")


def _changed(settings: Settings, change: Callable[[Orphans], Awaitable[int]]) -> int:
    """Change names in the store while no daemon uses it, and return what the change does."""
    from listener.cli.common import owner_of_store, run_async, writing

    async def changed() -> int:
        async with writing(settings) as store:
            running = await store.running_instances()
            if running or owner_of_store(settings).is_running is not False:
                what = f"instance {running[0]} runs" if running else "a daemon runs, or may run, with this store"
                raise ConfigurationError(what, hint="stop it first: it would go on with the old names")
            return await change(Orphans(store))

    from listener.store.orphans import Orphans

    return run_async(changed())
