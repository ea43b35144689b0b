"""``cdn-listener status``, ``quota`` and ``tasks``: what is stale, since when and why; what was sent; what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import (
    ConfigOption,
    JsonOption,
    VerboseOption,
    load,
    owner_of_store,
    print_json,
    print_table,
    reading,
    reason_for,
    run_async,
)
from listener.text import printable

if TYPE_CHECKING:
    from listener.settings import Settings


__all__ = ["quota", "status", "tasks"]

_NEEDS = ("pending", "deferred", "in_flight", "failed", "parked", "unconfirmed", "dead_letters")
_QUOTA = ("limit", "spent", "others", "held", "left", "resets_at")
_ORDER = ("kind", "target", "prefix", "until", "reason", "at")
ATTEMPTS_SHOWN = 5
STALE_SHOWN = 10

_TIMES = ("created_at", "sent_at", "accepted_at", "finished_at")
_ACTIONS = ("at", "action", "subject", "count", "reason")
_COLUMNS = ("id", "state", "kind", "url", "task_id", "looks", "tries", "created_at", "reason", "error")


def status(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    url: Annotated[str | None, typer.Option("--url", help="Show everything known about this URL.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Show what is stale, since when and why. Works with and without a running daemon."""
    found = run_async(_read(config, url))
    if as_json:
        print_json(found)
    else:
        _show(found, verbose=verbose)


async def _read(config: Any, url: str | None) -> dict[str, Any]:
    from listener.daemon.status import plain_stale, plain_suppressed, stale_of, status_of
    from listener.plugins import load_targets
    from listener.router.routing import normal_or_refused

    settings = load(config)
    asked = None if url is None else normal_or_refused(url)
    async with reading(settings) as store:
        targets, now, owner = load_targets(settings), time.time(), owner_of_store(settings)
        found = await status_of(store, settings, targets, now=now, owner=owner)
        if asked is not None:
            stale = [] if store is None else await stale_of(store, targets, now, owner, url=asked)
            needs = [plain_stale(one) for one in stale]
            attempts = [] if store is None else await store.history(limit=ATTEMPTS_SHOWN, url=asked)
            problem = _not_served(settings, asked)
            found["url"] = {
                "url": asked,
                "stale": any(need["scope"] != "prefetch" for need in needs),
                "problem": problem,
                "needs": needs,
                "attempts": attempts,
                "suppressed": None if store is None else plain_suppressed(await store.suppressed(asked)),
            }
    return found


def _not_served(settings: Settings, url: str) -> str:
    """Return why no change can make this URL stale; empty where a site serves it."""
    from listener.errors import ConfigurationError
    from listener.router.routing import served_by

    try:
        served_by(settings.sites, url)
    except ConfigurationError as error:
        return f"{error}. {error.hint}"
    return ""


def _show(found: Mapping[str, Any], *, verbose: bool) -> None:
    from listener.daemon.status import quota_as_text

    typer.echo(f"daemon: {_running(found)}")
    typer.echo("  ".join(f"{name} {found[name]}" for name in _NEEDS))
    typer.echo(f"oldest unsettled change: {found['oldest_unsettled_seconds']:.0f} s")
    _show_problems(found["problems"])
    _show_stale(found["stale"], verbose=verbose)
    typer.echo("")
    print_table(
        ("target", "kind", *(name.replace("_", " ") for name in _QUOTA)),
        [
            (target, kind, *(quota_as_text(figures)[name] for name in _QUOTA))
            for target, kinds in found["quota"].items()
            for kind, figures in kinds.items()
        ],
    )
    _show_outlook(found)
    typer.echo("")
    columns = ("state", "last_event_at", "lost_events", "rescans", "detail")
    print_table(
        ("source", "state", "last event", "lost", "rescans", "detail"),
        [(name, *(source[column] for column in columns)) for name, source in found["sources"].items()],
    )
    for name, source in found["sources"].items():
        if ignored := int(source["figures"].get("ignored_paths", 0)):
            typer.echo(f"source {name}: {ignored} paths ignored; list them: cdn-listener check --ignored")
    if found["orders"]:
        typer.echo("")
        print_table(_ORDER, [[order[column] for column in _ORDER] for order in found["orders"]])
    if "url" in found:
        _show_url(found["url"], verbose=verbose)


def _show_problems(problems: Sequence[Mapping[str, Any]]) -> None:
    """Print what is wrong, since when, and what to do."""
    for one in problems:
        since = f", since {one['since']}" if one["since"] else ""
        typer.echo(printable(f"problem: {one['what']}{since}"))
        typer.echo(printable(f"  remedy: {one['remedy']}"))


def _show_stale(stale: Sequence[Mapping[str, Any]], *, verbose: bool) -> None:
    if stale:
        typer.echo("stale, oldest first:")
    for one in stale[:STALE_SHOWN]:
        typer.echo(printable(f"  {one['url']}: {_stale_words(one, verbose=verbose)}"))
    if len(stale) > STALE_SHOWN:
        typer.echo("  more: cdn-listener status --json")


def _stale_words(one: Mapping[str, Any], *, verbose: bool) -> str:
    parts = [one["state"] if one["scope"] == "exact" else f"{one['state']} ({one['scope']})", f"since {one['since']}"]
    if one["reason"]:
        parts.append(reason_for(one["reason"], verbose=verbose).rstrip("."))
    if one["next_at"]:
        parts.append(f"next step at {one['next_at']}")
    return "; ".join(parts)


def _running(found: Mapping[str, Any]) -> str:
    if found["running"] is None:
        return f"unknown: {found['running_reason']}"
    if not found["running"]:
        return "not running"
    return "running" if found["pid"] is None else f"running, process {found['pid']}"


def _show_outlook(found: Mapping[str, Any]) -> None:
    """Print which quota runs out before its reset, and which backlog does not drain."""
    for account, kinds in found["forecasts"].items():
        for kind, ahead in kinds.items():
            if ahead["lasts_until"] is not None:
                used_up = ahead["lasts_until"] <= found["at"]
                until = "is used up until its reset" if used_up else f"lasts until {ahead['lasts_until']} at this rate"
                typer.echo(f"account {account}: the {kind} quota {until}; {ahead['per_hour']:.1f} an hour so far")
    for account, waits in found["backlog"].items():
        if waits["offer"] or not waits["drains"]:
            _show_backlog(account, waits)


def _show_backlog(account: str, waits: Mapping[str, Any]) -> None:
    drains = f"would take {waits['days']:.1f} days as URLs" if waits["drains"] else "cannot drain at this quota"
    typer.echo(f"account {account}: {waits['needs']} due {drains}")
    for offer in waits["offer"]:
        evicts = offer["collateral"] if offer["collateral_known"] else "an unknown number of"
        typer.echo(f"  cdn-listener refresh --directory {offer['url']}")
        typer.echo(f"    would cover {offer['covers']} and evict {evicts} unchanged objects")


def _show_url(found: Mapping[str, Any], *, verbose: bool) -> None:
    typer.echo(f"\n{found['url']}: {'stale' if found['stale'] else 'nothing is known to be stale'}")
    if found["problem"]:
        typer.echo(f"  {found['problem']}")
    for need in found["needs"]:
        below = "" if need["url"] == found["url"] else f" with {need['url']}"
        typer.echo(printable(f"  {need['target']}: {_stale_words(need, verbose=verbose)}{below}"))
    for attempt in found["attempts"]:
        typer.echo(
            f"  attempt {attempt['id']}: {attempt['kind']} {attempt['state']} {attempt['task_id'] or ''}"
            f" {reason_for(attempt['reason'], verbose=verbose)} {attempt['error']}".rstrip()
        )
    if found["suppressed"]:
        changes = found["suppressed"]
        count = f"{changes['times']} change{'s' if changes['times'] > 1 else ''}"
        typer.echo(f"  {count} made no refresh, the last at {changes['at']}: {changes['reason']}")


def quota(config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Show today's quota: our ledger and what the CDN reports. Exit status 1 if the CDN cannot be reached."""
    from listener.daemon.status import quota_as_text

    found, errors = run_async(_read_quota(config))
    if as_json:
        print_json({"quota": found, "errors": errors})
    else:
        print_table(
            ("target", "kind", "limit", "spent", "held", "left", "live limit", "live left", "resets at"),
            [
                (
                    target,
                    kind,
                    *(quota_as_text(row)[name] for name in ("limit", "spent", "held", "left")),
                    *_live(row),
                    row["resets_at"],
                )
                for target, kinds in found.items()
                for kind, row in kinds.items()
            ],
        )
    for target, error in errors.items():
        typer.echo(f"error: {target}: {error}", err=True)
    return 1 if errors else 0


def _live(row: dict[str, Any]) -> tuple[object, object]:
    live = row["live"]
    return (live["limit"], live["remaining"]) if live else ("", "")


async def _read_quota(config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    from listener.daemon.status import quota_of
    from listener.errors import TargetError
    from listener.plugins import load_targets

    settings = load(config)
    targets = load_targets(settings)
    errors: dict[str, str] = {}
    async with reading(settings) as store, AsyncExitStack() as opened:
        for target in targets.values():
            opened.push_async_callback(target.close)
        found = await quota_of(store, targets, now=time.time())
        for name, target in targets.items():
            try:
                live = await target.read_quota()
            except TargetError as error:
                live = {}
                errors[name] = f"{error} {error.hint}".strip()
            for kind, row in found[name].items():
                reported = next((reading for known, reading in live.items() if known.value == kind), None)
                row["live"] = None if reported is None else reported._asdict()
                if reported is not None:  # the daemon corrects the ledger by it within minutes
                    row["left"] = min(row["left"], max(0, reported.remaining - row["held"]))
    return found, errors


def tasks(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most this many, newest first.")] = 50,
    url: Annotated[str | None, typer.Option("--url", help="Only those of exactly this URL.")] = None,
    manual: Annotated[
        bool,
        typer.Option("--manual", help="List what operators held, paused, approved or cancelled instead."),
    ] = False,
    old_manual: Annotated[bool, typer.Option("--by-hand", hidden=True)] = False,
    verbose: VerboseOption = False,
) -> None:
    """List requests to the CDN, newest first: why each was sent, and its outcome."""
    manual = manual or old_manual
    columns, none = (_ACTIONS, "no manual actions yet") if manual else (_COLUMNS, "nothing was sent to any CDN yet")
    found = run_async(_actions(config, limit) if manual else _attempts(config, limit, url))
    if as_json:
        print_json(found)
    elif found:
        rows = [{**row, "reason": reason_for(row["reason"], verbose=verbose)} for row in found]
        print_table(columns, [[row[column] for column in columns] for row in rows])
    else:
        typer.echo(none)


async def _actions(config: Any, limit: int) -> list[dict[str, Any]]:
    from listener.daemon.status import iso
    from listener.store.controls import Controls

    async with reading(load(config)) as store:
        rows = [] if store is None else await Controls(store).audit(limit=limit)
    return [{**row, "at": iso(row["at"])} for row in rows]


async def _attempts(config: Any, limit: int, url: str | None) -> list[dict[str, Any]]:
    from listener.daemon.status import iso
    from listener.router.routing import normal_or_refused

    settings = load(config)
    normal = None if url is None else normal_or_refused(url)
    async with reading(settings) as store:
        rows = [] if store is None else await store.history(limit=limit, url=normal)
    return [{**row, **{name: iso(row[name]) for name in _TIMES}, "force": bool(row["force"])} for row in rows]
