"""``cdn-listener dead-letters``: what was rejected and needs a decision."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from listener.cli.common import print_json, print_table
from listener.cli.daemon_client import call
from listener.cli.options import ConfigOption, JsonOption, WideOption
from listener.text import printable

__all__ = ["dead_letters"]


def dead_letters(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    retry: Annotated[str | None, typer.Option("--retry", metavar="URL", help="Send this rejected URL again.")] = None,
    retry_all: Annotated[bool, typer.Option("--retry-all", help="Send every rejected URL again.")] = False,
    discard: Annotated[str | None, typer.Option("--discard", metavar="SUBJECT", help="Forget this entry.")] = None,
    discard_all: Annotated[bool, typer.Option("--discard-all", help="Forget every entry.")] = False,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="Only this kind: url (rejected by the CDN), message or key.")
    ] = "",
    source: Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only this source or target.")] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Only URLs or keys that start with this.")
    ] = "",
    show: Annotated[
        str, typer.Option("--show", metavar="ID", help="Print one entry with the body that was received.")
    ] = "",
    wide: WideOption = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most this many.")] = 1_000,
    after: Annotated[
        str, typer.Option("--after", metavar="ID", help="Continue after this id, the last of the page before.")
    ] = "",
) -> int:
    """List what needs a decision: URLs the CDN rejected, unreadable messages, keys that cannot be a URL."""
    from listener.errors import ConfigurationError

    decisions = [retry is not None, retry_all, discard is not None, discard_all]
    if sum(decisions) + bool(show) > 1:
        raise ConfigurationError(
            "dead-letters: only one of --show, --retry, --retry-all, --discard, --discard-all can be given"
        )
    if show:
        _show(call("dead_letter", config, letter=show), as_json)
        return 0
    if any(decisions):
        return _decide(config, as_json, retry or discard, retrying=decisions[0] or decisions[1])
    found = call("dead_letters", config, kind=kind, source=source, prefix=prefix, after=after, limit=limit)
    letters = found["letters"]
    if as_json:
        print_json(letters)
    elif letters:
        columns = ("at", "source", "kind", "id", "subject", "reason")
        print_table(columns, [[letter[column] for column in columns] for letter in letters], wide=wide)
    else:
        typer.echo("no dead letters")
    if found["more"]:
        typer.echo(f"more: --after {shlex.quote(printable(letters[-1]['id']))}", err=True)
    for one in found["dropped"]:
        counts = f"{one['letters']} of kind {one['kind']} and {one['bodies']} bodies, the last at {one['last_at']}"
        typer.echo(f"dropped for lack of space, from {printable(one['source'])}: {counts}", err=True)
    return 0


def _show(letter: Mapping[str, Any], as_json: bool) -> None:
    """Print one dead letter; of its body nothing that a terminal would obey."""
    if as_json:
        print_json(letter)
        return
    for name in ("id", "at", "source", "kind", "subject", "reason"):
        typer.echo(f"{name + ':':<9}{printable(str(letter[name]))}")
    if letter["body"] is not None:
        typer.echo(f"body:\n{printable(letter['body'], keep=chr(10) + chr(9))}")
    else:
        hexadecimal = letter["body_hex"]
        typer.echo(f"body:    {'none kept' if hexadecimal is None else hexadecimal + ' (hexadecimal)'}")


def _decide(config: Path | None, as_json: bool, subject: str | None, *, retrying: bool) -> int:
    count = call("decide", config, subject=subject, retrying=retrying)
    word = "retried" if retrying else "discarded"
    if as_json:
        print_json({word: count})
    else:
        typer.echo(f"{word} {count}")
    if subject is not None and not count:
        typer.echo(f"error: there is no dead letter {subject}", err=True)
        return 1
    return 0
