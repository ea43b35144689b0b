"""Promise 7: a source that hangs is degraded within a minute, in every view, and well again once it moves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from listener.change import Change
from listener.clock import SystemClock
from listener.coalescer import Inbox
from listener.contracts import Check, Delivery, IndexView, SourceHealth, SourceState
from listener.daemon.state import reasons_not_ready
from listener.pipeline.intake import Intake, Stalls
from listener.sources.filesystem.names import StatReader
from listener.sources.listing import source as listing_source
from listener.sources.listing.settings import ListingSettings
from listener.sources.listing.source import EventsWithReconcile
from listener.sources.queue.health import HealthReporter
from listener.sources.queue.reader import QueueReader
from listener.sources.queue.settings import QueueSettings
from listener.sources.queue.transport import QueueError, Remedy
from listener.sources.webhook.receiver import Receiver
from listener.sources.webhook.settings import WebhookSettings
from tests.sources.harness import Reader
from tests.waiting import until


class Idle:
    """A source of which only the health counts."""

    def __init__(self) -> None:
        """Listen."""
        self.health = SourceHealth(state=SourceState.LISTENING, ready=True)


class Stub:
    """What the health of a daemon asks of a pipeline and its intake."""

    store_trouble, ready, engines, finished = None, True, (), frozenset[str]()

    def __init__(self, source: Any) -> None:
        """Run this one source."""
        self.sources = {"www": source}
        self.intake = self


async def watched(source: Idle, busy: set[str], seconds: float) -> None:
    """Watch a source for a while of virtual time."""
    watching = asyncio.create_task(Stalls(lambda: Stub(source).sources, busy).watch())
    await asyncio.sleep(seconds)
    watching.cancel()


async def test_a_silent_source_is_degraded_within_a_minute() -> None:
    """Not ready, with what it may hang in; as it was before once it moves again."""
    source, now = Idle(), asyncio.get_running_loop().time
    source.health.progressed(now())
    watching = asyncio.create_task(Stalls(lambda: Stub(source).sources, set()).watch())
    await asyncio.sleep(50)
    assert source.health.ready
    await asyncio.sleep(10.1)
    assert (source.health.state, source.health.ready) == (SourceState.DEGRADED, False)
    assert "no progress for" in source.health.detail
    source.health.progressed(now())
    await asyncio.sleep(5.1)
    assert (source.health.state, source.health.ready, source.health.detail) == (SourceState.LISTENING, True, "")
    watching.cancel()


async def test_who_waits_for_us_or_says_nothing_is_not_judged() -> None:
    """A delivery that is being taken, a source that never reports of progress, one that moves."""
    silent, waiting, moving = Idle(), Idle(), Idle()
    waiting.health.progressed(0.0)
    await watched(silent, set(), 300)
    await watched(waiting, {"www"}, 300)
    loop = asyncio.get_running_loop()

    async def move() -> None:
        while True:
            moving.health.progressed(loop.time())
            await asyncio.sleep(30)

    mover = asyncio.create_task(move())
    await watched(moving, set(), 300)
    mover.cancel()
    assert all(one.health.ready and not one.health.detail for one in (silent, waiting, moving))


@pytest.mark.looptime(False)
async def test_a_file_tree_that_hangs_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a file that does not return, as on a dead mount: reported, in readiness too, and gone by itself."""
    monkeypatch.setattr("listener.pipeline.intake.STALLED_SECONDS", 1.0)
    monkeypatch.setattr("listener.sources.filesystem.source._PROGRESS_SECONDS", 0.2)
    monkeypatch.setattr("listener.pipeline.intake._LOOK_SECONDS", 0.1)
    hangs, real = threading.Event(), StatReader.all

    def look(self: StatReader, *arguments: Any) -> Any:
        hangs.wait(30)
        return real(self, *arguments)

    monkeypatch.setattr(StatReader, "all", look)
    async with Reader(tmp_path, root_check_seconds=0.2) as reader:
        pipeline: Any = Stub(reader.source)
        watching = asyncio.create_task(Stalls(lambda: pipeline.sources, set()).watch())
        await asyncio.sleep(1.5)
        assert reader.source.health.state is SourceState.LISTENING
        (tmp_path / "page").write_text("x")
        await reader.until(lambda: not reader.source.health.ready, "reported")
        assert "no progress" in reader.source.health.detail
        assert any("no progress" in reason for reason in reasons_not_ready(pipeline, "running"))
        hangs.set()
        await reader.until_reported("page")
        await reader.until(lambda: reader.source.health.ready and not reader.source.health.detail, "well again")
        watching.cancel()


class Part:
    """One source of a joined one, as the intake reads it."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    roots: Sequence[str] = ("www",)

    def __init__(self, polls: Callable[[SourceHealth], Awaitable[None]]) -> None:
        """Take what it does for ever."""
        self.name = "www"
        self.health = SourceHealth(state=SourceState.LISTENING, ready=True)
        self._polls = polls

    async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
        """Bring nothing."""
        await self._polls(self.health)
        yield Delivery([])

    async def check(self) -> Sequence[Check]:
        """Find nothing."""
        return ()


class Queue:
    """A queue whose polls are empty after their time, or never end."""

    batch = 10

    def __init__(self) -> None:
        """Answer."""
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails: Exception | None = None

    async def receive(self, *_: Any, wait_seconds: int) -> list[Any]:
        """Answer nothing."""
        await asyncio.sleep(wait_seconds)
        await self.answers.wait()
        if self.fails is not None:
            raise self.fails
        return []

    async def close(self) -> None:
        """Have nothing to close."""

    async def renew(self) -> None:
        """Have nothing to renew."""


def read(queue: Queue, health: SourceHealth) -> AsyncGenerator[Delivery, None]:
    """Read the queue."""
    settings = QueueSettings(figures_interval_seconds=0)
    return QueueReader("www", settings, queue, HealthReporter("www", health, SystemClock())).run()  # type: ignore[arg-type]


@asynccontextmanager
async def judging(source: Any) -> AsyncIterator[None]:
    """Judge a source for a while."""
    watching = asyncio.create_task(Stalls(lambda: {"www": source}, set()).watch())
    try:
        yield
    finally:
        watching.cancel()


async def test_a_poll_that_never_ends_is_reported_and_an_idle_queue_is_not() -> None:
    """A long poll that returns empty is progress, and a wait after a failure is meant; a poll that hangs is not."""
    source, queue = Idle(), Queue()
    deliveries = read(queue, source.health)
    reading = asyncio.ensure_future(anext(deliveries))
    async with judging(source):
        await asyncio.sleep(600)
        assert (source.health.state, source.health.ready, source.health.detail) == (SourceState.LISTENING, True, "")
        queue.answers.clear()
        await asyncio.sleep(100)
        assert (source.health.state, source.health.ready) == (SourceState.DEGRADED, False)
        assert "no progress" in source.health.detail
        assert any("no progress" in reason for reason in reasons_not_ready(Stub(source), "running"))  # type: ignore[arg-type]
        queue.answers.set()
        await asyncio.sleep(40)
        assert (source.health.state, source.health.ready, source.health.detail) == (SourceState.LISTENING, True, "")
        queue.fails = QueueError("refused", remedy=Remedy.WAIT)
        for _ in range(200):
            await asyncio.sleep(5)
            assert "no progress" not in source.health.detail
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await deliveries.aclose()


async def test_a_wait_for_room_is_no_silence_of_the_source() -> None:
    """The store takes a delivery after 100 seconds: from then on the source has its time, and is judged by it."""

    class Full(Part):
        async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
            self.health.progressed(asyncio.get_running_loop().time())
            yield Delivery([Change("www", "a")])
            await asyncio.sleep(1e9)

    async def nothing(_health: SourceHealth) -> None:
        """Do nothing."""

    source: Any = Full(nothing)
    parts: dict[str, Any] = {"retry": None, "committed": lambda: None}
    intake = Intake(lambda: {"www": source}, None, None, **parts)  # type: ignore[arg-type]
    intake._inbox = Inbox(max_changes=1)
    reading = asyncio.create_task(intake.read("www"))
    watching = asyncio.create_task(Stalls(lambda: intake.sources, intake.busy).watch())
    await asyncio.sleep(100)
    assert intake.busy == {"www"}
    intake._inbox.take(1)
    intake._room.set()
    await asyncio.sleep(50)
    assert (source.health.state, source.health.ready) == (SourceState.LISTENING, True)
    await asyncio.sleep(20)
    assert "no progress" in source.health.detail
    for task in (reading, watching):
        task.cancel()
    await asyncio.gather(reading, watching, return_exceptions=True)


async def test_requests_that_nobody_answers_are_reported(tmp_path: Path) -> None:
    """An authenticated request whose answer never comes; a path to which nothing is sent is well."""
    source = Idle()
    settings = WebhookSettings(listen="127.0.0.1:0", path="/x", token="t" * 32)  # type: ignore[call-arg]
    receiver = Receiver("www", settings, [], health=source.health, now=SystemClock().now)
    async with judging(source):
        await asyncio.sleep(300)
        assert source.health.ready
        waiting = asyncio.create_task(receiver.pending.durable([Change("www", "a")], []))
        await asyncio.sleep(70)
        assert "no progress" in source.health.detail
        delivery = await receiver.pending.take()
        await delivery.ack()
        assert await waiting
        await asyncio.sleep(10)
        assert (source.health.state, source.health.detail) == (SourceState.LISTENING, "")
        await asyncio.sleep(300)
        assert source.health.ready


async def test_of_a_joined_source_each_part_is_judged() -> None:
    """A queue that hangs is reported though the listing rests, and the report is not overwritten by joining."""
    queue = Queue()

    async def poll(health: SourceHealth) -> None:
        async for _ in read(queue, health):
            pass

    async def rest(health: SourceHealth) -> None:
        health.rests()
        await asyncio.sleep(1e9)

    joined = EventsWithReconcile(Part(poll), ListingSettings(url="s3://bucket/"))  # type: ignore[call-arg]
    joined.parts = (joined.parts[0], Part(rest))
    joined._listing = joined.parts[1]  # type: ignore[assignment]
    reading = asyncio.ensure_future(anext(aiter(joined.deliveries(None))))  # type: ignore[arg-type]
    async with judging(joined):
        await asyncio.sleep(300)
        assert (joined.health.state, joined.health.ready, joined.health.detail) == (SourceState.LISTENING, True, "")
        queue.answers.clear()
        await asyncio.sleep(100)
        assert (joined.health.state, joined.health.ready) == (SourceState.DEGRADED, False)
        assert "no progress" in joined.health.detail
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.looptime(False)
async def test_a_listing_that_hangs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that never comes: reported, and gone once it came; the time to the next listing is no stall."""
    monkeypatch.setattr("listener.pipeline.intake.STALLED_SECONDS", 1.0)
    monkeypatch.setattr("listener.pipeline.intake._LOOK_SECONDS", 0.1)
    hangs = threading.Event()

    class Hanging:
        root, prefix, complete, what = "www", "", True, "a bucket"

        def changes(self, after: str = "") -> Iterator[Change]:
            hangs.wait(30)
            yield Change("www", after + "a")

        def close(self) -> None:
            pass

    class Index:
        async def seeded(self, _root: str) -> bool:
            return False

        async def mark_seeded(self, _root: str) -> None:
            pass

    monkeypatch.setattr(listing_source, "listing_of", lambda *_, **__: Hanging())
    source = listing_source.ListingSource("www", ListingSettings(url="s3://bucket/"))  # type: ignore[call-arg]
    health = source.health

    async def read() -> None:
        async for delivery in source.deliveries(Index()):  # type: ignore[arg-type]
            await delivery.ack()

    reading = asyncio.create_task(read())
    async with judging(source):
        await until(lambda: "no progress" in health.detail)
        hangs.set()
        await until(lambda: health.ready and not health.detail)
        assert health.silent_seconds(asyncio.get_running_loop().time()) is None
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
