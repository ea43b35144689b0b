"""What happens to a fleet in a storm: processes end or stop, wires fall silent, the server crashes or is replaced."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from listener.emulator import parse_fault
from tests.product.fleet.daemons import READY_SECONDS, Daemon
from tests.product.fleet.verdict import Freeze, Loss

if TYPE_CHECKING:
    from tests.product.fleet.storm import FleetStorm

LEADER_SHARE = 0.5
"""How often the leader is chosen."""
WAIT_SECONDS = 20.0
"""For the next leader; far more than it may take."""
FAULTS = (
    "accept-then-timeout:1,action=RefreshObjectCaches",
    "accept-then-reset:1,action=RefreshObjectCaches",
    "reset:1,action=RefreshObjectCaches",
    "error500:1,action=RefreshObjectCaches",
    "throttle:1:0.5",
)
"""What the CDN does at times, as well as being slow."""


class Events:
    """Makes one event after another, and waits for the next leader after each loss of one."""

    def __init__(self, storm: FleetStorm, kinds: Sequence[str]) -> None:
        """Take the storm and the names of what may happen."""
        self.done: Counter[str] = Counter()
        self.losses: list[Loss] = []
        self.freezes: list[Freeze] = []
        self._storm = storm
        self._random = storm.random
        self._kinds = kinds

    async def one(self) -> None:
        """Make one event, half of the time with a request that the CDN treats badly."""
        cdn = self._storm.cdn
        if self._random.random() < 0.5:
            cdn.faults.order(parse_fault(self._random.choice(FAULTS)), cdn.clock.now())
        kind = self._random.choice(self._kinds)
        leader, _ = await self._leader()
        chosen = self._random.choice(self._storm.daemons)
        if leader is not None and self._random.random() < LEADER_SHARE:
            chosen = leader
        await self._another_lives(chosen)
        leader, term = await self._leader()
        loss = Loss(time.time(), kind, chosen.name, term) if chosen is leader else None
        await EVENTS[kind](self, chosen, loss)
        self.done[kind] += 1

    async def kill(self, daemon: Daemon, loss: Loss | None) -> None:
        """Kill a process; start it again once another leads."""
        await daemon.end(signal.SIGKILL)
        await self._taken_over(loss)
        await asyncio.sleep(self._random.uniform(0.0, 1.0))
        await daemon.start()

    async def end(self, daemon: Daemon, loss: Loss | None) -> None:
        """End a process in order: it hands over what it leads."""
        await daemon.end(signal.SIGTERM)
        await self._taken_over(loss)
        await daemon.start()

    async def freeze(self, daemon: Daemon, loss: Loss | None) -> None:
        """Stop a process until its lease is over, and let it go on."""
        begin = time.time()
        daemon.send(signal.SIGSTOP)
        await self._taken_over(loss)
        await asyncio.sleep(self._random.uniform(0.0, 2.0))
        self.freezes.append(Freeze(daemon.name, begin, time.time()))
        daemon.send(signal.SIGCONT)

    async def cut(self, daemon: Daemon, loss: Loss | None) -> None:
        """Part an instance from the database, but not from the CDN, and join it again."""
        await asyncio.to_thread(daemon.cut)
        await self._taken_over(loss)
        await asyncio.sleep(self._random.uniform(0.0, 2.0))
        await asyncio.to_thread(daemon.mend)

    async def crash(self, _daemon: Daemon, _loss: Loss | None) -> None:
        """Crash the server of the database, and start it again."""
        await asyncio.to_thread(self._storm.servers.crash, self._random.choice([0.0, 0.5, 4.0]))

    async def promote(self, _daemon: Daemon, _loss: Loss | None) -> None:
        """Replace the server by its standby, which has everything."""
        await self._replace(0.0)

    async def lose(self, _daemon: Daemon, _loss: Loss | None) -> None:
        """Replace the server by a standby that lacks the last commits."""
        await self._replace(self._random.uniform(0.3, 1.5))

    async def _replace(self, stalled_seconds: float) -> None:
        wires = [daemon.store_wires for daemon in self._storm.daemons]
        await asyncio.to_thread(self._storm.servers.promote, stalled_seconds, wires)

    async def _leader(self) -> tuple[Daemon | None, int]:
        """Return who leads the account and the term, as the database says."""
        rows = await asyncio.to_thread(
            self._storm.servers.rows,
            "SELECT l.instance, l.term FROM lease l LEFT JOIN instance i ON i.name = l.instance"
            " AND i.incarnation = l.incarnation AND i.until > clock_timestamp() WHERE l.name NOT LIKE '%:%'",
        )
        name, term = rows[0] if rows else (None, 0)
        return next((one for one in self._storm.daemons if one.name == name), None), term

    async def _another_lives(self, but: Daemon) -> None:
        """Wait until another instance could take over: each start takes its time."""
        deadline = time.monotonic() + READY_SECONDS
        alive = "SELECT name FROM instance WHERE until > clock_timestamp()"
        while not {name for (name,) in await asyncio.to_thread(self._storm.servers.rows, alive)} - {but.name}:
            assert time.monotonic() < deadline, "no other instance takes part"
            await asyncio.sleep(0.1)

    async def _taken_over(self, loss: Loss | None) -> None:
        """Wait for the term after the lost one, and note the loss."""
        if loss is None:
            return
        self.losses.append(loss)
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            _, term = await self._leader()
            if term > loss.term:
                return
            await asyncio.sleep(0.1)


EVENTS = {
    "kill": Events.kill,
    "end": Events.end,
    "freeze": Events.freeze,
    "cut": Events.cut,
    "crash": Events.crash,
    "promote": Events.promote,
    "lose": Events.lose,
}
