"""How far a backfill is: one picture that stays in its place on a terminal, now and then a line of JSON elsewhere."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from listener.backfill import Figures, Watch

__all__ = ["follow", "picture"]

LINE_SECONDS = 2.0
PICTURE_SECONDS = 0.25


async def follow(watch: Watch, *, live: bool) -> None:
    """Show how far it is, for ever."""
    await (_show(watch) if live else _log(watch))


async def _log(watch: Watch) -> None:
    import structlog

    while True:
        await asyncio.sleep(LINE_SECONDS)
        figures = await watch.look(now=time.monotonic())
        structlog.get_logger().warning("backfill.progress", **figures.as_json())


async def _show(watch: Watch) -> None:
    from rich.live import Live

    from listener.cli.common import console

    with Live(console=console(stderr=True), refresh_per_second=4, transient=True) as shown:
        while True:
            shown.update(picture(await watch.look(now=time.monotonic())))
            await asyncio.sleep(PICTURE_SECONDS)


def picture(figures: Figures) -> RenderableType:
    """Return what a terminal shows of one moment."""
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
    left = "  ".join(f"{kind} {count:,}" for kind, count in figures.quota_left.items())
    table.add_row("quota left", left, "")
    rate = f"{figures.per_second:,.1f} URLs a second"
    table.add_row("rate", rate, f"{_span(figures.seconds_left)} left")
    return Panel(table, title="backfill", subtitle=f"{figures.waiting:,} wait for their turn", width=78)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
