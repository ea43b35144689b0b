"""What commands share: options, the configuration, access to the state file, and output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from listener.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from listener.contracts import Target
    from listener.settings import Settings
    from listener.store import Store
    from listener.store.ownership import Owner

__all__ = [
    "INTERRUPTED",
    "ConfigOption",
    "JsonOption",
    "VerboseOption",
    "console",
    "load",
    "log_at",
    "owner_of_store",
    "present",
    "print_json",
    "print_table",
    "reading",
    "reason_for",
    "run_async",
    "targets_closed",
    "writing",
]

T = TypeVar("T")

INTERRUPTED = 130
"""The exit status of a command that was interrupted."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration file. Default: $LISTENER_CONFIG, listener.toml, /etc/cdn-listener/listener.toml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Also print the numbers behind each decision.")]


def log_at(default: str) -> None:
    """Set up logging on stderr, at ``$LISTENER_LOG_LEVEL`` or else this level."""
    from listener.telemetry import configure_logging, level_of

    configure_logging(level=level_of(os.environ, default))


def load(config: Path | None) -> Settings:
    """Return the settings, with logging set up for a command other than the daemon."""
    from listener.settings import load_settings

    log_at("warning")
    return load_settings(config, os.environ)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; log how many repeated events were suppressed."""
    from listener.cli.exiting import run_to_end

    try:
        return run_to_end(main)
    finally:
        from listener.telemetry import report_repeats

        report_repeats(at_once=True)


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[Store | None]:
    """Open the state file for reading, without creating or changing anything; None where there is none yet."""
    from listener.store import open_store

    if not _has_state(settings):
        yield None
        return
    async with open_store(settings.store.url, readonly=True) as store:
        yield store


def _has_state(settings: Settings) -> bool:
    from listener.errors import StoreError
    from listener.store.database import sqlite_path

    path = sqlite_path(settings.store.url)
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"cannot read the state file {path}: {error.strerror}", hint="check the permissions of its directory"
        ) from None


@asynccontextmanager
async def writing(settings: Settings) -> AsyncIterator[Store]:
    """Open the state file while another process may own it; raise StoreError where there is none yet."""
    from listener.store import open_store

    store = present(open_store(settings.store.url) if _has_state(settings) else None)
    async with store:
        yield store


def present(store: Store | None) -> Store:
    """Return the store; raise StoreError where there is none yet."""
    from listener.errors import StoreError

    if store is None:
        raise StoreError("there is no state file yet", hint="start the daemon first: cdn-listener run")
    return store


def owner_of_store(settings: Settings) -> Owner:
    """Return whether a process owns the state file, and which."""
    from listener.store.database import sqlite_path
    from listener.store.ownership import owner_of

    return owner_of(sqlite_path(settings.store.url))


@asynccontextmanager
async def targets_closed(targets: Mapping[str, Target]) -> AsyncIterator[None]:
    """Close the targets' connections at the end."""
    try:
        yield
    finally:
        for target in targets.values():
            await target.close()


def console(*, stderr: bool = False) -> Console:
    """Return a console for text; unless it is a terminal, lines are not wrapped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, markup=False, width=None if stream.isatty() else 240)


def print_json(value: Any) -> None:
    """Print plain data as JSON; control characters, which keys may contain, are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        plain = text.replace("\n", "").isprintable()
    except UnicodeEncodeError:
        plain = False
    typer.echo(text if plain else json.dumps(value, indent=2, default=str))


def reason_for(reason: str, *, verbose: bool) -> str:
    """Return the decision in a reason, and with ``verbose`` the numbers behind it."""
    from listener.planner import split_reason

    decision, numbers = split_reason(reason)
    return f"{decision} ({numbers})" if verbose and numbers else decision


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else printable(str(cell)) for cell in row))
    console().print(table)
