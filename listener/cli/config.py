"""``cdn-listener config`` and ``plugins``: the effective values, the schema of the file, the installed plugins."""

from __future__ import annotations

import typer

from listener.cli.common import ConfigOption, JsonOption, load, print_json, print_table

__all__ = ["app", "plugins"]

app = typer.Typer(no_args_is_help=True, help="Show or check the configuration.")


@app.command("show")
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every effective value, with defaults and environment, secrets masked."""
    from listener.plugins import effective_settings
    from listener.settings import as_toml

    table = effective_settings(load(config))
    if as_json:
        print_json(table)
    else:
        typer.echo(as_toml(table), nl=False)


@app.command("check")
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the file, the environment and the credentials without any network call. Exit status 2 if wrong."""
    from listener.plugins import effective_settings

    settings = load(config)
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


def plugins(as_json: JsonOption = False) -> None:
    """List the installed types of sources and targets."""
    from listener.plugins import installed

    found = installed()
    if as_json:
        print_json([plugin._asdict() for plugin in found])
    else:
        print_table(
            ("group", "type", "package", "version", "class"),
            [(p.group, p.name, p.package, p.version, p.path) for p in found],
        )
