"""The source on the real store: what a scan learns is what the next one compares with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from listener.change import Change
from listener.router import Router
from listener.settings import Site
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.store import Store, open_store
from listener.store.batches import Batch

pytestmark = pytest.mark.looptime(False)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Return an empty store."""
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as made:
        yield made


async def follow(root: Path, store: Store) -> list[Change]:
    """Run a source until its first scan is durable; return what it told as changes."""
    router = Router(
        [Site.model_validate({"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]})]
    )
    source = FilesystemSource("www", FilesystemSettings(path=root, stable_seconds=0))
    told: list[Change] = []

    async def record() -> None:
        async for delivery in source.deliveries(store):
            await store.record([Batch(delivery.changes, delivery.scan_sequence, delivery.seed)], router.route)
            told.extend(() if delivery.seed else delivery.changes)
            await delivery.ack()

    task = asyncio.create_task(record())
    async with asyncio.timeout(40):
        while not source.health.ready:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return told


async def test_a_second_scan_tells_what_differs_and_nothing_else(tmp_path: Path, store: Store) -> None:
    """Names of any bytes, many directories: what the store gives back equals what the tree says."""
    root = tmp_path / "www"
    for number in range(150):
        (root / f"d{number}").mkdir(parents=True)
        (root / f"d{number}" / "page.html").write_text("one")
    (root / "d0" / "日本").write_text("one")
    Path(f"{root}/d0/\udcff").write_text("one")
    assert await follow(root, store) == []
    assert await follow(root, store) == []
    (root / "d7" / "page.html").write_text("two, longer")
    (root / "d8" / "page.html").unlink()
    assert {change.key for change in await follow(root, store)} == {"d7/page.html", "d8/page.html"}


async def test_several_directories_are_answered_as_each_by_itself(tmp_path: Path, store: Store) -> None:
    """Also one that nobody knows."""
    for path in ("a/1", "a/2", "b/1"):
        (tmp_path / "www" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "www" / path).write_text(path)
    await follow(tmp_path / "www", store)
    names = ["", "a/", "b/", "none/"]
    assert await store.contents("www", names) == {name: await store.directory("www", name) for name in names}
    assert {len(rows) for rows in (await store.contents("www", names)).values()} == {0, 1, 2}
