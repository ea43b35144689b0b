"""``hold``, ``release``, ``pause``, ``resume``, ``approve``, ``confirm-deletions``: orders to a daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from listener.cli.common import ConfigOption, JsonOption, load, print_json, run_async, writing
from listener.cli.places import ReasonOption, SiteOption, TargetOption, echo_under_way, places, span_option

if TYPE_CHECKING:
    from listener.settings import Settings
    from listener.store.controls import Control, ControlKind, Place

__all__ = ["approve", "confirm_deletions", "hold", "pause", "release", "resume"]


def hold(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    for_: Annotated[float, span_option("--for", "After so long it ends by itself.")] = "10m",  # type: ignore[assignment]
    reason: ReasonOption = "",
) -> None:
    """Gather what changes during a deploy, so that `release` makes one plan of it. By hand goes on."""
    from listener.store.controls import ControlKind

    settings = load(config)
    _give(settings, ControlKind.HOLD, places(settings, site=site, target=target), for_, reason, as_json)


def release(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    reason: ReasonOption = "",
) -> int:
    """End a hold: what was gathered is planned as one. Without --site and --target every hold ends."""
    from listener.store.controls import ControlKind

    return _take_back(config, ControlKind.HOLD, site, target, reason, as_json)


def pause(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    for_: Annotated[
        float | None, span_option("--for", "After so long it ends by itself; by default at `resume`.")
    ] = None,
    reason: ReasonOption = "",
) -> None:
    """Send nothing, not even by hand; changes are still heard and kept."""
    from listener.store.controls import ControlKind

    settings = load(config)
    _give(settings, ControlKind.PAUSE, places(settings, site=site, target=target), for_, reason, as_json)


def resume(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    reason: ReasonOption = "",
) -> int:
    """End a pause. Without --site and --target every pause ends."""
    from listener.store.controls import ControlKind

    return _take_back(config, ControlKind.PAUSE, site, target, reason, as_json)


def approve(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    target: TargetOption = None,
    for_: Annotated[float, span_option("--for", "Plans may go for so long.")] = "10m",  # type: ignore[assignment]
    reason: ReasonOption = "",
) -> None:
    """Let plans above `planner.approve_above` go, for a while."""
    from listener.store.controls import ControlKind

    settings = load(config)
    _give(settings, ControlKind.APPROVAL, places(settings, site=None, target=target), for_, reason, as_json)


def confirm_deletions(
    source: Annotated[str, typer.Argument(help="The source that stopped at a mass of deletions.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    reason: ReasonOption = "",
) -> None:
    """Say that so many deletions are meant: the source that stopped at them goes on."""
    from listener.errors import ConfigurationError
    from listener.settings import nearest
    from listener.store.controls import ControlKind, Place

    settings = load(config)
    if source not in settings.sources:
        raise ConfigurationError(f"there is no source {source!r}", hint=nearest(source, settings.sources))
    _give(settings, ControlKind.CONFIRMATION, [Place(source)], CONFIRMATION_SECONDS, reason, as_json)


CONFIRMATION_SECONDS = 600.0
"""A confirmation that no daemon took by then is about other deletions than those that were looked at."""


def _give(
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
        until = f"until {row['until']}" if row["until"] else "until it is taken back"
        typer.echo(f"{row['kind']}  {one.place.words}  {until}")
    echo_under_way(under_way)


def _take_back(
    config: Path | None, kind: ControlKind, site: str | None, target: str | None, reason: str, as_json: bool
) -> int:
    from listener.store.controls import Controls

    settings = load(config)
    where = places(settings, site=site, target=target)

    async def remove() -> int:
        async with writing(settings) as store:
            controls = Controls(store)
            every = [one.place for one in await controls.active() if one.kind is kind]
            chosen = every if site is None and target is None else where
            return await controls.remove(kind, chosen, reason=reason)

    count = run_async(remove())
    if as_json:
        print_json({"ended": count})
    else:
        typer.echo(f"ended {count}" if count else f"no {kind.value} stands there")
    return 0
