"""``cdn-listener dead-letters``: what was set aside and waits for a decision."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from listener.cli.common import ConfigOption, JsonOption, load, print_json, print_table, reading, run_async, writing

__all__ = ["dead_letters"]


def dead_letters(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    retry: Annotated[str | None, typer.Option("--retry", metavar="URL", help="Send this parked URL once more.")] = None,
    retry_all: Annotated[bool, typer.Option("--retry-all", help="Send every parked URL once more.")] = False,
    discard: Annotated[str | None, typer.Option("--discard", metavar="SUBJECT", help="Forget this one.")] = None,
    discard_all: Annotated[bool, typer.Option("--discard-all", help="Forget all of them.")] = False,
) -> int:
    """What was set aside: keys that can be no URL, messages in no known form, URLs that the CDN refused."""
    from listener.errors import ConfigurationError

    orders = [retry is not None, retry_all, discard is not None, discard_all]
    if sum(orders) > 1:
        raise ConfigurationError(
            "dead-letters: only one of --retry, --retry-all, --discard, --discard-all can be given"
        )
    if any(orders):
        return run_async(_decide(config, as_json, retry or discard, retrying=orders[0] or orders[1]))
    letters = run_async(_read(config))
    if as_json:
        print_json(letters)
    elif letters:
        columns = ("at", "source", "kind", "subject", "reason")
        print_table(columns, [[letter[column] for column in columns] for letter in letters])
    else:
        typer.echo("nothing is set aside")
    return 0


async def _read(config: Any) -> list[dict[str, Any]]:
    from listener.daemon.status import iso

    async with reading(load(config)) as store:
        letters = [] if store is None else await store.dead_letters()
    return [{**letter._asdict(), "at": iso(letter.at)} for letter in letters]


async def _decide(config: Any, as_json: bool, subject: str | None, *, retrying: bool) -> int:
    async with writing(load(config)) as store:
        count = await (store.retry(subject) if retrying else store.discard(subject))
    word = "retried" if retrying else "discarded"
    if as_json:
        print_json({word: count})
    else:
        typer.echo(f"{word} {count}")
    if subject is not None and not count:
        typer.echo(f"error: nothing of that name is set aside: {subject}", err=True)
        return 1
    return 0
