"""``cdn-listener fleet``: what is kept of instances that will never return, and of accounts that none leads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from listener.cli.common import load, print_json, run_async, writing
from listener.cli.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from pathlib import Path

    from listener.settings import Settings
    from listener.store import Store

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Remove instances of a fleet that will never return.")


@app.command("forget")
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The instance, as `status` names it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget an instance that will never return, with its index of copied trees. One that runs is refused."""
    settings = _settings(config)
    from listener.store.postgres.forgetting import forget as forget_in
    from listener.text import counted

    done = run_async(_done(settings, lambda store: forget_in(store, name)))
    if as_json:
        print_json({"instance": name, **done._asdict()})
        return
    removed = f"{counted(done.reports, 'source report')} and {counted(done.objects, 'index row')} of its copies"
    typer.echo(f"{name} is forgotten: released {counted(done.leases, 'lease')}; removed {removed}")
    if done.requested:
        typer.echo(f"{counted(done.requested, 'URL')} will be refreshed: its copy differed from the others")


@app.command("release")
def release(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account, as `status` names it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Settle what was sent for an account that no running instance is configured for. What was sent counts as spent."""
    settings = _settings(config)
    from listener.store.postgres.forgetting import release as release_in

    done = run_async(_done(settings, lambda store: release_in(store, account)))
    if as_json:
        print_json({"account": account, **done._asdict()})
        return
    typer.echo(f"{account}: {done.refunded} refunded, {done.spent} counted as spent, {done.ended} ended before")
    typer.echo("what they were for stays stale; to drop it: cdn-listener cancel --prefix URL")


def _settings(config: Path | None) -> Settings:
    """Return the settings; raise ConfigurationError where the store is a state file, or the driver is absent."""
    from listener.configuration import is_postgres
    from listener.errors import ConfigurationError
    from listener.store.postgres import require_driver

    settings = load(config)
    if not is_postgres(settings.store.url):
        raise ConfigurationError(
            "store.url: a state file has one daemon, and no fleet", hint="only a PostgreSQL store has instances"
        )
    require_driver()
    return settings


async def _done(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    async with writing(settings) as store:
        return await work(store)
