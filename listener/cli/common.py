"""What commands share: imports, logs, the configuration, access to the state file, and output."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from listener.text import printable

if TYPE_CHECKING:
    from listener.settings import Settings
    from listener.store import Store
    from listener.store.owner import Owner


__all__ = [
    "importing",
    "load",
    "log_at",
    "opened_store",
    "owner_of_store",
    "print_json",
    "print_table",
    "reading",
    "reason_for",
    "run_async",
    "say",
    "senders",
    "wrapped",
    "writing",
]

T = TypeVar("T")


@contextmanager
def importing() -> Iterator[None]:
    """
    Import many modules: the garbage collector is off meanwhile, and never examines what was imported.

    Modules stay, so that it would find nothing, again and again: a tenth of the time that imports take. Certificates
    are loaded later: see :mod:`listener.cli.certificates`.
    """
    from listener.cli.certificates import certificates_at_first_use

    gc.disable()
    try:
        with certificates_at_first_use():
            yield
    finally:
        gc.freeze()
        gc.enable()


def log_at(default: str) -> None:
    """Set up logging on stderr, at ``$LISTENER_LOG_LEVEL`` or else this level."""
    from listener.configuration import level_of
    from listener.telemetry import configure_logging

    configure_logging(level=level_of(os.environ, default))


def load(config: Path | None) -> Settings:
    """Return the settings, with logging set up for a command other than the daemon."""
    from listener.configuration import adopt_credentials
    from listener.settings import load_settings

    log_at("warning")
    adopt_credentials(config, os.environ)
    return load_settings(config, os.environ)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; log how many repeated events were suppressed."""
    from listener.cli.process import run_to_end

    try:
        return run_to_end(main)
    finally:
        from listener.telemetry import report_repeats

        report_repeats(at_once=True)


@asynccontextmanager
async def opened_store(settings: Settings, *, writes: bool) -> AsyncIterator[Store | None]:
    """Open the state file, where there is one; only to read, without changing anything, unless the command writes."""
    from listener.settings import replicas_of_trees
    from listener.store import open_store
    from listener.store.owner import exists
    from listener.store.store import StoreOptions

    if not exists(settings.store.url):
        yield None
        return
    copied = None
    if "each" in replicas_of_trees(settings.sources).values():
        from listener.pipeline import copied_sources

        copied = copied_sources(settings)
    options = StoreOptions(instance=settings.instance.effective_name, prepared=settings.store.prepared, copied=copied)
    async with open_store(settings.store.url, options=options, readonly=not writes) as store:
        yield store


def reading(settings: Settings) -> AbstractAsyncContextManager[Store | None]:
    """Open the state file for reading, without creating or changing anything; None where there is none yet."""
    return opened_store(settings, writes=False)


@asynccontextmanager
async def writing(settings: Settings) -> AsyncIterator[Store]:
    """Open the state file while another process may own it; raise StoreError where there is none yet."""
    from listener.store.owner import absent

    async with opened_store(settings, writes=True) as store:
        if store is None:
            raise absent(settings.store.url)
        yield store


def owner_of_store(settings: Settings) -> Owner:
    """Return whether a process sends from the store, and which."""
    from listener.store.owner import owner_of

    return owner_of(settings.store.url)


def say(line: str = "", *, error: bool = False) -> None:
    """Print a line to stdout, or to stderr."""
    stream = sys.stderr if error else sys.stdout
    stream.write(f"{line}\n")
    stream.flush()


def print_json(value: Any) -> None:
    """Print plain data as JSON; control characters, which keys may contain, are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        plain = text.replace("\n", "").isprintable()
    except UnicodeEncodeError:
        plain = False
    say(text if plain else json.dumps(value, indent=2, default=str))


def reason_for(reason: str, *, verbose: bool) -> str:
    """Return the decision in a reason, and with ``verbose`` the numbers behind it."""
    from listener.refresh import split_reason

    decision, numbers = split_reason(reason)
    return f"{decision} ({numbers})" if verbose and numbers else decision


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, one_line: bool = False, wide: bool = False
) -> None:
    """
    Print rows under their columns; where a terminal is too narrow, folded, or cut if each is to be ``one_line``.

    ``wide`` tables have the width that they need.
    """
    import shutil

    from listener.cli.table import table_lines

    texts = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() and not wide else None
    say("\n".join(table_lines([columns, *texts], width=width, one_line=one_line)))


def wrapped(line: str, *, indent: int) -> str:
    """Return a line that is wrapped at blanks where a terminal is too narrow, with an indent below its beginning."""
    if not sys.stdout.isatty():
        return line
    import shutil
    import textwrap

    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
        replace_whitespace=False, drop_whitespace=True,
    )  # fmt: skip


def senders(instances: Sequence[str]) -> str:
    """Return who sends what was recorded: instances of a fleet, or the daemon."""
    if not instances:
        return "the running daemon sends them"
    if len(instances) == 1:
        return f"instance {instances[0]} sends them"
    return f"instances {', '.join(instances[:-1])} and {instances[-1]} run and send them"


def echo_under_way(requests: int) -> None:
    """Print how many requests can no longer be stopped, if there are any."""
    if requests:
        say(f"{requests} request{'s are' if requests > 1 else ' is'} under way and cannot be stopped")
