"""What ``cdn-listener backfill`` shows: the plan, the progress, the outcome, an audit."""

from __future__ import annotations

import asyncio
import random
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from listener.cli.common import print_json, print_table, reading, senders
from listener.cli.reporting import INTERRUPTED
from listener.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from listener.backfill import BackfillPlan, Figures, Mode, Outcome, Watch
    from listener.settings import Settings
    from listener.sources.listing import Listing

__all__ = ["BackfillOptions", "audit", "audit_lines", "follow", "picture", "show_outcome", "show_plan"]

EDGE_PER_SECOND = 20.0
FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 30.0
PICTURE_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillOptions:
    """How to run it."""

    as_json: bool
    dry_run: bool
    yes: bool
    restart: bool
    wait: bool
    since: float | None
    share: float | None
    deletions: bool
    edge_samples: int


# -- plan and outcome --------------------------------------------------------------------------------


def show_plan(plan: BackfillPlan, what: str, modes: Sequence[Mode], options: BackfillOptions) -> None:
    """Print what a backfill would do, and its cost."""
    cost = plan.cost
    if plan.begun is not None:
        typer.echo(f"resuming after {plan.begun.after!r}: {plan.begun.listed} keys were recorded by an earlier run")
        if not cost.objects:
            typer.echo("  every key was listed; what is still pending is sent (--restart starts from the beginning)")
    typer.echo(f"{', '.join(modes)} of {what}: {cost.objects} keys, {cost.urls} URLs")
    for count, words in ((cost.parked, "cannot be a URL and are rejected"), (cost.unserved, "are served by no site")):
        if count:
            typer.echo(f"  {count} keys {words}")
    if options.share is not None:
        typer.echo(f"  spends at most {100 * options.share:.3g}% of each quota")
    if cost.quota_assumed:
        typer.echo(f"  the live quota could not be read, so the configured one is assumed: {cost.quota_assumed}")
    if cost.refreshes:
        spent = ", ".join(f"{count} {kind}" for kind, count in cost.refreshes.items() if count) or "nothing"
        typer.echo(f"  quota now: {spent}; unchanged objects evicted: {cost.collateral}")
    if cost.dollars:
        typer.echo(f"  costs ${cost.dollars:.2f}")
    if cost.deferred:
        days = "more than this quota ever allows" if cost.further_days is None else f"{cost.further_days} more days"
        typer.echo(f"  {cost.deferred} wait for quota: {days}")


def show_outcome(outcome: Outcome, plan: BackfillPlan, options: BackfillOptions) -> int:
    """Print what a backfill did, and return its exit status."""
    if options.as_json:
        numbers = {name: value for name, value in outcome.counts._asdict().items() if name != "oldest_stale_since"}
        sent_by = "this process" if outcome.sent_here else "nobody" if outcome.abandoned else "daemon"
        found = {name: getattr(outcome, name) for name in ("listed", "finished", "interrupted", "troubles", "stopped")}
        print_json({**found, **numbers, "sent_by": sent_by, "plan": plan.as_json()})
    else:
        _show_outcome(outcome, options)
    if outcome.interrupted:
        return INTERRUPTED
    if outcome.put_off and outcome.misconfigured:
        return 2
    return 3 if outcome.put_off else 0


def _show_outcome(outcome: Outcome, options: BackfillOptions) -> None:
    counts = outcome.counts
    typer.echo(
        f"listed {outcome.listed}; pending {counts.pending}, in flight {counts.in_flight}, rejected {counts.parked}"
    )
    if outcome.abandoned:
        typer.echo("the daemon ended, so nothing is sent: start it (`cdn-listener run`), or run this command again")
    elif not outcome.sent_here:
        typer.echo(f"{senders(outcome.instances)}; cdn-listener wait returns when they are fresh")
    if outcome.put_off:
        for trouble in outcome.troubles:
            typer.echo(f"deferred: {trouble}")
        if outcome.sent_here and counts.pending:
            typer.echo("deferred changes are kept: a daemon (`cdn-listener run`) or this command sends them later")
    if outcome.interrupted:
        typer.echo(f"interrupted; nothing is lost. Continue with: {_command(options)}", err=True)
    elif outcome.stopped:
        when = "" if outcome.abandoned else " tomorrow, or with another share,"
        typer.echo(f"stopped: {outcome.stopped}. Continue{when} with: {_command(options)}")


def _command(options: BackfillOptions) -> str:
    """Return the command that resumes this run: a span in ``--since`` becomes the moment that it meant."""
    from listener.daemon.status import iso

    kept: list[str] = []
    words = iter(sys.argv[1:])
    for word in words:
        if word == "--since":
            next(words, None)
        elif not word.startswith("--since=") and word not in ("--restart", "--anew"):
            kept.append(word)
    since = [] if options.since is None else ["--since", iso(options.since) or ""]
    return "cdn-listener " + shlex.join(kept + since)


# -- progress ----------------------------------------------------------------------------------------


async def follow(watch: Watch, *, live: bool) -> None:
    """Show the progress until cancelled: a live picture on a terminal, else a line of JSON each half minute."""
    await (_show_live(watch) if live else _log(watch))


async def _log(watch: Watch) -> None:
    from listener.telemetry import progress_logger

    progress = progress_logger()
    await asyncio.sleep(FIRST_LINE_SECONDS)
    while True:
        figures = await watch.look(now=time.monotonic())
        progress.info("backfill.progress", **figures.as_json())
        await asyncio.sleep(LINE_SECONDS)


async def _show_live(watch: Watch) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False, markup=False)
    with Live(console=console, refresh_per_second=4, transient=True) as shown:
        while True:
            shown.update(picture(await watch.look(now=time.monotonic())))
            await asyncio.sleep(PICTURE_SECONDS)


def picture(figures: Figures) -> RenderableType:
    """Return what a terminal shows at one moment."""
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    goal = max(figures.planned, 1)
    for word, count, of in (
        ("listed", figures.listed, figures.total),
        ("planned", figures.planned, None),
        ("sent", figures.sent, None),
        ("done", figures.done, goal),
    ):
        bar = ProgressBar(total=max(of, 1), completed=min(count, of)) if of is not None else ""
        table.add_row(word, bar, f"{count:,}" if of is None else f"{count:,} of {of:,}")
    left = "  ".join(f"{name} {units:,}" for name, units in figures.quota_left.items()) or "unlimited"
    table.add_row("quota left", left, "")
    rate = f"{figures.per_second:,.1f} URLs a second"
    table.add_row("rate", rate, f"{_span(figures.seconds_left)} left")
    return Panel(table, title="backfill", subtitle=f"{figures.waiting:,} waiting", width=78)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


# -- audit -------------------------------------------------------------------------------------------


async def audit(settings: Settings, listing: Listing, *, as_json: bool, edge_samples: int) -> int:
    """Compare the listing with the index, and with the edge where ``edge_samples`` is set; change nothing."""
    from listener.backfill import ask_edge
    from listener.backfill import audit as compared
    from listener.clock import SystemClock
    from listener.edge.prober import Prober
    from listener.router.routing import Sites

    async with reading(settings) as store:
        report: dict[str, Any] = (await compared(listing, store)).as_json()
    if edge_samples:
        bases = [base for site in settings.sites for base in site.base_urls]
        edge = await ask_edge(
            listing,
            Sites(settings.sites),
            Prober(sites=bases, per_minute=60 * EDGE_PER_SECOND, clock=SystemClock()),
            count=edge_samples,
            chance=random.Random(),  # noqa: S311 - no secret
        )
        report["edge"] = edge.as_json()
    if as_json or not sys.stdout.isatty():
        print_json(report)
    else:
        _show_audit(report)
    return 0


def _show_audit(report: Mapping[str, Any]) -> None:
    for line in audit_lines(report):
        typer.echo(line)
    if report.get("edge", {}).get("examples"):
        examples = report["edge"]["examples"]
        print_table(("URL", "state", "reason"), [(one["url"], one["state"], one["reason"]) for one in examples])


def audit_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an audit found (in the form of its JSON) as lines of text, and what to do about it."""
    differ = report["changed"] + report["unknown"] + report["gone"]
    yield f"listed {report['same'] + report['changed'] + report['unknown']}; unchanged: {report['same']}"
    yield f"  changed {report['changed']}, not in the index {report['unknown']}, gone {report['gone']}"
    yield from (f"  {printable(key)}" for key in report["examples"])
    if differ:
        yield "refresh what differs: cdn-listener backfill --mode repair"
    if (edge := report.get("edge")) is not None:
        yield (
            f"fetched {edge['asked']} of {edge['listed']} from the edge:"
            f" fresh {edge['fresh']}, stale {edge['stale']}, unknown {edge['unknown']}"
        )
