"""``--instance NAME``, for every command that takes ``--config``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

__all__ = ["offer_instance"]

InstanceOption = Annotated[
    str | None,
    typer.Option(
        "--instance",
        metavar="NAME",
        help="The instance cdn-listener@NAME.service: its configuration /etc/cdn-listener/NAME.toml, and its state.",
    ),
]


def offer_instance(*apps: typer.Typer) -> None:
    """Give every command of these that has a parameter ``config`` the option, which names the configuration too."""
    for app in apps:
        for command in app.registered_commands:
            if command.callback is not None and "config" in inspect.signature(command.callback).parameters:
                command.callback = _with_instance(command.callback)


def _with_instance(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*, instance: str | None = None, **arguments: Any) -> Any:
        if instance is not None:
            if arguments.get("config") is not None:
                raise typer.BadParameter("--config and --instance both name a configuration: leave one out")
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
    from listener.settings.instances import config_of

    path = config_of(instance)
    if path is None:
        raise typer.BadParameter(
            f"--instance: {instance!r} is no instance; it is the NAME of cdn-listener@NAME.service"
        )
    return path
