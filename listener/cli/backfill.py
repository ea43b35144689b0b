"""``cdn-listener backfill``: one run over everything that a source holds, or over a list of keys."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from listener.cli.backfill_output import BackfillOptions, show_outcome, show_plan
from listener.cli.common import load, owner_of_store, print_json, reading, run_async
from listener.cli.options import ConfigOption, JsonOption, NullOption, SiteOption

if TYPE_CHECKING:
    from listener.backfill import Backfill, BackfillPlan, Feed, Mode, Outcome, RepairFeed
    from listener.contracts import Target
    from listener.settings import Settings
    from listener.sources.listing import Listing

__all__ = ["backfill"]

SHARE_WITH_DAEMON = 0.5
"""The part of each allowance that a backfill may spend while a daemon runs, unless ``--quota-share`` sets it."""


def backfill(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="The source to list; optional if there is only one.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Keys or URLs, one a line (- reads stdin); an inventory's manifest.json, local or s3://…; or s3://bucket/.",
        ),
    ] = None,
    null: NullOption = False,
    site: SiteOption = None,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that start with this.")] = "",
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only keys that match; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave out keys that match; repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="Only what changed since then: 2026-01-31T08:00Z, 36h, 7d."),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode", metavar="MODES", help="refresh, prefetch or refresh,prefetch; or one of seed, audit, repair."
        ),
    ] = "refresh",
    popularity: Annotated[
        Path | None,
        typer.Option(
            "--popularity",
            metavar="FILE",
            help="Prefetch the most requested first: a file of weights, or an access log.",
        ),
    ] = None,
    quota_share: Annotated[
        float | None,
        typer.Option(
            "--quota-share",
            min=0.0,
            max=1.0,
            help="Spend at most this part of each quota, until its reset. Default: 1, or 0.5 while a daemon runs.",
        ),
    ] = None,
    edge: Annotated[
        bool, typer.Option("--edge", help="With --mode audit: also fetch some URLs from the edge.")
    ] = False,
    edge_samples: Annotated[
        int, typer.Option("--edge-samples", min=1, help="How many objects to fetch from the edge.")
    ] = 200,
    deletions: Annotated[
        bool,
        typer.Option(
            "--deletions",
            help="With --mode repair: confirm mass deletions; keys that are missing are treated as deleted.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost; send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Start from the beginning instead of resuming an interrupted run."),
    ] = False,
    old_restart: Annotated[bool, typer.Option("--anew", hidden=True)] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Wait until the CDN reports completion. Without effect while a daemon runs: use `wait`."
        ),
    ] = False,
) -> int:
    """List a source or keys, show the cost, then refresh (or prefetch, seed, audit, repair). Resumable."""
    from listener.backfill import Choice, choose_listing, choose_source, parse_modes, parse_moment, read_entries
    from listener.daemon.selection import choose_site
    from listener.sources.listing import is_manifest
    from listener.sources.listing.settings import is_bucket

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
    options = BackfillOptions(
        as_json=as_json,
        dry_run=dry_run,
        yes=yes,
        restart=restart or old_restart,
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
        return run_async(_run(settings, listing, modes, options))


def _share(settings: Settings, given: float | None, *, ordered: bool) -> float | None:
    """Return the part of each allowance that it may spend; None where everything may be requested at once."""
    if given is None:
        given = 1.0 if owner_of_store(settings).is_running is False else SHARE_WITH_DAEMON
    # To keep the order of popularity, request only what today's quota covers: the CDN's queue has an order of its own.
    return given if given < 1.0 or ordered else None


def _check(modes: list[Mode], *, popularity: bool, edge: bool, deletions: bool) -> None:
    from listener.backfill import Mode
    from listener.errors import ConfigurationError

    for given, option, only in (
        (popularity, "--popularity", Mode.PREFETCH),
        (edge, "--edge", Mode.AUDIT),
        (deletions, "--deletions", Mode.REPAIR),
    ):
        if given and modes != [only]:
            raise ConfigurationError(f"{option}: only with --mode {only.value}", hint=f"add --mode {only.value}")


def _wanted_first(listing: Listing, popularity: Path, settings: Settings, name: str) -> Listing:
    from listener.backfill import WantedListing, read_entries, read_popularity

    sites = [site for site in settings.sites if site.source == name]
    return WantedListing(listing, read_popularity(read_entries(popularity), sites))


async def _run(settings: Settings, listing: Listing, modes: list[Mode], options: BackfillOptions) -> int:
    from listener.backfill import Backfill, Mode, opened
    from listener.plugins import load_targets
    from listener.store.access import time_of

    if modes == [Mode.AUDIT]:
        from listener.cli.backfill_output import audit

        return await audit(settings, listing, as_json=options.as_json, edge_samples=options.edge_samples)
    targets = load_targets(settings)
    job = Backfill(settings, targets, listing, modes, share=options.share)
    if not options.dry_run and modes != [Mode.SEED] and owner_of_store(settings).is_running is False:
        await job.require_usable()  # before anything is listed; a daemon that runs has credentials of its own
    async with reading(settings) as store:
        plan = await job.plan(store, now=time_of(store), restart=options.restart)
    if options.as_json and options.dry_run:
        print_json({"what": listing.what, "dry_run": True, "quota_share": options.share, **plan.as_json()})
    elif not options.as_json:
        show_plan(plan, listing.what, modes, options)
    if options.dry_run:
        return 0
    _confirm(options)
    async with opened(settings, targets) as store:
        outcome = await _watched(job, store, plan, targets, options)
    return show_outcome(outcome, plan, options)


async def _watched(
    job: Backfill, store: Any, plan: BackfillPlan, targets: dict[str, Target], options: BackfillOptions
) -> Outcome:
    """Run it while the progress is shown."""
    from listener.backfill import Watch
    from listener.cli.backfill_output import follow

    watching: list[asyncio.Task[None]] = []

    def watch(feed: Feed | RepairFeed) -> None:
        progress = follow(Watch(feed, store, plan, targets), live=sys.stderr.isatty() and not options.as_json)
        watching.append(asyncio.get_running_loop().create_task(progress, name="progress"))

    try:
        return await job.run(store, plan, follow=options.wait, deletions=options.deletions, watch=watch)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


def _confirm(options: BackfillOptions) -> None:
    from listener.errors import ConfigurationError

    if options.yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or options.as_json:
        raise ConfigurationError("backfill: stdin is not a terminal", hint="look with --dry-run, then pass --yes")
    typer.confirm("Continue?", abort=True)
