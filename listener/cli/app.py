"""
All commands under one name, ``--instance NAME`` for every command that takes ``--config``, and the entry point.

The entry point runs a command and turns any error into an exit status and one message.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from listener import __version__
from listener.cli.config import app as config_app
from listener.cli.emulate import EmulateCommand, emulate
from listener.cli.fleet import app as fleet_app
from listener.cli.options import Argument, InstanceOption, Option
from listener.cli.plain import COMMANDS, COMPLETION_VARIABLE, resolved, with_instance
from listener.cli.reporting import reported
from listener.cli.store import app as store_app
from listener.cli.streams import make_safe
from listener.cli.systemd import app as systemd_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="cdn-listener",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _declare(*apps: typer.Typer) -> None:
    """Give typer every command as it declares itself, with ``--instance`` where it has a parameter ``config``."""
    for app in apps:
        for command in app.registered_commands:
            if command.callback is not None:
                command.callback = _declared(command.callback)


def _declared(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(**arguments: Any) -> Any:
        return command(**with_instance(arguments))

    hints = get_type_hints(command, include_extras=True)
    parameters = list(inspect.signature(command).parameters.values())
    if "config" in hints:
        hints["instance"] = InstanceOption
        parameters.append(inspect.Parameter("instance", inspect.Parameter.KEYWORD_ONLY, default=None))
    hints = {name: _as_typer(hint) for name, hint in hints.items()}
    signature = inspect.Signature(
        [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints.get(one.name, one.annotation))
            for one in parameters
        ]
    )
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run


def _as_typer(hint: Any) -> Any:
    """Return a parameter's type with typer's option or argument in place of ours."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    match extras:
        case [Option() as one]:
            names = filter(None, (one.name, one.short))
            made = typer.Option(
                *names,
                help=one.help,
                metavar=one.metavar,
                parser=one.parse and _reporting(one.parse),
                min=one.least,
                max=one.most,
                hidden=one.hidden,
            )
            return Annotated[kind, made]
        case [Argument() as one]:
            return Annotated[kind, typer.Argument(metavar=one.metavar, help=one.help)]
    return hint


def _reporting(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return the parser for typer, with what is wrong with a text as an error of usage."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parsed


for _name, _place in COMMANDS.items():
    app.command(_name)(resolved(_place))
app.command("emulate", cls=EmulateCommand)(emulate)
_declare(app, config_app, store_app, fleet_app)
app.add_typer(config_app, name="config")
app.add_typer(store_app, name="store")
app.add_typer(fleet_app, name="fleet")
app.add_typer(systemd_app, name="systemd")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cdn-listener {__version__}")
        raise typer.Exit


def _print_completion(shell: str) -> None:
    if shell:
        from listener.cli.manual import completion_script

        try:
            typer.echo(completion_script(shell))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        raise typer.Exit


def _print_manual(wanted: bool) -> None:
    if wanted:
        from listener.cli.manual import manual_page

        typer.echo(manual_page(typer.main.get_command(app)), nl=False)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    completion: Annotated[
        str,
        typer.Option(
            "--print-completion",
            metavar="SHELL",
            callback=_print_completion,
            is_eager=True,
            help="Print the completion script for bash, zsh or fish.",
        ),
    ] = "",
    manual: Annotated[
        bool,
        typer.Option("--print-man", callback=_print_manual, is_eager=True, help="Print the manual page, for man -l -."),
    ] = False,
) -> None:
    """Watch storage and refresh the CDN in front of it: within its quota, without losing a change."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name (by default the process's own) and return its exit status."""
    make_safe()
    if COMPLETION_VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()  # typer answers the shell itself
    try:
        status = app(
            args=None if arguments is None else list(arguments), prog_name="cdn-listener", standalone_mode=False
        )
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - any error is reported to the operator
        return reported(error, interruptions=(KeyboardInterrupt, typer.Abort))
    return status if isinstance(status, int) else 0
