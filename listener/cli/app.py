"""All commands under one name, and ``--instance NAME`` for every command that takes ``--config``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from listener import __version__
from listener.cli.backfill import backfill
from listener.cli.check import check
from listener.cli.config import app as config_app
from listener.cli.config import plugins
from listener.cli.dead_letters import dead_letters
from listener.cli.emulate import EmulateCommand, demo, emulate
from listener.cli.overrides import approve, cancel, confirm_deletions, hold, pause, release, resume
from listener.cli.plan import plan
from listener.cli.quota import quota
from listener.cli.refresh import prefetch, refresh
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

InstanceOption = Annotated[
    str | None,
    typer.Option(
        "--instance",
        metavar="NAME",
        help="Use the instance cdn-listener@NAME.service: its configuration /etc/cdn-listener/NAME.toml and its state.",
    ),
]


def _offer_instance(*apps: typer.Typer) -> None:
    """Add ``--instance`` to every command that has a parameter ``config``."""
    for app in apps:
        for command in app.registered_commands:
            if command.callback is not None and "config" in inspect.signature(command.callback).parameters:
                command.callback = _with_instance(command.callback)


def _with_instance(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*, instance: str | None = None, **arguments: Any) -> Any:
        if instance is not None:
            if arguments.get("config") is not None:
                raise typer.BadParameter("--config and --instance both select a configuration: give only one")
            arguments["config"] = _config(instance)
        return command(**arguments)

    parameters = list(inspect.signature(command).parameters.values())
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    parameters.append(inspect.Parameter("instance", inspect.Parameter.KEYWORD_ONLY, default=None))
    hints = {**get_type_hints(command, include_extras=True), "instance": InstanceOption}
    parameters = [one.replace(annotation=hints.get(one.name, one.annotation)) for one in parameters]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run


def _config(instance: str) -> Path:
    from listener.settings.loading import config_of

    path = config_of(instance)
    if path is None:
        raise typer.BadParameter(
            f"--instance: {instance!r} is not an instance name (the NAME of cdn-listener@NAME.service)"
        )
    return path


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
_offer_instance(app, config_app, store_app)
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
    """Watch storage and refresh the CDN in front of it: within its quota, without losing a change."""
