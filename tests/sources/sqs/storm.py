"""
A storm through a queue: the daemon is killed over and over while events come by SQS, and nothing it says is trusted.

The queue lives in this process. At each deletion the state file is opened and looked into, while the daemon that
asked for it still runs: what is deleted must stand there. Messages come twice, in any order, deletions fail, calls
are throttled. In the end the edge is compared with the origin, and the books with one another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from listener.emulator import Emulator
from tests.product.crash.storm import Report, Storm, cdn_settings, change_files, live_a_while, make_origin, spent_units
from tests.sources.queue.backends import s3_event
from tests.sources.sqs.fake_sqs import KEYS as AWS_KEYS
from tests.sources.sqs.fake_sqs import FakeSqs, Stored

VISIBILITY_SECONDS = 10
SOURCE = """
[sources.www]
type = "sqs"
queue_url = "{url}"
region = "eu-central-1"
wait_seconds = 1
visibility_seconds = 10
delete_linger_seconds = 0.0
"""


@dataclass(slots=True)
class QueueReport:
    """What a storm through a queue came to."""

    books: Report
    sent: int = 0
    poison: int = 0
    deleted: int = 0
    repeated: int = 0
    """Receives of a message beyond the first."""
    early: list[str] = field(default_factory=list)
    """Messages that were deleted while the state file knew nothing of them."""
    left: int = 0
    dead_letters: int = 0

    @property
    def good(self) -> bool:
        """Whether every promise held."""
        complete = self.deleted == self.sent and not self.left and self.dead_letters == self.poison
        return self.books.good and complete and not self.early


class QueueStorm(Storm):
    """A storm whose changes are reported by a queue."""

    def __init__(self, folder: Path, emulator: Emulator, sqs: FakeSqs, *, seed: int, quota: int) -> None:
        """Prepare; nothing runs yet."""
        super().__init__(folder, emulator, seed=seed, quota=quota)
        url = sqs.queue()
        head, _, rest = self.config.read_text().partition("[sources.www]")
        _, _, tail = rest.partition("[targets.cdn]")
        self.config.write_text(head + SOURCE.format(url=url) + "\n[targets.cdn]" + tail)
        self.sqs = sqs
        sqs.on_delete = self.look_for
        self.reported = QueueReport(self.report)
        self._wanted: dict[str, tuple[str, tuple[Any, ...]]] = {}
        """Message id to the question whose answer proves that it is durable."""

    async def start(self) -> None:
        """Start the daemon; what the last one held is visible again, as after its time."""
        self.sqs.ahead += VISIBILITY_SECONDS + 1
        os.environ.update(AWS_KEYS, AWS_EC2_METADATA_DISABLED="true")
        await super().start()

    def write(self, key: str) -> None:
        """Change one file, and tell of it; some poison in between."""
        self.report.changes += 1
        (self.folder / "origin" / key).write_text(f"{key} {self.report.changes}\n")
        now, number = time.time(), self.report.changes
        etag = f"{number:032x}"
        body = s3_event(key, eTag=etag, sequencer=f"00{int(now):08X}{number:08X}")
        reported = json.loads(body)
        reported["Records"][0]["eventTime"] = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        id_ = self.sqs.send(reported)
        name = key.rpartition("/")[2].encode()
        self._wanted[id_] = ("SELECT count(*) FROM object WHERE name = ? AND etag = ?", (name, etag))
        self.reported.sent += 1
        if self.random.random() < 0.1:
            poison = f"poison {number}"
            id_ = self.sqs.send(poison)
            question = "SELECT count(*) FROM dead_letter WHERE subject = ? AND body = ?"
            self._wanted[id_] = (question, (id_.encode(), poison.encode()))
            self.reported.sent += 1
            self.reported.poison += 1

    def look_for(self, message: Stored) -> None:
        """Ask the state file of a message that is being deleted."""
        self.reported.deleted += 1
        self.reported.repeated += message.receives - 1
        connection = sqlite3.connect(f"file:{self.folder}/state.db?mode=ro", uri=True, timeout=20)
        try:
            (found,) = connection.execute(*self._wanted[message.id]).fetchone()
        finally:
            connection.close()
        if not found:
            self.reported.early.append(message.body[:200])

    async def disturb(self) -> None:
        """Throttle, fail and break now and then."""
        while True:
            await asyncio.sleep(self.random.uniform(0.05, 0.5))
            if any(fault.left for fault in self.sqs.faults):
                continue  # one after the other, so that the daemon's patience is not what is tested
            self.sqs.faults.clear()
            what = self.random.choice(["RequestThrottled", "drop", "after", "partial"])
            if what == "partial":
                self.sqs.failing_entries.append(("InternalError", False))
            else:
                self.sqs.order(self.random.choice(["ReceiveMessage", "DeleteMessageBatch"]), what, 1)

    async def drained(self) -> None:
        """Wait until the queue is empty."""
        deadline = time.monotonic() + 60
        while self.sqs.queues["events"].messages:
            assert time.monotonic() < deadline, (self.folder / "daemon.log").read_text()[-3000:]
            await asyncio.sleep(0.5)
            self.sqs.ahead += 2.0


async def queue_storm(folder: Path, *, kills: int, seed: int, keys: int) -> QueueReport:
    """
    Run one storm: every file changes once, with a quota just above that, so that nothing may be paid twice.

    Args:
        folder: an empty folder.
        kills: how often the daemon is killed.
        seed: of every random choice.
        keys: how many files there are.
    """
    began = time.monotonic()
    names = make_origin(folder, keys)
    options = cdn_settings(folder, files=keys + 2, directories=0)
    async with FakeSqs(seed=seed) as sqs, Emulator(options) as emulator, aiohttp.ClientSession() as http:
        run = QueueStorm(folder, emulator, sqs, seed=seed, quota=keys + 2)
        sqs.doubled, sqs.is_shuffled = 0.1, True
        await run.start()
        await run.ready(http)
        await run.stale(http, names)
        others = [asyncio.create_task(run.visit(http, names)), asyncio.create_task(run.disturb())]
        writers = asyncio.create_task(change_files(run, names, kills=kills, once=True))
        for _ in range(kills):
            await live_a_while(run, http)
            await run.kill()
            await run.start()
        await writers
        others.pop().cancel()
        sqs.faults.clear()
        await run.drained()
        await run.ready(http)
        await run.settle(http)
        others.pop().cancel()
        run.report.stale = await run.stale(http, names)
        await run.kill()
    run.report.kills -= 1
    run.report.needed, run.report.accepted, run.report.ledger = keys, run.accepted(), spent_units(folder)
    run.report.seconds = round(time.monotonic() - began, 1)
    run.reported.left = len(sqs.queues["events"].messages)
    run.reported.dead_letters = _dead_letters(folder)
    return run.reported


def _dead_letters(folder: Path) -> int:
    connection = sqlite3.connect(folder / "state.db")
    (count,) = connection.execute("SELECT count(*) FROM dead_letter WHERE kind = 'message'").fetchone()
    connection.close()
    return int(count)


def main() -> int:
    """Run a storm from the command line and print its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        report = asyncio.run(queue_storm(Path(folder), kills=given.kills, seed=given.seed, keys=given.keys))
    print(report, "good" if report.good else "NOT GOOD")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
