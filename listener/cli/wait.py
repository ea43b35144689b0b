"""``cdn-listener wait``: blocks until earlier changes are fresh, for deploy pipelines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from listener.cli.common import ConfigOption, JsonOption, load, owner_of_store, present, print_json, reading, run_async
from listener.cli.options import PrefixOption, SiteOption, prefixes, span_option

if TYPE_CHECKING:
    from listener.settings import Settings
    from listener.store import Store
    from listener.store.controls import Place, Unsettled

__all__ = ["wait"]

POLL_SECONDS = 0.2
_NEEDS_A_PERSON: Final = {"parked", "unconfirmed"}
"""States that only a person can end."""


def wait(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    prefix: PrefixOption = None,
    timeout: Annotated[float, span_option("--timeout", "Give up after this time.")] = "15m",  # type: ignore[assignment]
    grace: Annotated[float, span_option("--grace", "Allow this much time for recent writes to be noticed.")] = "2s",  # type: ignore[assignment]
) -> int:
    """Wait until everything that changed so far is fresh. Exit status 1 if it is not, with what is left."""
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
    """Return what is left, and why the wait ended with it."""
    ends = time.monotonic() + timeout_seconds
    async with reading(settings) as found:
        store = present(found)
        changed_before = time.time() + grace_seconds
        await asyncio.sleep(min(grace_seconds, timeout_seconds))
        while True:
            left = await _left(store, where, changed_before)
            blind = await _not_listening(settings, store)
            if not left and not blind:
                return [], ""
            if owner_of_store(settings).is_running is False:
                return left, "no daemon is running, so nothing is refreshed: start cdn-listener run"
            if left and all(one.state in _NEEDS_A_PERSON for one in left):
                return left, "what is left needs a person: see cdn-listener dead-letters and cdn-listener tasks"
            if time.monotonic() >= ends:
                return left, blind or f"not fresh within {timeout_seconds:g} s: see cdn-listener status"
            await asyncio.sleep(POLL_SECONDS)


async def _left(store: Store, where: Sequence[Place], changed_before: float) -> list[Unsettled]:
    from listener.store.controls import Controls

    controls = Controls(store)
    return [one for place in where for one in await controls.unsettled(place, changed_before=changed_before)]


async def _not_listening(settings: Settings, store: Store) -> str:
    """Return which source is not listening, so that freshness is unknown; empty if all are."""
    reported: dict[str, dict[str, Any]] = await store.sources()
    names = [name for name in settings.sources if not reported.get(name, {}).get("ready")]
    return f"source {names[0]} is not listening: see cdn-listener status" if names else ""
