"""The source on the real store: what a scan learns is what the next one compares with."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from listener.change import Change, ChangeKind
from listener.router import Router
from listener.settings import Site
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.walker import Walker
from listener.store import Store, open_store
from listener.store.batches import Batch
from listener.store.filtering import SAME_BYTES

pytestmark = pytest.mark.looptime(False)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """Return an empty store."""
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as made:
        yield made


async def follow(root: Path, store: Store, **settings: Any) -> list[Change]:
    """Run a source until its first scan is durable; return what it reported as changes."""
    router = Router(
        [Site.model_validate({"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]})]
    )
    source = FilesystemSource("www", FilesystemSettings(path=root, stable_seconds=0, **settings))
    reported: list[Change] = []

    async def record() -> None:
        async for delivery in source.deliveries(store):
            await store.record([Batch(delivery.changes, delivery.scan_sequence, delivery.seed)], router.route)
            reported.extend(() if delivery.seed else delivery.changes)
            await delivery.ack()

    task = asyncio.create_task(record())
    async with asyncio.timeout(40):
        while not source.health.ready:
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return reported


async def test_a_rewrite_with_the_same_bytes_leaves_a_trace(tmp_path: Path, store: Store) -> None:
    """No refresh is made of it, and of nothing else is said that a change was left out."""
    root = tmp_path / "www"
    root.mkdir()
    for name in ("page.html", "other.html"):
        (root / name).write_text("one")
    router = Router(
        [Site.model_validate({"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]})]
    )
    source = FilesystemSource("www", FilesystemSettings(path=root, stable_seconds=0))

    async def record() -> None:
        async for delivery in source.deliveries(store):
            await store.record([Batch(delivery.changes, delivery.scan_sequence, delivery.seed)], router.route)
            await delivery.ack()

    async def trace(name: str) -> tuple[int, str] | None:
        found = await store.suppressed(f"https://www.example.com/{name}")
        return None if found is None else (found.times, found.reason)

    task = asyncio.create_task(record())
    async with asyncio.timeout(40):
        while source.health.figures.get("digests_made") != 2:
            await asyncio.sleep(0.01)
        assert await trace("page.html") is None
        (tmp_path / "new").write_text("one")
        (tmp_path / "new").replace(root / "page.html")
        while await trace("page.html") is None:
            await asyncio.sleep(0.01)
    assert await trace("page.html") == (1, SAME_BYTES)
    assert await trace("other.html") is None
    assert (await store.counts()).pending == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_second_scan_reports_what_differs_and_nothing_else(tmp_path: Path, store: Store) -> None:
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
    # By their names: digests are added in spare time.
    found = {name: set(rows) for name, rows in (await store.contents("www", names)).items()}
    assert found == {name: set(await store.directory("www", name)) for name in names}
    assert {len(rows) for rows in (await store.contents("www", names)).values()} == {0, 1, 2}


@pytest.mark.parametrize("target", ["d", "e/d", "nowhere"])
async def test_a_link_that_leads_in_a_circle_stands_where_a_directory_was(
    tmp_path: Path, store: Store, target: str
) -> None:
    """No server follows it, so what lay below is gone, and not merely unread."""
    root = tmp_path / "www"
    (root / "d" / "below").mkdir(parents=True)
    (root / "d" / "page.html").write_text("one")
    (root / "d" / "below" / "page.html").write_text("one")
    (root / "stays").write_text("one")
    assert await follow(root, store) == []
    shutil.rmtree(root / "d")
    (root / "d").symlink_to(target)
    (root / "e").symlink_to("d")
    reported = await follow(root, store)
    assert {(each.key, each.kind) for each in reported} == {
        ("d/page.html", ChangeKind.DELETED),
        ("d/below/page.html", ChangeKind.DELETED),
    }


async def test_a_link_that_is_not_followed_stands_where_a_directory_was(tmp_path: Path, store: Store) -> None:
    """What lay below is gone, though the link leads to files of the same names."""
    root = tmp_path / "www"
    for place in ("d/below", "e/below"):
        (root / place).mkdir(parents=True)
        (root / place / "page.html").write_text("one")
    assert await follow(root, store, follow_symlinks=False) == []
    shutil.rmtree(root / "d")
    (root / "d").symlink_to("e")
    reported = await follow(root, store, follow_symlinks=False)
    assert [(each.key, each.kind) for each in reported] == [("d/below/page.html", ChangeKind.DELETED)]


def test_a_scan_does_not_begin_beyond_a_link_that_is_not_followed(tmp_path: Path) -> None:
    """Asked to look at a directory whose place a link took, it finds nothing there."""
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "page.html").write_text("one")
    (tmp_path / "d").symlink_to("e")
    for follow, expected in ((True, [{"page.html"}]), (False, [])):
        walker = Walker(
            os.fsencode(tmp_path) + b"/",
            Ignore(),
            prefix="d/",
            follow=follow,
            enter=lambda _: None,
        )
        assert [set(listing.files) for listing in walker.step(10)] == expected


def test_a_walk_that_begins_in_an_ignored_directory_is_empty(tmp_path: Path) -> None:
    """A mount that comes there is no reason to report what is in it."""
    (tmp_path / "cache" / "below").mkdir(parents=True)
    (tmp_path / "cache" / "below" / "page.html").write_text("x")
    for prefix in ("cache/", "cache/below/"):
        walker = Walker(os.fsencode(tmp_path) + b"/", Ignore(("cache/",)), prefix=prefix, enter=lambda _: None)
        assert walker.step(10) == []
