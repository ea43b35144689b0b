"""
All commands under one name, ``--instance NAME`` for every command that takes ``--config``, and the entry point.

The entry point runs a command and turns any error into an exit status and one message.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from listener import __version__
from listener.cli.backfill import backfill
from listener.cli.common import INTERRUPTED, ConfigOption, log_at, run_async
from listener.cli.config import app as config_app
from listener.cli.config import check, plugins
from listener.cli.dead_letters import dead_letters
from listener.cli.emulate import EmulateCommand, demo, emulate
from listener.cli.overrides import approve, cancel, confirm_deletions, hold, pause, release, resume, wait
from listener.cli.plan import plan
from listener.cli.process import make_safe
from listener.cli.refresh import prefetch, refresh
from listener.cli.status import quota, status, tasks
from listener.cli.store import app as store_app
from listener.cli.systemd import app as systemd_app
from listener.errors import ListenerError
from listener.redaction import mask_text
from listener.text import printable

__all__ = ["app", "main", "run"]

DEBUG_VARIABLE = "LISTENER_DEBUG"

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
    from listener.configuration import config_of

    path = config_of(instance)
    if path is None:
        raise typer.BadParameter(
            f"--instance: {instance!r} is not an instance name (the NAME of cdn-listener@NAME.service)"
        )
    return path


def run(config: ConfigOption = None) -> None:
    """Run the daemon: refresh what changes, until SIGTERM or SIGINT. SIGHUP reloads the configuration."""
    from listener.cli.early_signals import take_reload_request
    from listener.daemon.service import Daemon
    from listener.settings import load_settings

    log_at("info")
    daemon = Daemon(lambda: load_settings(config, os.environ), take_reload_request=take_reload_request)
    run_async(daemon.run())


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name (by default the process's own) and return its exit status."""
    make_safe()
    try:
        status = app(
            args=None if arguments is None else list(arguments), prog_name="cdn-listener", standalone_mode=False
        )
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - any error is reported to the operator
        return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: BaseException) -> int:
    leaves = list(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt | typer.Abort) for leaf in leaves):
        _say("interrupted")
        return INTERRUPTED
    expected = [leaf for leaf in leaves if isinstance(leaf, ListenerError)]
    if expected:
        for leaf in expected:
            _report_error(str(leaf), leaf.hint)
        return max(leaf.exit_status for leaf in expected)
    first = leaves[0]
    if isinstance(first, SystemExit):
        return first.code if isinstance(first.code, int) else 1
    if callable(usage := getattr(first, "format_message", None)):  # raised by the parser: wrong usage
        _report_error(str(usage()), "see cdn-listener --help, or cdn-listener COMMAND --help")
        return int(getattr(first, "exit_code", 2))
    return _unexpected(error, first)


def _unexpected(error: BaseException, first: BaseException) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        _say(mask_text("".join(traceback.format_exception(error))))
    what = f"{type(first).__name__}: {first}" if str(first) else type(first).__name__
    if isinstance(first, OSError):
        _report_error(what, "")
    else:
        _report_error(f"unexpected {what}", f"This is a defect. Set {DEBUG_VARIABLE}=1 for a traceback, and report it.")
    return 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _report_error(message: str, hint: str) -> None:
    _say(f"error: {mask_text(message)}")
    if hint:
        _say(f"hint: {mask_text(hint)}")


def _say(line: str) -> None:
    sys.stderr.write(printable(line, keep="\n\t") + "\n")
    sys.stderr.flush()
