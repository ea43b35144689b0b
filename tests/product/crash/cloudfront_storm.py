"""
A storm before CloudFront: the daemon is killed over and over while files change, as in ``storm``.

Each file changes once and no directory may be refreshed, so that each path is to be paid once: whatever was sent, and
whatever answer was lost, the ledger of the month is what the account has to pay.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import ClassVar

import aiohttp

from listener.emulator import CloudFrontEmulator, CloudFrontSettings
from listener.emulator.cloudfront import EXAMPLE, AccessKey
from tests.product.crash.storm import Storm, change_files, command, endure, make_origin, spent_units

KEY = AccessKey("AKIDEXAMPLE", "secret")
SLOW_SECONDS = 0.3
"""Until an answer, so that many a crash falls between a request and its answer."""


class CloudFrontStorm(Storm):
    """One storm in one folder."""

    target = (
        f'type = "cloudfront"\ndistribution = "{EXAMPLE.id}"\n'
        'endpoint_url = "{api}"\nanswer_seconds = 3\nmonthly_dollars = 10\n'
    )
    site = "min_directory_depth = 9\n"
    credentials: ClassVar = {"AWS_ACCESS_KEY_ID": KEY.id, "AWS_SECRET_ACCESS_KEY": KEY.secret}
    emulator: CloudFrontEmulator  # type: ignore[assignment]

    def accepted(self) -> int:
        """Return how many paths the account has to pay, free or not."""
        return self.emulator.account.months.total()

    def leave_unanswered(self) -> None:
        """Let the CDN accept the next request without an answer."""
        fault = self.emulator.table.parse("accept-then-timeout:1,action=CreateInvalidation")
        self.emulator.faults.order(fault, self.emulator.clock.now())


async def storm(folder: Path, *, kills: int, seed: int, keys: int) -> dict[str, object]:
    """Change each file once in a storm of so many kills; return what it came to."""
    began = time.monotonic()
    names = make_origin(folder, keys)
    slow = CloudFrontEmulator.table.parse(f"slow:{SLOW_SECONDS},action=CreateInvalidation")
    settings = CloudFrontSettings(
        origin=str(folder / "origin"), key=KEY, api_port=0, edge_port=0, task_seconds=0.2, faults=(slow,)
    )
    async with CloudFrontEmulator(settings) as emulator, aiohttp.ClientSession() as http:
        run = CloudFrontStorm(folder, emulator, seed=seed, quota=0)  # type: ignore[arg-type]
        await endure(run, http, names, partial(change_files, run, names, kills=kills, once=True), kills=kills)
        paths = Counter(record.path.removeprefix("/") for record in emulator.tasks.all())
        return {
            "kills": run.report.kills,
            "changes": run.report.changes,
            "stale": run.report.stale,
            "never_invalidated": sorted(set(names) - set(paths)),
            "paid_twice": sorted(path for path, times in paths.items() if times > 1),
            "charged": run.accepted(),
            "ledger": spent_units(folder),
            "most_unknown": run.report.most_unknown,
            "below": run.report.below,
            "above": run.report.above,
            "requests": emulator.account.requests,
            "seconds": round(time.monotonic() - began, 1),
        }


def is_good(report: dict[str, object]) -> bool:
    """Return whether every promise held."""
    wrong = ("stale", "never_invalidated", "paid_twice", "below", "above")
    return not any(report[name] for name in wrong) and report["ledger"] == report["charged"]


if __name__ == "__main__":
    sys.exit(command(storm, is_good, __doc__))
