"""Rate limits that refill evenly, and whose turn it is."""

from __future__ import annotations

import asyncio

from listener.rates import Bucket
from listener.refresh import Priority
from listener.targets.turns import Turns


def test_a_bucket_refills_evenly() -> None:
    """Up to its capacity; what is above it goes once it is full."""
    bucket = Bucket(10, 2)
    assert bucket.wait_seconds(10, 100.0) == 0
    assert bucket.wait_seconds(10, 100.0, part=0.75) == 0, "a full bucket serves every amount"
    bucket.take(10, 100.0)
    assert bucket.wait_seconds(1, 100.0) == 0.5
    assert bucket.wait_seconds(20, 101.0) == 4
    assert bucket.left(99.0) == 0, "a clock that goes back gives nothing"
    assert bucket.left(200.0) == 10
    bucket.drain(200.0)
    assert bucket.wait_seconds(1, 200.0, part=0.75) == 1.75


async def test_what_is_live_goes_before_a_backfill() -> None:
    """A backfill leaves a quarter of the bucket to what changes now, and waits behind what does."""
    bucket, turns, order = Bucket(4, 1), Turns(), []

    async def take(name: str, amount: float, priority: Priority) -> None:
        await turns.take([(bucket, amount)], priority)
        order.append((name, asyncio.get_running_loop().time()))

    began = asyncio.get_running_loop().time()
    await take("first", 3, Priority.LIVE)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(take("backfill", 1, Priority.BACKFILL))
        await asyncio.sleep(0.1)
        tasks.create_task(take("second", 3, Priority.LIVE))
        tasks.create_task(take("third", 1, Priority.LIVE))
    assert [name for name, _ in order] == ["first", "second", "third", "backfill"]
    assert [round(at - began) for _, at in order] == [0, 2, 3, 5]
