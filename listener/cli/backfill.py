"""``cdn-listener backfill``: one shot over everything that a source holds, or a list of keys."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.common import ConfigOption, JsonOption, load, owner_of_store, print_json, reading, run_async
from listener.cli.places import NullOption, SiteOption, choose_site

if TYPE_CHECKING:
    from listener.backfill import Backfill, BackfillPlan, Feed, Mode, Outcome, RepairFeed
    from listener.contracts import Target
    from listener.settings import Settings
    from listener.sources.listing import Listing

__all__ = ["backfill"]

INTERRUPTED = 130
SHARE_BESIDE_DAEMON = 0.5


def backfill(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Which source to list; may be left out.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Keys or URLs, one a line, - is stdin; an inventory's manifest.json, on disk or s3://…; or s3://bucket/.",
        ),
    ] = None,
    null: NullOption = False,
    site: SiteOption = None,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that start so.")] = "",
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only keys that match one; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No keys that match one; repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="Only what changed since: 2026-01-31T08:00Z, 36h, 7d."),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode", metavar="MODES", help="refresh, prefetch, both with a comma; seed, audit or repair alone."
        ),
    ] = "refresh",
    popularity: Annotated[
        Path | None,
        typer.Option("--popularity", metavar="FILE", help="Prefetch the most wanted first: weights, or an access log."),
    ] = None,
    quota_share: Annotated[
        float | None,
        typer.Option(
            "--quota-share",
            min=0.0,
            max=1.0,
            help="At most this part of each day's quota; by default all, beside a daemon half.",
        ),
    ] = None,
    edge: Annotated[bool, typer.Option("--edge", help="With --mode audit: ask the edge for some URLs.")] = False,
    edge_samples: Annotated[int, typer.Option("--edge-samples", min=1, help="For how many objects.")] = 200,
    deletions: Annotated[
        bool, typer.Option("--deletions", help="With --mode repair: however many keys are gone, they are deleted.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="From the beginning, though an earlier run was interrupted.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until the CDN says that everything is done.")] = False,
) -> int:
    """List a source or keys, tell what it would take, then refresh (or prefetch, seed, audit, repair); resumable."""
    from listener.backfill import Choice, choose_listing, choose_source, parse_modes, parse_moment, read_entries
    from listener.sources.listing import is_manifest
    from listener.sources.listing.places import is_bucket

    settings = load(config)
    modes = parse_modes(mode)
    _check(modes, popularity=popularity is not None, edge=edge, deletions=deletions)
    since_at = None if since is None else parse_moment(since, now=time.time())
    name = choose_source(settings, source) or choose_site(settings, site).source
    elsewhere = from_ is not None and (is_bucket(from_) or is_manifest(from_))
    choice = Choice(
        origin=from_ if elsewhere and from_ is not None else "",
        lines=None if from_ is None or elsewhere else read_entries(Path(from_), null=null),
        lines_name=f"--from {from_}",
        null=null,
        prefix=prefix,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        since=since_at,
    )
    ways = _Ways(
        as_json=as_json,
        dry_run=dry_run,
        yes=yes,
        anew=anew,
        wait=wait,
        since=since_at,
        share=_share(settings, quota_share, ordered=popularity is not None),
        deletions=deletions,
        edge_samples=edge_samples if edge else 0,
    )
    with ExitStack() as opened:
        listing = opened.enter_context(closing(choose_listing(settings, name, choice)))
        if popularity is not None:
            listing = opened.enter_context(closing(_wanted_first(listing, popularity, settings, name)))
        return run_async(_run(settings, listing, modes, ways))


def _share(settings: Settings, given: float | None, *, ordered: bool) -> float | None:
    """Return the part of each day's quota that it may have, None where everything may be asked for at once."""
    if given is None:
        given = 1.0 if owner_of_store(settings).is_running is False else SHARE_BESIDE_DAEMON
    # In the order of what is wanted only so much is asked for as today pays for: the CDN's queue has its own order.
    return given if given < 1.0 or ordered else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """How to go about it."""

    as_json: bool
    dry_run: bool
    yes: bool
    anew: bool
    wait: bool
    since: float | None
    share: float | None
    deletions: bool
    edge_samples: int


def _check(modes: list[Mode], *, popularity: bool, edge: bool, deletions: bool) -> None:
    from listener.backfill import Mode
    from listener.errors import ConfigurationError

    for given, option, only in (
        (popularity, "--popularity", Mode.PREFETCH),
        (edge, "--edge", Mode.AUDIT),
        (deletions, "--deletions", Mode.REPAIR),
    ):
        if given and modes != [only]:
            raise ConfigurationError(f"{option}: goes with --mode {only.value}", hint=f"add --mode {only.value}")


def _wanted_first(listing: Listing, popularity: Path, settings: Settings, name: str) -> Listing:
    from listener.backfill import WantedListing, read_entries, read_popularity

    sites = [site for site in settings.sites if site.source == name]
    return WantedListing(listing, read_popularity(read_entries(popularity), sites))


async def _run(settings: Settings, listing: Listing, modes: list[Mode], ways: _Ways) -> int:
    from listener.backfill import Backfill, Mode, opened
    from listener.plugins import load_targets

    if modes == [Mode.AUDIT]:
        from listener.cli.backfill_audit import audit

        return await audit(settings, listing, as_json=ways.as_json, edge_samples=ways.edge_samples)
    targets = load_targets(settings)
    job = Backfill(settings, targets, listing, modes, share=ways.share, deletions=ways.deletions)
    async with reading(settings) as store:
        plan = await job.plan(store, now=time.time(), anew=ways.anew)
    if ways.as_json and ways.dry_run:
        print_json({"what": listing.what, "dry_run": True, "quota_share": ways.share, **plan.as_json()})
    elif not ways.as_json:
        _show_plan(plan, listing.what, modes, ways)
    if ways.dry_run:
        return 0
    _confirm(ways)
    async with opened(settings, targets) as store:
        outcome = await _watched(job, store, plan, targets, ways)
    return _tell(outcome, plan, ways)


async def _watched(job: Backfill, store: Any, plan: BackfillPlan, targets: dict[str, Target], ways: _Ways) -> Outcome:
    """Run it beside the display."""
    from listener.backfill import Watch
    from listener.cli.backfill_display import follow

    watching: list[asyncio.Task[None]] = []

    def watch(feed: Feed | RepairFeed) -> None:
        look = Watch(feed, store, plan, targets)
        watching.append(asyncio.get_running_loop().create_task(follow(look, live=_live(ways)), name="progress"))

    try:
        return await job.run(store, plan, follow=ways.wait, watch=watch)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


def _live(ways: _Ways) -> bool:
    return sys.stderr.isatty() and not ways.as_json


def _tell(outcome: Outcome, plan: BackfillPlan, ways: _Ways) -> int:
    status = INTERRUPTED if outcome.interrupted else 3 if outcome.put_off else 0
    if ways.as_json:
        numbers = {name: value for name, value in outcome.counts._asdict().items() if name != "oldest_stale_since"}
        sent_by = "this process" if outcome.sent_here else "nobody" if outcome.abandoned else "daemon"
        told = {name: getattr(outcome, name) for name in ("listed", "finished", "interrupted", "troubles", "stopped")}
        print_json({**told, **numbers, "sent_by": sent_by, "plan": plan.as_json()})
    else:
        _tell_people(outcome, ways)
    return status


def _tell_people(outcome: Outcome, ways: _Ways) -> None:
    counts = outcome.counts
    typer.echo(
        f"listed {outcome.listed}; to send {counts.pending}, in flight {counts.in_flight}, parked {counts.parked}"
    )
    if outcome.abandoned:
        typer.echo("the daemon is gone: nobody sends what waits. Start it (`cdn-listener run`), or run this again")
    elif not outcome.sent_here:
        typer.echo("a daemon owns the state file and sends them")
    if outcome.put_off:
        for trouble in outcome.troubles:
            typer.echo(f"deferred: {trouble}")
        if outcome.sent_here and counts.pending:
            typer.echo("what was deferred is kept: a daemon (`cdn-listener run`), or this command again, sends it")
    if outcome.interrupted:
        typer.echo(f"interrupted; nothing is lost. Go on with: {_again(ways)}", err=True)
    elif outcome.stopped:
        when = "" if outcome.abandoned else ", tomorrow or with another share,"
        typer.echo(f"stopped: {outcome.stopped}. Go on{when} with: {_again(ways)}")


def _again(ways: _Ways) -> str:
    since = [] if ways.since is None else ["--since", _iso(ways.since)]
    kept = [word for word in _without_since(sys.argv[1:]) if word != "--anew"]
    return "cdn-listener " + shlex.join(kept + since)


def _without_since(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--since":
            next(words, None)
        elif not word.startswith("--since="):
            kept.append(word)
    return kept


def _show_plan(plan: BackfillPlan, what: str, modes: list[Mode], ways: _Ways) -> None:
    cost = plan.cost
    if plan.begun is not None:
        typer.echo(f"goes on after {plan.begun.after!r}: {plan.begun.listed} keys of an earlier run are durable")
        if not cost.objects:
            typer.echo("  all of them were listed; what of them waits still is sent (--anew begins from the beginning)")
    typer.echo(f"{', '.join(modes)} of {what}: {cost.objects} keys, {cost.urls} URLs")
    for word, count in (("can never be a URL and are parked", cost.parked), ("no site serves", cost.unserved)):
        if count:
            typer.echo(f"  {count} keys {word}")
    if ways.share is not None:
        typer.echo(f"  of each day's quota at most {100 * ways.share:.3g}%")
    if cost.quota_assumed:
        typer.echo(f"  the quota is assumed, the live one could not be read: {cost.quota_assumed}")
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
    from listener.daemon.status import iso

    return iso(moment) or ""
