"""``cdn-listener backfill``: one shot over everything that a source holds, or a list of keys."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import ConfigOption, JsonOption, console, load, print_json, reading, run_async
from listener.cli.places import SiteOption, choose_site
from listener.cli.plan import read_lines

if TYPE_CHECKING:
    from listener.backfill import Backfill, BackfillPlan, Listing, ListingSource, Mode, Outcome
    from listener.settings import Settings

__all__ = ["backfill"]

INTERRUPTED = 130
PROGRESS_SECONDS = 2.0


def backfill(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Which source to list; may be left out.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Keys, one a line; - is stdin.")
    ] = None,
    site: SiteOption = None,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that start so.")] = "",
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="Only files changed since: 2026-01-31T08:00Z, 36h, 7d."),
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODES", help="refresh, prefetch, both with a comma; seed or audit alone.")
    ] = "refresh",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="From the beginning, though an earlier run was interrupted.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until the CDN says that everything is done.")] = False,
) -> int:
    """List a source or keys, tell what it would take, then refresh (or prefetch, seed, audit); resumable."""
    from listener.backfill import choose_listing, choose_source, parse_modes, parse_moment

    settings = load(config)
    modes = parse_modes(mode)
    since_at = None if since is None else parse_moment(since, now=time.time())
    name = choose_source(settings, source) or choose_site(settings, site).source
    lines = None if from_file is None else read_lines(from_file)
    listing = choose_listing(settings, name, lines=lines, prefix=prefix, since=since_at)
    ways = _Ways(as_json=as_json, dry_run=dry_run, yes=yes, anew=anew, wait=wait, since=since_at)
    return run_async(_run(settings, listing, modes, ways))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """How to go about it."""

    as_json: bool
    dry_run: bool
    yes: bool
    anew: bool
    wait: bool
    since: float | None


async def _run(settings: Settings, listing: Listing, modes: list[Mode], ways: _Ways) -> int:
    from listener.backfill import Backfill, Mode, audit, opened
    from listener.plugins import load_targets

    if modes == [Mode.AUDIT]:
        async with reading(settings) as store:
            found = (await audit(listing, store)).as_json()
        print_json(found)
        return 0
    targets = load_targets(settings)
    job = Backfill(settings, targets, listing, modes)
    async with reading(settings) as store:
        plan = await job.plan(store, now=time.time(), anew=ways.anew)
    if ways.as_json and ways.dry_run:
        print_json({"what": listing.what, "dry_run": True, **plan.as_json()})
    elif not ways.as_json:
        _show_plan(plan, listing.what, modes)
    if ways.dry_run:
        return 0
    _confirm(ways)
    async with opened(settings, targets) as store:
        outcome = await _watched(job, store, plan, ways)
    return _tell(outcome, plan, ways)


async def _watched(job: Backfill, store: Any, plan: BackfillPlan, ways: _Ways) -> Outcome:
    """Run it beside a line on how far it is."""
    watching: list[asyncio.Task[None]] = []

    def watch(source: ListingSource) -> None:
        watching.append(asyncio.get_running_loop().create_task(_progress(source, store, plan, ways), name="progress"))

    try:
        return await job.run(store, plan.begun, follow=ways.wait, watch=watch)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def _progress(source: ListingSource, store: Any, plan: BackfillPlan, ways: _Ways) -> None:
    """Tell how far it is, for ever: a live line on a terminal, now and then an event in the log elsewhere."""
    import structlog
    from rich.live import Live

    total = plan.cost.objects + (plan.begun.listed if plan.begun else 0)
    if not sys.stderr.isatty() or ways.as_json:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            counts = await store.counts()
            structlog.get_logger().warning(
                "backfill.progress",
                listed=source.listed,
                total=total,
                pending=counts.pending,
                in_flight=counts.in_flight,
            )
    with Live(console=console(stderr=True), refresh_per_second=4, transient=True) as live:
        while True:
            counts = await store.counts()
            live.update(f"listed {source.listed} of {total}  to send {counts.pending}  in flight {counts.in_flight}")
            await asyncio.sleep(0.25)


def _tell(outcome: Outcome, plan: BackfillPlan, ways: _Ways) -> int:
    status = INTERRUPTED if outcome.interrupted else 3 if outcome.put_off else 0
    if ways.as_json:
        numbers = {name: value for name, value in outcome.counts._asdict().items() if name != "oldest_stale_since"}
        sent_by = "this process" if outcome.sent_here else "daemon"
        told = {name: getattr(outcome, name) for name in ("listed", "finished", "interrupted", "troubles")}
        print_json({**told, **numbers, "sent_by": sent_by, "plan": plan.as_json()})
    else:
        _tell_people(outcome, ways)
    return status


def _tell_people(outcome: Outcome, ways: _Ways) -> None:
    counts = outcome.counts
    typer.echo(
        f"listed {outcome.listed}; to send {counts.pending}, in flight {counts.in_flight}, parked {counts.parked}"
    )
    if not outcome.sent_here:
        typer.echo("a daemon owns the state file and sends them")
    if outcome.put_off:
        for trouble in outcome.troubles:
            typer.echo(f"deferred: {trouble}")
        typer.echo("what was deferred is kept: a daemon (`cdn-listener run`), or this command again, sends it")
    if outcome.interrupted:
        since = [] if ways.since is None else ["--since", _iso(ways.since)]
        again = shlex.join(_without_since(sys.argv[1:]) + since)
        typer.echo(f"interrupted; nothing is lost. Go on with: cdn-listener {again}", err=True)


def _without_since(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--since":
            next(words, None)
        elif not word.startswith("--since="):
            kept.append(word)
    return kept


def _show_plan(plan: BackfillPlan, what: str, modes: list[Mode]) -> None:
    cost = plan.cost
    if plan.begun is not None:
        typer.echo(f"goes on after {plan.begun.after!r}: {plan.begun.listed} keys of an earlier run are durable")
    typer.echo(f"{', '.join(modes)} of {what}: {cost.objects} keys, {cost.urls} URLs")
    for word, count in (("can never be a URL and are parked", cost.parked), ("no site serves", cost.unserved)):
        if count:
            typer.echo(f"  {count} keys {word}")
    if cost.refreshes:
        spent = ", ".join(f"{count} {kind}" for kind, count in cost.refreshes.items() if count) or "nothing"
        typer.echo(f"  quota now: {spent}; unchanged objects evicted: {cost.collateral}")
    if cost.deferred:
        days = "never, at the present quota" if cost.further_days is None else f"in {cost.further_days} further days"
        typer.echo(f"  {cost.deferred} wait for quota: {days}")


def _confirm(ways: _Ways) -> None:
    from listener.errors import ConfigurationError

    if ways.yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or ways.as_json:
        raise ConfigurationError("backfill: nobody is here to confirm it", hint="look with --dry-run, then add --yes")
    typer.confirm("Go on?", abort=True)


def _iso(moment: float) -> str:
    from listener.daemon import iso

    return iso(moment) or ""
