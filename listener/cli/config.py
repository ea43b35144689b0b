"""``cdn-listener check``, ``config`` and ``plugins``: the configuration tried, and shown with its schema."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import load, print_json, print_table, run_async, wrapped
from listener.cli.options import ConfigOption, JsonOption, WideOption
from listener.cli.origins import Origins

if TYPE_CHECKING:
    from listener.contracts import Check
    from listener.settings import Settings


__all__ = ["app", "check", "checks", "plugins", "show_checks"]

app = typer.Typer(no_args_is_help=True, help="Show or check the configuration.")


@app.command("show")
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every effective value and where it comes from: the file, a variable, or the default. Secrets are masked."""
    from listener.configuration import read_configuration
    from listener.plugins import effective_settings, require_tables
    from listener.settings import as_toml

    settings = load(config)
    require_tables(settings)
    table = effective_settings(settings)
    if as_json:
        print_json(table)
        return
    origins = Origins(read_configuration(config, os.environ))
    typer.echo("\n".join(origins.annotated(as_toml(table).splitlines())))


@app.command("check")
def check_file(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the file, the environment and the credentials without any network call. Exit status 2 if wrong."""
    from listener.plugins import effective_settings, require_tables

    settings = load(config)
    require_tables(settings)
    effective_settings(settings)
    if as_json:
        print_json({"valid": True, "file": str(settings.origin.path or "")})
    else:
        typer.echo(f"{settings.origin.path or 'the environment'}: valid")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of the file, including every installed plugin."""
    from listener.plugins import settings_schema

    print_json(settings_schema())


@app.command("files")
def files(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Print this file. Default: list all.")] = "",
) -> None:
    """List or print what is shipped: examples, policies, alert rules, the dashboard, rules of caches, manifests."""
    from listener.cli.shipped import shipped_folder
    from listener.errors import ConfigurationError
    from listener.settings import nearest

    folder = shipped_folder("config")
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and "locks" not in path.parts)
    known = {path.relative_to(folder).as_posix(): path for path in paths}
    if not name:
        typer.echo("\n".join(known))
        return
    if name not in known:
        raise ConfigurationError(f"there is no file {name!r}", hint=nearest(name, known))
    typer.echo(known[name].read_text("utf-8"), nl=False)


def plugins(config: ConfigOption = None, as_json: JsonOption = False, wide: WideOption = False) -> None:
    """List the installed types of sources and targets; with --config, also which of them that file uses."""
    from listener.plugins import installed

    rows = [one._asdict() for one in installed()]
    columns = {"group": "group", "type": "name", "package": "package", "version": "version", "class": "path"}
    if config is not None:
        settings = load(config)
        for row in rows:
            tables = getattr(settings, row["group"])
            row["used_by"] = ", ".join(name for name, table in tables.items() if table["type"] == row["name"])
        columns["used by"] = "used_by"
    if as_json:
        print_json(rows)
    else:
        print_table(tuple(columns), [[row[key] for key in columns.values()] for row in rows], wide=wide)


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
    found = checks(config, here=here)
    if as_json:
        from listener.daemon.command_handlers import plain_check

        print_json([plain_check(one) for one in found])
    else:
        show_checks(found)
    return 1 if any(one.state is CheckState.FAILED for one in found) else 0


def show_checks(found: Sequence[Check]) -> None:
    """Print checks for people."""
    from listener.contracts import CheckState

    for one in found:
        typer.echo(wrapped(f"{one.state.value:<8} {one.subject}: {one.message}", indent=9))
        if one.hint and one.state is not CheckState.OK:
            typer.echo(wrapped(f"         {one.hint}", indent=9))


def checks(config: Any, *, here: bool) -> Sequence[Check]:
    """Return the checks as the installed unit, by the running daemon, or else as this process with a warning."""
    from listener.cli.daemon_client import call_daemon
    from listener.cli.systemd import check_as_unit, is_installed
    from listener.configuration import unit_of
    from listener.contracts import Check, CheckState

    settings = load(config)
    unit = "" if here else unit_of(settings.origin.path)
    if unit and os.geteuid() == 0 and is_installed(unit):
        return check_as_unit(unit)
    found = call_daemon("check", config) if unit else None
    if found is not None:
        rows = [Check(row["subject"], CheckState(row["state"]), row["message"], row["hint"]) for row in found]
        return [Check("daemon", CheckState.OK, "checked by the daemon that runs: its user and credentials"), *rows]
    probed = [*_relative(config), *run_async(_probe(settings))]
    if not unit or not is_installed(unit):
        return probed
    missing = f"checked as user {os.geteuid()}, not as {unit}: its user, sandbox and credentials may differ"
    hint = "run check as root to check as the unit, or start it and join the group of its admin socket"
    return [Check("unit", CheckState.WARNING, missing, hint), *probed]


def _relative(config: Any) -> list[Check]:
    """Warn about a state file whose URL lacks the fourth slash."""
    from listener.configuration import read_configuration, seems_absolute
    from listener.contracts import Check, CheckState

    read = read_configuration(config, os.environ)
    url = str(read.written.get("store", {}).get("url", ""))
    meant = "" if "store.url" in read.variables else seems_absolute(url)
    if not meant:
        return []
    message = f"{url} is relative to the configuration's directory: three slashes"
    return [Check("store.url", CheckState.WARNING, message, f"for the absolute path write {meant}")]


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
