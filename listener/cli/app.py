"""All commands under one name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from listener import __version__
from listener.cli.backfill import backfill
from listener.cli.cancel import cancel
from listener.cli.check import check
from listener.cli.config import app as config_app
from listener.cli.dead_letters import dead_letters
from listener.cli.demo import demo
from listener.cli.emulate import EmulateCommand, emulate
from listener.cli.instances import offer_instance
from listener.cli.orders import approve, confirm_deletions, hold, pause, release, resume
from listener.cli.plan import plan
from listener.cli.plugins import plugins
from listener.cli.prefetch import prefetch
from listener.cli.quota import quota
from listener.cli.refresh import refresh
from listener.cli.run import run
from listener.cli.status import status
from listener.cli.store import app as store_app
from listener.cli.systemd import app as systemd_app
from listener.cli.tasks import tasks
from listener.cli.wait import wait

__all__ = ["app"]

app = typer.Typer(
    name="cdn-listener",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run,
    "backfill": backfill,
    "plan": plan,
    "refresh": refresh,
    "prefetch": prefetch,
    "hold": hold,
    "release": release,
    "wait": wait,
    "pause": pause,
    "resume": resume,
    "cancel": cancel,
    "approve": approve,
    "confirm-deletions": confirm_deletions,
    "status": status,
    "quota": quota,
    "tasks": tasks,
    "dead-letters": dead_letters,
    "check": check,
    "plugins": plugins,
    "demo": demo,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
app.command("emulate", cls=EmulateCommand)(emulate)
offer_instance(app, config_app, store_app)
app.add_typer(config_app, name="config")
app.add_typer(store_app, name="store")
app.add_typer(systemd_app, name="systemd")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cdn-listener {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Listens to storage and refreshes the CDN in front of it, within its quota, losing nothing."""
