"""``cdn-listener check``: reads the configuration and tries everything in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import ConfigOption, JsonOption, load, print_json, run_async

if TYPE_CHECKING:
    from listener.contracts import Check
    from listener.settings import Settings

__all__ = ["check"]


PrintSetupOption = Annotated[
    str,
    typer.Option(
        "--print-setup",
        metavar="SOURCE",
        help="Print the setup for the other side of this source (notification rules, policies), and check nothing.",
    ),
]


IgnoredOption = Annotated[
    bool, typer.Option("--ignored", help="List every ignored path with its pattern, and check nothing.")
]


HereOption = Annotated[
    bool,
    typer.Option("--here", help="Check as the current user, not as the installed unit."),
]


def check(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    print_setup: PrintSetupOption = "",
    list_ignored: IgnoredOption = False,
    here: HereOption = False,
) -> int:
    """
    Try everything in the configuration without changing anything. Exit status 1 if a check failed.

    Run as root, with a unit installed for this configuration, it checks as that unit: same user, sandbox, credentials.
    """
    from listener.contracts import CheckState

    if print_setup:
        typer.echo(_setup(config, print_setup))
        return 0
    if list_ignored:
        _list_ignored(config, as_json=as_json)
        return 0
    found = _checks(config, here=here)
    if as_json:
        print_json(
            [{"subject": c.subject, "state": c.state.value, "message": c.message, "hint": c.hint} for c in found]
        )
    else:
        for one in found:
            typer.echo(f"{one.state.value:<8} {one.subject}: {one.message}")
            if one.hint and one.state is not CheckState.OK:
                typer.echo(f"         {one.hint}")
    return 1 if any(one.state is CheckState.FAILED for one in found) else 0


def _checks(config: Any, *, here: bool) -> Sequence[Check]:
    """Return the checks as the installed unit, or else as this process, with a warning about the difference."""
    from listener.cli.unit_check import check_as_unit, is_installed
    from listener.contracts import Check, CheckState
    from listener.settings.loading import unit_of

    settings = load(config)
    unit = "" if here else unit_of(settings.origin.path)
    if not unit or not is_installed(unit):
        return run_async(_probe(settings))
    if os.geteuid() == 0:
        return check_as_unit(unit)
    missing = f"checked as user {os.geteuid()}, not as {unit}: its user, sandbox and credentials may differ"
    return [
        Check("unit", CheckState.WARNING, missing, "run check as root to check as the unit"),
        *run_async(_probe(settings)),
    ]


async def _probe(settings: Settings) -> list[Check]:
    from listener.daemon.checks import run_checks
    from listener.plugins import load_sources, load_targets

    return await run_checks(settings, load_sources(settings), load_targets(settings))


def _list_ignored(config: Any, *, as_json: bool) -> None:
    """Print what each source ignores, as the walk finds it."""
    from listener.contracts import Ignoring
    from listener.plugins import load_sources

    sources = load_sources(load(config))
    found = (
        {"source": name, "path": path, "pattern": pattern}
        for name, source in sources.items()
        if isinstance(source, Ignoring)
        for path, pattern in source.ignored()
    )
    if as_json:
        print_json(list(found))
        return
    number = 0
    for one in found:
        number += 1
        typer.echo(f"{one['source']}: {one['path']!a} is ignored by {one['pattern']}")
    typer.echo(f"{number} paths ignored")


def _setup(config: Any, name: str) -> str:
    """Return the setup for the other side of the source of this name."""
    from listener.contracts import ProvidesSetup
    from listener.errors import ConfigurationError
    from listener.plugins import load_sources
    from listener.settings import nearest

    sources = load_sources(load(config))
    if name not in sources:
        raise ConfigurationError(f"--print-setup: there is no source named {name!r}", hint=nearest(name, sources))
    source = sources[name]
    return (
        source.setup() if isinstance(source, ProvidesSetup) else f"# sources.{name} needs no setup outside this machine"
    )
