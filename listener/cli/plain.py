"""
Plain command lines, read without typer, whose import takes longer than most commands.

Plain is a known command with options as they are declared: ``--name VALUE``, ``--name=VALUE``, ``--flag``, and
arguments that do not begin with a dash. Everything else (help, abbreviations, mistakes) is left to typer, which knows
the same declarations; what both read has the same meaning.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, get_args, get_type_hints

from listener.cli.options import Argument, InstanceOption, Option
from listener.cli.reporting import reported
from listener.cli.streams import make_safe
from listener.errors import ConfigurationError

__all__ = ["COMMANDS", "COMPLETION_VARIABLE", "read_plainly", "resolved", "run_plain", "with_instance"]

COMMANDS: Final = {
    "init": "listener.cli.init:init",
    "run": "listener.cli.run:run",
    "backfill": "listener.cli.backfill:backfill",
    "plan": "listener.cli.plan:plan",
    "probe": "listener.cli.probe:probe",
    "refresh": "listener.cli.refresh:refresh",
    "prefetch": "listener.cli.refresh:prefetch",
    "hold": "listener.cli.overrides:hold",
    "release": "listener.cli.overrides:release",
    "wait": "listener.cli.overrides:wait",
    "pause": "listener.cli.overrides:pause",
    "resume": "listener.cli.overrides:resume",
    "cancel": "listener.cli.overrides:cancel",
    "approve": "listener.cli.overrides:approve",
    "confirm-deletions": "listener.cli.overrides:confirm_deletions",
    "status": "listener.cli.status:status",
    "quota": "listener.cli.status:quota",
    "tasks": "listener.cli.status:tasks",
    "dead-letters": "listener.cli.dead_letters:dead_letters",
    "check": "listener.cli.config:check",
    "plugins": "listener.cli.config:plugins",
    "demo": "listener.cli.emulate:demo",
}
"""Every command with its own name, and where its function is."""
COMPLETION_VARIABLE: Final = "_CDN_LISTENER_COMPLETE"
_PLAIN_MODULES: Final = frozenset(f"listener.cli.{name}" for name in ("overrides", "refresh", "run", "status"))
"""The modules that declare their options without typer."""


def resolved(place: str) -> Callable[..., Any]:
    """Return the function at ``module:function``."""
    module, _, name = place.partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))


def with_instance(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command with ``--instance`` as the configuration that it stands for."""
    from listener.configuration import config_of

    rest = dict(arguments)
    instance = rest.pop("instance", None)
    if instance is None:
        return rest
    if rest.get("config") is not None:
        raise ConfigurationError("--config and --instance both select a configuration: give only one")
    rest["config"] = config_of(instance)
    if rest["config"] is None:
        raise ConfigurationError(
            f"--instance: {instance!r} is not an instance name (the NAME of cdn-listener@NAME.service)"
        )
    return rest


def run_plain(arguments: Sequence[str]) -> int | None:
    """Run a plain command line and return its exit status; None, having done nothing, for any other."""
    place = COMMANDS.get(arguments[0], "") if arguments else ""
    if place.partition(":")[0] not in _PLAIN_MODULES or COMPLETION_VARIABLE in os.environ:
        return None
    make_safe()
    try:
        command = resolved(place)
        found = read_plainly(command, arguments[1:])
        if found is None:
            return None
        status = command(**with_instance(found))
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - any error is reported to the operator
        return reported(error)
    return status if isinstance(status, int) else 0


class _Parameter(NamedTuple):
    name: str
    kind: Any
    declared: Option | Argument
    default: Any
    """``...`` where it must be given."""


def read_plainly(command: Callable[..., Any], words: Sequence[str]) -> dict[str, Any] | None:
    """Return the arguments for the command, or None where the words are not plain."""
    parameters = list(_parameters(command))
    try:
        given, rest = _split(parameters, words)
        found = {one.name: _value(one, given, rest) for one in parameters}
    except (LookupError, ValueError):
        return None
    return None if rest else found


def _parameters(command: Callable[..., Any]) -> Iterator[_Parameter]:
    """Yield the parameters as they are declared; not with :mod:`inspect`, which takes long to import."""
    names = command.__code__.co_varnames[: command.__code__.co_argcount]
    defaults = command.__defaults__ or ()
    hints = get_type_hints(command, include_extras=True)
    for name, default in zip(names, (*(...,) * (len(names) - len(defaults)), *defaults), strict=True):
        kind, declared = get_args(hints[name])
        yield _Parameter(name, kind, declared, default)
    if "config" in names:
        kind, declared = get_args(InstanceOption)
        yield _Parameter("instance", kind, declared, None)


def _split(parameters: Sequence[_Parameter], words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the texts of the options by name, and the other words. Raise LookupError or ValueError."""
    options = {one.declared.name: one for one in parameters if isinstance(one.declared, Option)}
    given: dict[str, str] = {}
    rest: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, text = word.partition("=")
        if not word.startswith("-"):
            rest.append(word)
            continue
        one = options.pop(name)  # raises for a second one of the same name
        if one.kind is bool and equals:
            raise ValueError(word)
        given[one.name] = text if equals or one.kind is bool else next(left, "-")
        if given[one.name].startswith("-"):
            raise ValueError(word)
    return given, rest


def _value(one: _Parameter, given: Mapping[str, str], rest: list[str]) -> Any:
    """Return the value of a parameter, taking arguments from ``rest``. Raise LookupError or ValueError."""
    declared = one.declared
    if isinstance(declared, Argument):
        taken = rest[:] if one.kind == list[str] else rest[:1]
        del rest[: len(taken)]
        return taken if one.kind == list[str] and taken else taken[0]
    text = given.get(one.name, one.default)
    if text is ...:
        raise LookupError(one.name)
    if declared.parse is not None and isinstance(text, str):
        return declared.parse(text)
    if one.name not in given:
        return text
    if one.kind is bool:
        return True
    if one.kind is int:
        return _number(declared, text)
    return Path(text) if Path in get_args(one.kind) else text


def _number(declared: Option, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and (declared.least or 0) <= int(text) <= (declared.most or int(text))):
        raise ValueError(text)
    return int(text)
