"""What a daemon with nothing to do costs: every timer of an hour, in virtual time, with what threads do run at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from listener.contracts import Check, KindLimits, Source, TargetBase
from listener.daemon.service import Daemon
from listener.pipeline import Pipeline, store_options
from listener.refresh import Receipt, RefreshKind
from listener.settings import Settings
from listener.sources.filesystem import FilesystemSettings, FilesystemSource, known, live, mounts, source
from listener.sources.listing.settings import ListingSettings
from listener.sources.listing.source import EventsWithReconcile
from listener.sources.webhook import WebhookSettings, WebhookSource
from listener.store import open_store
from listener.store.access import Access
from listener.store.writer import Item, Writer

HOUR_SECONDS = 3600.0
SETTLE_SECONDS = 120.0
MOST_WAKE_UPS = 2 * HOUR_SECONDS
WAKES_OF_A_CALL = 3
"""Of the thread that is called, of the caller that gets its result, and one to spare for a lock between the two."""


class Nowhere(TargetBase):
    """A target that refreshes at once."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    limits: Mapping[RefreshKind, KindLimits] = {RefreshKind.FILE: KindLimits(100)}

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        return Receipt(())

    async def check(self) -> Sequence[Check]:
        return ()


class Clock:
    """The loop's clock, in the middle of a quota day."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return 1_800_000_000.0 + self._loop.time()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Run at once what threads do, and count that, and the moments at which the loop does anything."""
    loop, counts, moments = asyncio.get_running_loop(), Counter[str](), set[float]()

    async def at_once(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        counts["calls"] += 1
        return call(*arguments, **options)

    async def read(_: Access, __: Any, run: Callable[[], Any]) -> Any:
        counts["calls"] += 1
        return run()

    def submit(self: Writer, operation: Any, *, apart: bool = False) -> Future[Any]:
        counts["calls"] += 1
        item = Item(operation, Future(), apart)
        self._turn(item, 0.0)
        return item.future

    real = loop._run_once  # type: ignore[attr-defined]

    def run_once() -> None:
        moments.add(loop.time())
        counts["moments"] = len(moments)
        real()

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(Access, "_run_in", read)
    monkeypatch.setattr(Writer, "submit", submit)
    monkeypatch.setattr(loop, "_run_once", run_once)
    clock = SimpleNamespace(monotonic=loop.time, time=Clock().now, time_ns=lambda: int(Clock().now() * 1e9))
    for module in (source, live, mounts, known):
        monkeypatch.setattr(module, "time", clock)
    yield counts


@asynccontextmanager
async def idling(folder: Path, make: Callable[[], Mapping[str, Source]]) -> AsyncIterator[Pipeline]:
    """Run what a daemon runs on these sources, with a service manager that watches it."""
    settings = Settings(
        store={"url": f"sqlite:///{folder}/state.db"},  # type: ignore[arg-type]
        sources={name: {"type": "played"} for name in make()},
        targets={"cdn": {"type": "nowhere"}},
        sites=[{"source": name, "target": "cdn", "base_urls": ["https://example.com/"]} for name in make()],  # type: ignore[arg-type]
    )
    targets = {"cdn": Nowhere("cdn", None)}
    clock = Clock()
    store = open_store(settings.store.url, options=store_options(settings, targets), clock=clock, owner=True)  # type: ignore[arg-type]
    pipeline = Pipeline(settings, store, make_sources=make, targets=targets, clock=clock)  # type: ignore[arg-type]
    daemon = Daemon(lambda: settings, environ={"WATCHDOG_USEC": "60000000"})
    state = daemon._state
    state.phase, state.store, state.pipeline = "running", store, pipeline
    tasks = [asyncio.create_task(one, name=name) for name, one in daemon._helpers()]
    running = asyncio.create_task(pipeline.run())
    try:
        yield pipeline
    finally:
        for task in tasks:
            task.cancel()
        pipeline.stop()
        await running
        await store.close()


def a_tree(folder: Path) -> Mapping[str, Source]:
    """Return a source of three files."""
    return {"www": FilesystemSource("www", FilesystemSettings(path=folder / "www"))}


def a_webhook(_: Path) -> Mapping[str, Source]:
    """Return a source that listens."""
    return {"www": WebhookSource("www", WebhookSettings(listen="127.0.0.1:0", anonymous=True))}


def a_webhook_that_reconciles(folder: Path) -> Mapping[str, Source]:
    """Return one that also compares a storage with the index, once a day."""
    events = WebhookSource("www", WebhookSettings(listen="127.0.0.1:0", anonymous=True))
    return {"www": EventsWithReconcile(events, ListingSettings(url=f"file://{folder}/www", interval_seconds=86400))}


@pytest.mark.parametrize("make", [a_tree, a_webhook, a_webhook_that_reconciles])
async def test_an_idle_hour_costs_few_wake_ups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Mapping[str, Source]]
) -> None:
    """Two a second at most, all threads together, whatever waits: no stage polls."""
    (tmp_path / "www").mkdir()
    for name in ("a.html", "b.html", "c.html"):
        (tmp_path / "www" / name).write_text(name)
    with counted(monkeypatch) as counts:
        async with idling(tmp_path, lambda: make(tmp_path)) as pipeline:
            await asyncio.sleep(SETTLE_SECONDS)
            assert pipeline.ready
            before = Counter(counts)
            await asyncio.sleep(HOUR_SECONDS)
            used = counts - before
    assert used["moments"] + WAKES_OF_A_CALL * used["calls"] <= MOST_WAKE_UPS, used
