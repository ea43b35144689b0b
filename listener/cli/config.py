"""``cdn-listener config``: the effective values, and the schema of the file."""

from __future__ import annotations

import typer

from listener.cli.common import ConfigOption, JsonOption, load, print_json

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The effective configuration, and the schema of the file.")


@app.command("show")
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every effective value, defaults and environment included, secrets masked."""
    from listener.plugins import effective_settings
    from listener.settings import as_toml

    table = effective_settings(load(config))
    if as_json:
        print_json(table)
    else:
        typer.echo(as_toml(table), nl=False)


@app.command("check")
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look whether the file, the environment and the credentials hold together; call nobody. Exit status 2 if not."""
    from listener.plugins import effective_settings

    settings = load(config)
    effective_settings(settings)
    if as_json:
        print_json({"valid": True, "file": str(settings.origin.path or "")})
    else:
        typer.echo(f"{settings.origin.path or 'the environment'}: valid")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of the file, with the tables of every plugin that is installed."""
    from listener.plugins import settings_schema

    print_json(settings_schema())
