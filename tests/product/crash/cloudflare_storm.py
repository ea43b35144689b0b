"""
A storm before Cloudflare: the daemon is killed over and over while files change, as in ``storm``.

Cloudflare reports nothing about a purge, and a purge that is repeated does no harm. So a URL may be purged once more
for each time that its answer was lost: since the daemon was killed before it had noted the answer, or waited in vain.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import ClassVar

import aiohttp

from listener.emulator import CloudflareEmulator, CloudflareSettings
from tests.product.crash.storm import Storm, change_files, command, endure, make_origin

TOKEN = "a-token"
UNANSWERED = re.compile(r"sender\.unknown.*?urls\W+(\d+)")


class CloudflareStorm(Storm):
    """One storm in one folder."""

    target = 'type = "cloudflare"\nplan = "pro"\nendpoint = "{api}"\nanswer_seconds = 3\nsettles_after_seconds = 2\n'
    credentials: ClassVar = {"CLOUDFLARE_API_TOKEN": TOKEN}
    in_doubt = 0
    """URLs whose request was under way at a kill."""
    emulator: CloudflareEmulator  # type: ignore[assignment]

    def accepted(self) -> int:
        """Return how many URLs were purged."""
        return self.emulator.purged["files"]

    def leave_unanswered(self) -> None:
        """Let the CDN accept the next request without an answer."""
        fault = self.emulator.table.parse("accept-then-timeout:1,action=purge_cache")
        self.emulator.faults.order(fault, self.emulator.clock.now())

    def compare(self) -> None:
        """Count what the dead daemon had no answer to."""
        connection = sqlite3.connect(self.folder / "state.db")
        query = "SELECT count(*) FROM attempt WHERE active = 1 AND state IN ('sending', 'unknown')"
        self.in_doubt += connection.execute(query).fetchone()[0]
        connection.close()

    def unanswered(self) -> int:
        """Return how many URLs living daemons had waited in vain for, by their log."""
        return sum(map(int, UNANSWERED.findall((self.folder / "daemon.log").read_text())))


async def storm(folder: Path, *, kills: int, seed: int, keys: int) -> dict[str, object]:
    """Change each file once in a storm of so many kills; return what it came to."""
    began = time.monotonic()
    names = make_origin(folder, keys)
    slow = CloudflareEmulator.table.parse("slow:0.3,action=purge_cache")
    settings = CloudflareSettings(
        origin=str(folder / "origin"), token=TOKEN, plan="pro", api_port=0, edge_port=0, faults=(slow,)
    )
    async with CloudflareEmulator(settings) as emulator, aiohttp.ClientSession() as http:
        run = CloudflareStorm(folder, emulator, seed=seed, quota=0)  # type: ignore[arg-type]
        await endure(run, http, names, partial(change_files, run, names, kills=kills, once=True), kills=kills)
        purged = Counter(record.path.removeprefix(f"{emulator.edge_url}/") for record in emulator.tasks.all())
        allowed = run.in_doubt + run.unanswered()
        return {
            "kills": run.report.kills,
            "changes": run.report.changes,
            "stale": run.report.stale,
            "never_purged": sorted(set(names) - set(purged)),
            "purged": purged.total(),
            "repeated": purged.total() - len(purged),
            "may_be_repeated": allowed,
            "seconds": round(time.monotonic() - began, 1),
        }


def is_good(report: dict[str, object]) -> bool:
    """Return whether every promise held."""
    repeated, allowed = report["repeated"], report["may_be_repeated"]
    assert isinstance(repeated, int) and isinstance(allowed, int)
    return not report["stale"] and not report["never_purged"] and repeated <= allowed


if __name__ == "__main__":
    sys.exit(command(storm, is_good, __doc__))
