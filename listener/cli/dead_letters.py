"""``cdn-listener dead-letters``: what was rejected and needs a decision."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import load, print_json, print_table, reading, run_async, writing
from listener.cli.options import ConfigOption, JsonOption
from listener.text import printable

if TYPE_CHECKING:
    from listener.store.letters import Dropped, LetterFilter

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
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most this many.")] = 1_000,
    after: Annotated[
        str, typer.Option("--after", metavar="ID", help="Continue after this id, the last of the page before.")
    ] = "",
) -> int:
    """List what needs a decision: URLs the CDN rejected, unreadable messages, keys that cannot be a URL."""
    from listener.daemon.status import iso
    from listener.errors import ConfigurationError

    decisions = [retry is not None, retry_all, discard is not None, discard_all]
    if sum(decisions) > 1:
        raise ConfigurationError(
            "dead-letters: only one of --retry, --retry-all, --discard, --discard-all can be given"
        )
    if any(decisions):
        return run_async(_decide(config, as_json, retry or discard, retrying=decisions[0] or decisions[1]))
    letters, has_more, dropped = run_async(_read(config, _filter(kind, source, prefix, after), limit))
    if as_json:
        print_json(letters)
    elif letters:
        columns = ("at", "source", "kind", "subject", "reason")
        print_table(columns, [[letter[column] for column in columns] for letter in letters])
    else:
        typer.echo("no dead letters")
    if has_more:
        typer.echo(f"more: --after {shlex.quote(printable(letters[-1]['id']))}", err=True)
    for one in dropped:
        counts = f"{one.letters} of kind {one.kind} and {one.bodies} bodies, the last at {iso(one.last_at)}"
        typer.echo(f"dropped for lack of space, from {printable(one.source)}: {counts}", err=True)
    return 0


def _filter(kind: str, source: str | None, prefix: str, after: str) -> LetterFilter:
    from listener.errors import ConfigurationError
    from listener.store.letters import LetterFilter, LetterKind

    if kind and kind not in set(LetterKind):
        raise ConfigurationError(f"--kind: unknown kind {kind!r}", hint=f"one of {', '.join(LetterKind)}")
    return LetterFilter(LetterKind(kind) if kind else None, source, prefix, after)


async def _read(config: Any, wanted: LetterFilter, limit: int) -> tuple[list[dict[str, Any]], bool, Sequence[Dropped]]:
    """Return a page, whether there are more, and what was dropped."""
    from listener.daemon.status import iso
    from listener.errors import ConfigurationError

    async with reading(load(config)) as store:
        if store is None:
            return [], False, []
        try:
            letters = await store.dead_letters(wanted, limit=limit + 1)
        except ValueError as error:
            raise ConfigurationError(f"--after: {error}") from None
        dropped = await store.dropped_letters()
    return [{**letter._asdict(), "at": iso(letter.at)} for letter in letters[:limit]], len(letters) > limit, dropped


async def _decide(config: Any, as_json: bool, subject: str | None, *, retrying: bool) -> int:
    async with writing(load(config)) as store:
        count = await (store.retry(subject) if retrying else store.discard(subject))
    word = "retried" if retrying else "discarded"
    if as_json:
        print_json({word: count})
    else:
        typer.echo(f"{word} {count}")
    if subject is not None and not count:
        typer.echo(f"error: there is no dead letter {subject}", err=True)
        return 1
    return 0
