"""What an operator imposes on the daemon: ``hold``, ``pause``, ``approve``, ``cancel`` …; and ``wait``."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from listener.cli.common import (
    ConfigOption,
    JsonOption,
    PrefixOption,
    ReasonOption,
    SiteOption,
    TargetOption,
    echo_under_way,
    load,
    owner_of_store,
    places,
    prefixes,
    present,
    print_json,
    reading,
    run_async,
    span_option,
    writing,
)

if TYPE_CHECKING:
    from listener.settings import Settings
    from listener.store import Store
    from listener.store.controls import Control, ControlKind, Place
    from listener.store.staleness import Unsettled


__all__ = ["approve", "cancel", "confirm_deletions", "hold", "pause", "release", "resume", "wait"]

CONFIRMATION_SECONDS: Final = 600.0
"""A confirmation that no daemon used within this time is about other deletions than the operator looked at."""

POLL_SECONDS = 0.2
_NEEDS_A_PERSON: Final = {"parked", "unconfirmed"}
"""States that only a person can end."""


def hold(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    for_: Annotated[float, span_option("--for", "End the hold after this time.")] = "10m",  # type: ignore[assignment]
    reason: ReasonOption = "",
) -> None:
    """Gather changes during a deploy, so that `release` plans them together. Manual refreshes are still sent."""
    from listener.store.controls import ControlKind

    settings = load(config)
    _impose(settings, ControlKind.HOLD, places(settings, site=site, target=target), for_, reason, as_json)


def release(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    reason: ReasonOption = "",
) -> int:
    """End a hold and plan what was gathered. Without --site and --target, end every hold."""
    from listener.store.controls import ControlKind

    return _end(config, ControlKind.HOLD, site, target, reason, as_json)


def pause(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    for_: Annotated[
        float | None, span_option("--for", "End the pause after this time; by default at `resume`.")
    ] = None,
    reason: ReasonOption = "",
) -> None:
    """Send nothing, manual refreshes included. Changes are still recorded."""
    from listener.store.controls import ControlKind

    settings = load(config)
    _impose(settings, ControlKind.PAUSE, places(settings, site=site, target=target), for_, reason, as_json)


def resume(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    reason: ReasonOption = "",
) -> int:
    """End a pause. Without --site and --target, end every pause."""
    from listener.store.controls import ControlKind

    return _end(config, ControlKind.PAUSE, site, target, reason, as_json)


def approve(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    target: TargetOption = None,
    for_: Annotated[float, span_option("--for", "Approve plans for this time.")] = "10m",  # type: ignore[assignment]
    reason: ReasonOption = "",
) -> None:
    """Approve plans above `planner.approve_above` for a while."""
    from listener.store.controls import ControlKind

    settings = load(config)
    _impose(settings, ControlKind.APPROVAL, places(settings, site=None, target=target), for_, reason, as_json)


def confirm_deletions(
    source: Annotated[str, typer.Argument(help="The source whose deletion guard stopped it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    reason: ReasonOption = "",
) -> None:
    """Confirm a mass deletion so that the paused source continues."""
    from listener.errors import ConfigurationError
    from listener.settings import nearest
    from listener.store.controls import ControlKind, Place

    settings = load(config)
    if source not in settings.sources:
        raise ConfigurationError(f"there is no source {source!r}", hint=nearest(source, settings.sources))
    _impose(settings, ControlKind.CONFIRMATION, [Place(source)], CONFIRMATION_SECONDS, reason, as_json)


def cancel(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. Kept in the audit.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    prefix: PrefixOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every URL of every target.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
) -> int:
    """Drop what is stale without a refresh: caches keep the old copy until it expires. What was sent stays sent."""
    from listener.errors import ConfigurationError

    settings = load(config)
    if not everything and site is None and target is None and prefix is None:
        raise ConfigurationError("cancel: no URLs selected", hint="give --site, --target or --prefix, or --all")
    where = places(settings, site=site, target=target)
    if prefix is not None:
        where = [place._replace(target=target or "") for place in prefixes(settings, prefix, site=site)]
    question = f"Leave old copies in the caches below {', '.join(place.words for place in where)}?"
    if not yes and not (sys.stdin.isatty() and typer.confirm(question)):
        raise ConfigurationError("cancel: confirmation required", hint="pass --yes")
    count, under_way = run_async(_cancel(settings, where, reason))
    if as_json:
        print_json({"cancelled": count, "requests_under_way": under_way})
    else:
        typer.echo(f"cancelled {count}")
        echo_under_way(under_way)
    return 0


async def _cancel(settings: Settings, where: Sequence[Place], reason: str) -> tuple[int, int]:
    from listener.store.controls import Controls

    async with writing(settings) as store:
        controls = Controls(store)
        count = sum([await controls.cancel(place, reason=reason) for place in where])
        return count, await controls.under_way(where)


def _impose(
    settings: Settings, kind: ControlKind, where: Sequence[Place], seconds: float | None, reason: str, as_json: bool
) -> None:
    from listener.store.controls import ControlKind, Controls

    async def put() -> tuple[list[Control], int]:
        async with writing(settings) as store:
            controls = Controls(store)
            given = await controls.put(kind, where, seconds=seconds, reason=reason)
            stops = kind in (ControlKind.HOLD, ControlKind.PAUSE)
            return given, await controls.under_way(where) if stops else 0

    _show(*run_async(put()), as_json)


def _show(given: Sequence[Control], under_way: int, as_json: bool) -> None:
    from listener.daemon.status import plain_order

    rows = [{**plain_order(one), "requests_under_way": under_way} for one in given]
    if as_json:
        print_json(rows)
        return
    for one, row in zip(given, rows, strict=True):
        until = f"until {row['until']}" if row["until"] else "until you end it"
        typer.echo(f"{row['kind']}  {one.place.words}  {until}")
    echo_under_way(under_way)


def _end(
    config: Path | None, kind: ControlKind, site: str | None, target: str | None, reason: str, as_json: bool
) -> int:
    from listener.daemon.status import plain_order
    from listener.store.controls import ControlKind, Controls

    settings = load(config)
    where = places(settings, site=site, target=target)

    async def remove() -> tuple[int, list[Control]]:
        async with writing(settings) as store:
            controls = Controls(store)
            every = [one.place for one in await controls.active() if one.kind is kind]
            chosen = every if site is None and target is None else where
            count = await controls.remove(kind, chosen, reason=reason)
            return count, [one for one in await controls.active() if one.kind is kind]

    count, left = run_async(remove())
    wider = [one for one in left if any(one.place.holds(*place) for place in where)]
    if as_json:
        print_json({"ended": count, "still_in_effect": [plain_order(one) for one in wider]})
        return 0
    typer.echo(f"ended {count} {kind.value}{'s' * (count > 1)}" if count else f"there is no {kind.value} to end")
    command = "release" if kind is ControlKind.HOLD else "resume"
    for one in wider:
        typer.echo(f"still in effect: {kind.value}  {one.place.words}; to end all: cdn-listener {command}")
    return 0


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
    return [one for place in where for one in await store.unsettled(place, changed_before=changed_before)]


async def _not_listening(settings: Settings, store: Store) -> str:
    """Return which source is not listening, so that freshness is unknown; empty if all are."""
    reported: dict[str, dict[str, Any]] = await store.sources()
    names = [name for name in settings.sources if not reported.get(name, {}).get("ready")]
    return f"source {names[0]} is not listening: see cdn-listener status" if names else ""
