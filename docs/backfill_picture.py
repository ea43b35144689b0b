"""
Makes ``images/backfill.svg``: a backfill as a terminal shows it, against the emulator, with the figures of that run.

    python docs/backfill_picture.py
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from listener.alibaba.signature import Credentials
from listener.backfill import Backfill, BackfillPlan, Figures, Mode, Watch, opened
from listener.cli.backfill_output import picture
from listener.emulator import Emulator, EmulatorSettings, parse_fault, parse_quota
from listener.plugins import load_targets
from listener.settings import Settings, load_settings
from listener.sources.filesystem import FilesystemSettings
from listener.sources.listing import TreeListing
from listener.telemetry import configure_logging

FILES = 1_800
HERE = Path(__file__).parent


async def run(home: Path) -> tuple[BackfillPlan, Figures]:
    """Refresh a tree against an emulator that takes its time; return the plan, and the figures half-way."""
    for number in range(FILES):
        file = home / "www" / f"{number % 40:02}" / f"{number:04}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    made = EmulatorSettings(
        origin=str(home / "www"),
        credentials=Credentials("id", "secret"),
        api_port=0,
        edge_port=0,
        task_seconds=0.2,
        quota=parse_quota("2000,0"),
    )
    async with Emulator(made) as emulator:
        emulator.faults.order(parse_fault("slow:0.5,action=RefreshObjectCaches"), emulator.clock.now())
        settings = configure(home, emulator)
        return await halfway(settings, TreeListing("www", FilesystemSettings(path=home / "www")))


def configure(home: Path, emulator: Emulator) -> Settings:
    """Write the configuration of the run."""
    (home / "listener.toml").write_text(
        f'[store]\nurl = "sqlite:///{home}/state.db"\n[sources.www]\ntype = "filesystem"\npath = "{home}/www"\n'
        f'[targets.cdn]\ntype = "alibaba-cdn"\nendpoint = "{emulator.api_url}"\n'
        "quota = { file = 2000, directory = 0 }\nlimits = { batch_urls = 50, urls_per_domain_minute = 100000 }\n"
        f'[[sites]]\nsource = "www"\ntarget = "cdn"\nbase_urls = ["{emulator.edge_url}/"]\n'
        "[verifier]\nfirst_seconds = 0.2\ninterval_seconds = 0.2\n"
    )
    return load_settings(home / "listener.toml", {})


async def halfway(settings: Settings, listing: TreeListing) -> tuple[BackfillPlan, Figures]:
    """Run it; keep the first figures with half of the work done."""
    targets = load_targets(settings)
    job = Backfill(settings, targets, listing, [Mode.REFRESH])
    plan = await job.plan(None, now=time.time())
    kept: list[Figures] = []
    tasks: list[asyncio.Task[None]] = []

    async with opened(settings, targets) as store:

        async def look(watch: Watch) -> None:
            while not kept or kept[-1].done < FILES * 0.55:
                kept.append(await watch.look(now=time.monotonic()))
                await asyncio.sleep(0.1)

        await job.run(
            store,
            plan,
            follow=True,
            watch=lambda feed: tasks.append(asyncio.ensure_future(look(Watch(feed, store, plan, targets)))),
        )
    await asyncio.gather(*tasks)
    return plan, kept[-1]


def main() -> None:
    """Run, and write the picture."""
    configure_logging(level="error")
    os.environ |= {"ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}
    with tempfile.TemporaryDirectory() as home:
        plan, figures = asyncio.run(run(Path(home)))
    cost = plan.cost
    spent = ", ".join(f"{count} {kind}" for kind, count in cost.refreshes.items() if count)
    console = Console(file=io.StringIO(), record=True, width=80)
    console.print(Text("$ cdn-listener backfill --wait", style="bold"))
    console.print(f"refresh of /srv/www/: {cost.objects} keys, {cost.urls} URLs", highlight=False)
    console.print(f"  quota now: {spent}; unchanged objects evicted: {cost.collateral}", highlight=False)
    console.print(Text("Go on? [y/N]: y"))
    console.print(picture(figures))
    svg = console.export_svg(title="cdn-listener backfill", unique_id="backfill")
    # The reader's own fonts: a picture should ask nobody for anything.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (HERE / "images" / "backfill.svg").write_text(svg)


if __name__ == "__main__":
    main()
