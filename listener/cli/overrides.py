"""What an operator imposes on the daemon: ``hold``, ``pause``, ``approve``, ``cancel`` …; and ``wait``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from listener.cli.common import echo_under_way, load, print_json, say
from listener.cli.daemon_client import call
from listener.cli.options import (
    Argument,
    ConfigOption,
    JsonOption,
    Option,
    PrefixOption,
    ReasonOption,
    SiteOption,
    TargetOption,
    span_option,
)

if TYPE_CHECKING:
    from listener.settings import Settings


__all__ = ["approve", "cancel", "confirm_deletions", "hold", "pause", "release", "resume", "wait"]

POLL_SECONDS = 0.2
_PERSON: Final = "person"
"""What only a person can end ``waits_for`` this."""


class _Waited(NamedTuple):
    """How a wait ended."""

    left: Sequence[Mapping[str, Any]]
    """What is not fresh."""
    held: Mapping[str, int]
    """How many deletions each source holds back."""
    why: str
    """Why the wait ended with it; empty where everything is fresh."""
    status: int
    """The exit status."""


def hold(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    for_: Annotated[float, span_option("--for", "End the hold after this time.")] = "10m",  # type: ignore[assignment]
    reason: ReasonOption = "",
) -> None:
    """Gather changes during a deploy, so that `release` plans them together. Manual refreshes are still sent."""
    _show(call("impose", config, kind="hold", site=site, target=target, seconds=for_, reason=reason), as_json)


def release(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    reason: ReasonOption = "",
) -> int:
    """End a hold and plan what was gathered. Without --site and --target, end every hold."""
    return _end("hold", "release", as_json, config, site=site, target=target, reason=reason)


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
    _show(call("impose", config, kind="pause", site=site, target=target, seconds=for_, reason=reason), as_json)


def resume(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    reason: ReasonOption = "",
) -> int:
    """End a pause. Without --site and --target, end every pause."""
    return _end("pause", "resume", as_json, config, site=site, target=target, reason=reason)


def approve(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    target: TargetOption = None,
    for_: Annotated[float, span_option("--for", "Approve plans for this time.")] = "10m",  # type: ignore[assignment]
    reason: ReasonOption = "",
) -> None:
    """Approve plans above `planner.approve_above` for a while."""
    _show(call("impose", config, kind="approval", target=target, seconds=for_, reason=reason), as_json)


def confirm_deletions(
    source: Annotated[str, Argument("SOURCE", "The source whose deletion guard stopped it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
    reason: ReasonOption = "",
) -> None:
    """Confirm a mass deletion so that the paused source continues."""
    _show(call("confirm_deletions", config, source=source, reason=reason), as_json)


def cancel(
    reason: ReasonOption,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    target: TargetOption = None,
    prefix: PrefixOption = None,
    everything: Annotated[bool, Option("--all", help="Every URL of every target.")] = False,
    yes: Annotated[bool, Option("--yes", help="Skip the confirmation.")] = False,
) -> int:
    """Drop what is stale without a refresh: caches keep the old copy until it expires. What was sent stays sent."""
    from listener.errors import ConfigurationError

    if not everything and site is None and target is None and prefix is None:
        raise ConfigurationError("cancel: no URLs selected", hint="give --site, --target or --prefix, or --all")
    if not yes and not (sys.stdin.isatty() and _confirmed(_question(load(config), site, target, prefix))):
        raise ConfigurationError("cancel: confirmation required", hint="pass --yes")
    found = call("cancel", config, site=site, target=target, prefix=prefix, reason=reason)
    if as_json:
        print_json(found)
    else:
        say(f"cancelled {found['cancelled']}")
        echo_under_way(found["requests_under_way"])
    return 0


def _question(settings: Settings, site: str | None, target: str | None, prefix: str | None) -> str:
    from listener.daemon.command_handlers import cancelled_places

    where = cancelled_places(settings, site=site, target=target, prefix=prefix)
    return f"Leave old copies in the caches below {', '.join(place.words for place in where)}?"


def _confirmed(question: str) -> bool:
    import typer

    return typer.confirm(question)


def _show(imposed: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json([{**one["order"], "requests_under_way": one["under_way"]} for one in imposed])
        return
    for one in imposed:
        until = one["order"]["until"]
        say(f"{one['order']['kind']}  {one['words']}  {f'until {until}' if until else 'until you end it'}")
    echo_under_way(imposed[0]["under_way"] if imposed else 0)


def _end(kind: str, command: str, as_json: bool, config: Path | None, **selected: str | None) -> int:
    found = call("end", config, kind=kind, **selected)
    count, wider = found["ended"], found["wider"]
    if as_json:
        print_json({"ended": count, "still_in_effect": [one["order"] for one in wider]})
        return 0
    say(f"ended {count} {kind}{'s' * (count > 1)}" if count else f"there is no {kind} to end")
    for one in wider:
        say(f"still in effect: {kind}  {one['words']}; to end all: cdn-listener {command}")
    return 0


def wait(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    site: SiteOption = None,
    prefix: PrefixOption = None,
    timeout: Annotated[float, span_option("--timeout", "Give up after this time.")] = "15m",  # type: ignore[assignment]
    grace: Annotated[float, span_option("--grace", "Allow this much time for recent writes to be noticed.")] = "2s",  # type: ignore[assignment]
) -> int:
    """
    Wait until everything that changed so far is fresh. Exit status 1 if it is not in time, with what is left.

    Exit status 3 if what is left waits for a person: rejected URLs, held-back deletions, a plan to approve.
    """
    began = time.monotonic()
    found = _wait(config, site, prefix, timeout, grace)
    waited = round(time.monotonic() - began, 3)
    if as_json:
        result = {"fresh": not found.status, "waited_seconds": waited, "reason": found.why}
        print_json({**result, "unsettled": found.left, "held_deletions": found.held})
    elif not found.status:
        say(f"fresh after {waited:.1f} s")
    for one in found.left if not as_json else ():
        say(f"{one['state']}  {one['needs']}  {one['example']}")
    if found.why:
        say(f"{'error' if found.status == 1 else 'waits for a person'}: {found.why}", error=True)
    return found.status


def _wait(
    config: Path | None, site: str | None, prefix: str | None, timeout_seconds: float, grace_seconds: float
) -> _Waited:
    """Wait for what we or the CDN can finish."""
    ends = time.monotonic() + timeout_seconds
    look = partial(call, "unsettled", config, site=site, prefix=prefix)
    now = look()["now"]  # by the store's clock; what is wrong is reported at once
    look = partial(look, changed_before=now + grace_seconds)
    time.sleep(min(grace_seconds, timeout_seconds))
    while True:
        found = look()
        left, held, blind = found["left"], found["held"], found["blind"]
        for_person = [one for one in left if one["waits_for"] == _PERSON]
        if len(for_person) == len(left) and not blind:
            return _Waited(left, held, _decisions(for_person, held), 3 if left or held else 0)
        if found["running"] is False:
            why = "no daemon is running, so nothing is refreshed: start cdn-listener run"
            return _Waited(left, held, why, 1)
        if time.monotonic() >= ends:
            why = blind or f"not fresh within {timeout_seconds:g} s: see cdn-listener status"
            return _Waited(left, held, why, 1)
        time.sleep(POLL_SECONDS)


_REMEDIES: Final = {
    "parked": "the CDN or a rule rejected them: see cdn-listener dead-letters",
    "unconfirmed": "the CDN did not finish them in time: see cdn-listener tasks; cdn-listener refresh sends one again",
    "deferred": "their plan is above planner.approve_above: cdn-listener approve",
}


def _decisions(left: Sequence[Mapping[str, Any]], held: Mapping[str, int]) -> str:
    """Return what a person has to decide."""
    rows = [f"{one['needs']} {one['state']}: {_REMEDIES[one['state']]}" for one in left]
    rows += [
        f"{count} deletions of source {name} are held back: bring the files back,"
        f" or cdn-listener confirm-deletions {name}"
        for name, count in held.items()
    ]
    return "; ".join(rows)
