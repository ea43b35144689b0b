"""``cdn-listener wait``: blocks until what changed is fresh, for a pipeline that deploys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from listener.cli.common import ConfigOption, JsonOption, load, owner_of_store, present, print_json, reading, run_async
from listener.cli.places import SiteOption, prefixes, span_option

if TYPE_CHECKING:
    from listener.settings import Settings
    from listener.store import Store
    from listener.store.controls import Place, Unsettled

__all__ = ["wait"]

POLL_SECONDS = 0.2
_LYING: Final = {"parked", "unconfirmed"}
"""Nothing but a person ends these."""


def wait(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", help="Only URLs that start so: a URL, or a path of the site.")
    ] = None,
    timeout: Annotated[float, span_option("--timeout", "Give up after so long.")] = "15m",  # type: ignore[assignment]
    grace: Annotated[float, span_option("--grace", "Time for what was written just now to be heard.")] = "2s",  # type: ignore[assignment]
) -> int:
    """Wait until everything that changed before is fresh. Exit status 1 when it is not, with what is left."""
    settings = load(config)
    began = time.monotonic()
    left, why = run_async(_wait(settings, prefixes(settings, prefix, site=site), timeout, grace))
    waited = round(time.monotonic() - began, 3)
    if as_json:
        fresh = not left and not why
        rows = [one._asdict() for one in left]
        print_json({"fresh": fresh, "waited_seconds": waited, "reason": why, "unsettled": rows})
    elif not left and not why:
        typer.echo(f"fresh after {waited:.1f} s")
    for one in left if not as_json else ():
        typer.echo(f"{one.state}  {one.needs}  {one.example}")
    if why:
        typer.echo(f"error: {why}", err=True)
    return 1 if left or why else 0


async def _wait(
    settings: Settings, where: Sequence[Place], timeout_seconds: float, grace_seconds: float
) -> tuple[list[Unsettled], str]:
    """Return what is left in the end, and why the wait ended with it."""
    ends = time.monotonic() + timeout_seconds
    async with reading(settings) as found:
        store = present(found)
        changed_before = time.time() + grace_seconds
        await asyncio.sleep(min(grace_seconds, timeout_seconds))
        while True:
            left = await _left(store, where, changed_before)
            deaf = await _deaf(settings, store)
            if not left and not deaf:
                return [], ""
            if owner_of_store(settings).is_running is False:
                return left, "no daemon runs, so nothing is refreshed: start cdn-listener run"
            if left and all(one.state in _LYING for one in left):
                return left, "what is left waits for a person: cdn-listener dead-letters, cdn-listener tasks"
            if time.monotonic() >= ends:
                return left, deaf or f"not fresh within {timeout_seconds:g} s: cdn-listener status says why"
            await asyncio.sleep(POLL_SECONDS)


async def _left(store: Store, where: Sequence[Place], changed_before: float) -> list[Unsettled]:
    from listener.store.controls import Controls

    controls = Controls(store)
    return [one for place in where for one in await controls.unsettled(place, changed_before=changed_before)]


async def _deaf(settings: Settings, store: Store) -> str:
    """Return which source does not listen yet, so that nobody can say that all is fresh."""
    told: dict[str, dict[str, Any]] = await store.sources()
    deaf = [name for name in settings.sources if not told.get(name, {}).get("ready")]
    return f"source {deaf[0]} is not listening: cdn-listener status says why" if deaf else ""
