"""
A storm through the webhook: senders post events while the daemon is killed over and over.

Whatever a sender saw answered with 2xx must be in the state file that the killed daemon left, changes in the
index and unreadable bodies among the dead letters; in the end the edge serves what the origin has, and the
books are equal. As in ``tests/product/crash/storm.py``, nothing of the daemon is trusted.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import aiohttp

from listener.emulator import Emulator
from tests.keys import KEYS
from tests.product.crash.storm import Report, Storm, cdn_settings, spent_units
from tests.sources.webhook.hooks import BEARER, TOKEN, s3_event
from tests.stand import free_port

SENDERS = 4
TOKEN_VARIABLE = "LISTENER_SOURCES__WWW__TOKEN"


class HookStorm(Storm):
    """A storm whose daemon receives by HTTP."""

    def __init__(self, folder: Path, emulator: Emulator, *, seed: int, quota: int, keys: int) -> None:
        """Prepare; nothing runs yet."""
        super().__init__(folder, emulator, seed=seed, quota=quota)
        self.listen = f"127.0.0.1:{free_port()}"
        text = self.config.read_text()
        head, _, tail = text.partition('type = "filesystem"\n')
        source = f'type = "webhook"\nlisten = "{self.listen}"\ncommit_seconds = 2\n'
        self.config.write_text(head + source + tail.partition("\n")[2])
        self.names = [f"d{number % 7}/{number}.html" for number in range(keys)]
        self.durable: dict[str, int] = {}
        """The last change of each key that was answered with 2xx."""
        self.set_aside: set[str] = set()
        """Digests of unreadable bodies that were."""
        self.missing: list[str] = []
        """What was answered and is not in the state file."""
        self.answers: dict[int, int] = {}

    async def start(self) -> None:
        """Start the daemon."""
        environment = {**os.environ, **KEYS, TOKEN_VARIABLE: TOKEN}
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "listener", "run", "--config", str(self.config),
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    async def kill(self) -> None:
        """End it without a word; what was answered until then must be there."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        await self.daemon.wait()
        answered, aside = dict(self.durable), set(self.set_aside)
        self.report.kills += 1
        self.compare()
        self._look_for(answered, aside)

    def _look_for(self, answered: dict[str, int], aside: set[str]) -> None:
        connection = sqlite3.connect(self.folder / "state.db")
        index = {
            (path + name).decode(): int(etag or "0", 16)
            for path, name, etag in connection.execute(
                "SELECT tree.path, object.name, object.etag FROM object JOIN tree ON tree.id = object.tree"
            )
        }
        letters = {bytes(row[0]).decode() for row in connection.execute("SELECT subject FROM dead_letter")}
        connection.close()
        for key, number in answered.items():
            if index.get(key, -1) < number:
                self.missing.append(f"kill {self.report.kills}: {key} {number}, there is {index.get(key)}")
        self.missing += [f"kill {self.report.kills}: unreadable {subject}" for subject in aside - letters]

    async def send(self, http: aiohttp.ClientSession, sender: int) -> None:
        """Change files of this sender's own and tell of each until it is answered with 2xx, for ever."""
        chance, number = random.Random(f"{self.random.random()} {sender}"), 0
        names = self.names[sender::SENDERS]
        while True:
            number += 1
            if chance.random() < 0.05:
                body = f"garbage {sender} {number}".encode()
                await self._post(http, body)
                self.set_aside.add(hashlib.sha256(body).hexdigest())
                continue
            key = chance.choice(names)
            self.report.changes += 1
            (self.folder / "origin" / key).write_text(f"{key} {sender} {number}\n")
            event = s3_event(key)
            event["Records"][0]["s3"]["object"].update(eTag=f"{number:032x}", sequencer=f"{number:016X}")
            await self._post(http, json.dumps(event).encode())
            self.durable[key] = number
            await asyncio.sleep(chance.uniform(0.0, 0.02))

    async def _post(self, http: aiohttp.ClientSession, body: bytes) -> None:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=10)
                async with http.post(f"http://{self.listen}/", data=body, headers=BEARER, timeout=timeout) as response:
                    self.answers[response.status] = self.answers.get(response.status, 0) + 1
                    if response.status in (202, 204):
                        return
            await asyncio.sleep(0.02)


async def hook_storm(folder: Path, *, kills: int, seed: int, keys: int) -> tuple[Report, HookStorm]:
    """Run one storm in an empty folder."""
    began = time.monotonic()
    options = cdn_settings(folder, files=10_000, directories=100, slow_seconds=0.1)
    (folder / "origin").mkdir()
    async with Emulator(options) as emulator, aiohttp.ClientSession() as http:
        run = HookStorm(folder, emulator, seed=seed, quota=10_100, keys=keys)
        for name in run.names:
            (folder / "origin" / name).parent.mkdir(exist_ok=True)
            (folder / "origin" / name).write_text("first\n")
        await run.start()
        await run.ready(http)
        await run.stale(http, run.names)
        senders = [asyncio.create_task(run.send(http, number)) for number in range(SENDERS)]
        for _ in range(kills):
            await run.ready(http)
            await asyncio.sleep(run.random.uniform(0.0, 0.8))
            await run.kill()
            await run.start()
        await run.ready(http)
        await asyncio.sleep(0.2)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        await _report_once_more(run, http)
        await run.settle(http)
        run.report.stale = await run.stale(http, run.names)
        await run.kill()
        run.report.kills -= 1
        run.report.accepted, run.report.ledger = run.accepted(), spent_units(folder)
        run.report.seconds = round(time.monotonic() - began, 1)
        return run.report, run


async def _report_once_more(run: HookStorm, http: aiohttp.ClientSession) -> None:
    """Tell of the files whose senders were stopped between writing and telling."""
    for name in run.names:
        body = json.dumps(s3_event(name)).replace("abc", f"{10**6:032x}").encode()
        await run._post(http, body)


def main() -> int:
    """Run a storm from the command line and print its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hook-storm-") as folder:
        report, run = asyncio.run(hook_storm(Path(folder), kills=given.kills, seed=given.seed, keys=given.keys))
    found = {name: getattr(report, name) for name in Report.__slots__}
    good = report.good and not run.missing
    reported = {"answers": run.answers, "set_aside": len(run.set_aside), "missing": run.missing, "good": good}
    print(json.dumps({**found, **reported}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
