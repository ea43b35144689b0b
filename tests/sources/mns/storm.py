"""
A storm through a queue: messages come while the daemon is killed over and over; queue, file and edge are compared.

As ``tests/product/crash/storm.py``, whose ledger checks it shares. The queue lives in this process and is never
killed. At each deletion that it sees, the state file is read: the message's key must already be in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp

from listener.emulator import Emulator
from tests.product.crash.storm import Report, Storm, cdn_settings, endure, make_origin, spent_units
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.oss_messages import body_of, event

SOURCE = """
[sources.www]
type = "mns"
endpoint = "{url}"
queue = "events"
wait_seconds = 5
max_held_messages = 64
"""
VISIBILITY_SECONDS = 2


@dataclass(slots=True)
class MnsReport(Report):
    """What a storm through a queue came to."""

    deleted: int = 0
    undurable: list[str] = field(default_factory=list)
    """Messages that the server was asked to delete before their key was in the state file."""
    left: int = 0
    """Messages that were never deleted."""
    received_again: int = 0

    @property
    def good(self) -> bool:
        """Whether every promise held."""
        books = self.ledger == self.accepted <= self.quota
        lost = self.stale or self.undurable or self.left or self.deleted != self.changes
        return books and not lost and not self.below and not self.above


class MnsStorm(Storm):
    """One storm in one folder; changes are reported by the queue alone."""

    def __init__(self, folder: Path, emulator: Emulator, service: FakeMns, *, seed: int, quota: int) -> None:
        """Prepare; nothing runs yet."""
        super().__init__(folder, emulator, seed=seed, quota=quota)
        self.report: MnsReport = MnsReport(quota=quota)
        self.service = service
        self.keys: dict[str, str] = {}
        head, _, rest = self.config.read_text().partition("[sources.www]")
        targets = rest[rest.index("[targets.cdn]") :]
        self.config.write_text(f"{head}{SOURCE.format(url=service.url)}\n{targets}")
        service.on_delete = self.look_at_deletion

    async def change(self, key: str) -> None:
        """Change an object and tell of it."""
        self.write(key)
        etag = f"{self.report.changes:032X}"
        (name,) = await self.service.send(body_of(event("ObjectCreated:PutObject", key, etag=etag)))
        self.keys[name] = key

    def let_something_fail(self) -> None:
        """Now and then let deletions fail, or their answers be lost."""
        self.service.failing_deletions = self.random.choice([0, 0, 5])

    async def drain(self) -> None:
        """Wait until the queue is empty."""
        deadline = time.monotonic() + 120
        while messages := self.service.queue.messages:
            assert time.monotonic() < deadline, f"{len(messages)} messages are left"
            await asyncio.sleep(0.05)

    def look_at_deletion(self, name: str) -> None:
        """Hold a deletion against the state file, as any other process sees it."""
        folder, _, file = self.keys[name].rpartition("/")
        connection = sqlite3.connect(self.folder / "state.db", timeout=10)
        try:
            (found,) = connection.execute(
                "SELECT count(*) FROM object o JOIN tree t ON o.tree = t.id WHERE t.path = ? AND o.name = ?",
                (f"{folder}/".encode(), file.encode()),
            ).fetchone()
        finally:
            connection.close()
        if not found:
            self.report.undurable.append(f"{name} {self.keys[name]}")


async def storm(folder: Path, *, kills: int, seed: int, messages: int, keys: int) -> MnsReport:
    """
    Run one storm.

    Args:
        folder: an empty folder.
        kills: how often the daemon is killed.
        seed: of every random choice.
        messages: how many changes there are.
        keys: of how many objects; as many as messages: each deletion is held against a key of its own.
    """
    began = time.monotonic()
    names = make_origin(folder, keys)
    quota = 20 * messages
    options = cdn_settings(folder, files=quota, directories=0, slow_seconds=0.1)
    async with Emulator(options) as emulator, FakeMns(seed=seed) as service, aiohttp.ClientSession() as http:
        service.queue.visibility_seconds = VISIBILITY_SECONDS
        service.duplicate_share = 0.05
        run = MnsStorm(folder, emulator, service, seed=seed, quota=quota)
        await endure(run, http, names, partial(_send, run, names, messages=messages, kills=kills), kills=kills)
        return _count_of_changes(run, service, began)


def _count_of_changes(run: MnsStorm, service: FakeMns, began: float) -> MnsReport:
    report = run.report
    report.accepted = run.accepted()
    report.ledger = spent_units(run.folder)
    report.deleted, report.left = len(set(service.queue.deleted)), len(service.queue.messages)
    report.received_again = service.received_again
    report.seconds = round(time.monotonic() - began, 1)
    return report


async def _send(run: MnsStorm, names: list[str], *, messages: int, kills: int) -> None:
    """Send in bursts, some of them into the second in which a daemon begins."""
    order = random.Random(run.random.random()).sample(names, len(names))
    pause = kills * 1.2 / messages
    while run.report.changes < messages:
        for _ in range(min(run.random.randint(1, 40), messages - run.report.changes)):
            await run.change(order[run.report.changes % len(order)])
            await asyncio.sleep(run.random.uniform(0, 2 * pause) if run.random.random() < 0.3 else 0)
        await asyncio.sleep(run.random.uniform(0, 40 * pause))


def main() -> int:
    """Run a storm from the command line and print its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--keys", type=int, default=4000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-mns-") as folder:
        report = asyncio.run(storm(Path(folder), **vars(given)))
    fields = [*Report.__slots__, *MnsReport.__slots__]
    print(json.dumps({name: getattr(report, name) for name in fields} | {"good": report.good}))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
