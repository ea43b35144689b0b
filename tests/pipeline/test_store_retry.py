"""What the store could not do is tried again, with waits that grow and do not outlast the trouble."""

from __future__ import annotations

import asyncio

from listener.errors import Fenced, StoreError
from listener.pipeline.intake import StoreRetry


class Outage:
    """A store that fails until the time that the test sets."""

    def __init__(self) -> None:
        self.ends_at = 10.0
        self.tried: list[float] = []

    async def work(self) -> float:
        now = asyncio.get_running_loop().time()
        self.tried.append(now)
        if now < self.ends_at:
            raise StoreError("the database is away")
        return now


async def test_what_waits_is_tried_once_the_store_answers_again() -> None:
    """One success is enough, although the waits of the others have grown."""
    outage, retry = Outage(), StoreRetry()
    first = asyncio.create_task(retry.until_done("record", outage.work))
    await asyncio.sleep(5)
    other = asyncio.create_task(retry.until_done("look", outage.work))
    assert await other == 12.0  # tried at 5, 6, 8 and 12
    assert await first == 12.0  # not at 15
    assert retry.trouble is None


async def test_the_end_does_not_wait_for_the_next_try() -> None:
    """What waits is tried at once, and waits on as before where that fails, too."""
    outage, retry = Outage(), StoreRetry()
    task = asyncio.create_task(retry.until_done("record", outage.work))
    await asyncio.sleep(4)
    retry.hurry()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert outage.tried == [0.0, 1.0, 3.0, 4.0]
    outage.ends_at = 0.0
    retry.hurry()
    assert await task == 4.0


async def test_what_nobody_tries_any_more_is_no_trouble() -> None:
    """A leader ends while something of it waits to be tried again: the instance is ready all the same."""
    outage, retry = Outage(), StoreRetry()
    cancelled = asyncio.create_task(retry.until_done("plan", outage.work))
    fenced = asyncio.create_task(retry.until_done("book", Fencing().work))
    await asyncio.sleep(0.5)
    assert retry.trouble is not None
    cancelled.cancel()
    await asyncio.gather(cancelled, fenced, return_exceptions=True)
    assert isinstance(fenced.exception(), Fenced)
    assert retry.trouble is None


class Fencing:
    """A store that fails once, and then refuses an older term."""

    def __init__(self) -> None:
        self.failed = False

    async def work(self) -> None:
        if self.failed:
            raise Fenced("term 1 has ended")
        self.failed = True
        raise StoreError("the database is away")
