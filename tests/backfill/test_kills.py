"""A backfill killed at random and begun again: everything once, nothing twice, the books exact."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand import Stand, a_stand, until

pytestmark = [pytest.mark.looptime(False), pytest.mark.timeout(900)]

FILES = 2_500


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[Stand]:
    """A stand with files by the thousand and no directory quota, whose CDN takes its time for each request."""
    with a_stand(tmp_path / "wide", quota="20000,0") as stand:
        stand.configure(
            target="limits = { batch_urls = 100, urls_per_domain_minute = 1000000 }\n"
            "quota = { file = 20000, directory = 0 }"
        )
        for number in range(FILES):
            stand.write(f"d{number % 50:02}/{number:04}.html", "x")
        stand.order("slow:0.02,action=RefreshObjectCaches")
        yield stand


def killed_somewhere(stand: Stand, chance: random.Random) -> str:
    """Run the backfill and kill it after some requests or some time; return its report if it had ended before."""
    process = stand.command("backfill", "--yes", "--wait", "--json")
    more = len(stand.paths()) + chance.choice([0, 0, 1, 200, 900, 2000])
    until(lambda: process.poll() is not None or stand.state.exists(), seconds=120)
    until(lambda: process.poll() is not None or len(stand.paths()) >= more, seconds=120)
    time.sleep(chance.random() * 0.4)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    return ended(process)


def ended(process: subprocess.Popen[str]) -> str:
    """Return what it reported, an empty text where it was killed."""
    out, err = process.communicate(timeout=240)
    assert process.returncode in (0, -signal.SIGKILL), err
    return out if process.returncode == 0 else ""


def killed_and_resumed(stand: Stand, kills: int, seed: int) -> None:
    """Kill so often, end in peace, and hold the outcome to the promise."""
    chance = random.Random(seed)
    killed, out = 0, ""
    while killed < kills and not out:
        out = killed_somewhere(stand, chance)
        killed += not out
    # One that had ended in peace is done: the next one would begin again.
    out = out or ended(stand.command("backfill", "--yes", "--wait", "--json"))
    reported = json.loads(out)
    assert (reported["finished"], reported["pending"], reported["in_flight"], reported["deferred"]) == (True, 0, 0, 0)
    asked = Counter(stand.paths())
    wanted = {stand.url(f"d{number % 50:02}/{number:04}.html") for number in range(FILES)}
    assert set(asked) == wanted, "exactly what the tree holds"
    assert sum(asked.values()) == len(wanted), f"nothing twice, seed {seed}, {killed} kills"
    quota = json.loads(stand.command("quota", "--json").communicate(timeout=120)[0])
    assert str(len(wanted)) in json.dumps(quota), quota


def test_killed_three_times(wide: Stand) -> None:
    """The union of what was refreshed is exact, no URL is paid for twice, the ledger is the CDN's count."""
    killed_and_resumed(wide, 3, seed=random.randrange(10**6))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_killed_fifty_times(wide: Stand, seed: int) -> None:
    """Ten backfills, five kills each."""
    killed_and_resumed(wide, 5, seed=seed)
