"""The status page with very many dead letters: small, quick, and no hindrance to what arrives meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from pathlib import Path

import pytest

from listener.daemon.admin.rendering import PageContext, Renderer
from listener.daemon.state import DaemonState, Parts
from listener.daemon.status_page import LETTERS_SHOWN, StatusPage
from listener.store.letters import EVERY_LETTER, LetterFilter, LetterKind
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)

COUNT = 100_000
MOST_PAGE_BYTES = 150_000
"""With 25 letters, 12 stale URLs and 12 refreshes, each text at most 300 characters shown, and up to 8 bytes each."""


def fill(connection: sqlite3.Connection, base_url: str) -> None:
    """Set 100,000 hostile keys and 100,000 rejected URLs aside."""
    hostile = '<"&\u202e'.encode() * 300
    connection.executemany(
        "INSERT INTO dead_letter (at, source, kind, digest, subject, reason) VALUES (?, 'www', 'key', ?, ?, ?)",
        ((n, hashlib.sha256(b"%d" % n).digest(), b"%d" % n + hostile, "no URL " * 140) for n in range(COUNT)),
    )
    connection.execute("INSERT OR IGNORE INTO target (name) VALUES ('cdn')")
    (target,) = connection.execute("SELECT id FROM target WHERE name = 'cdn'").fetchone()
    connection.execute("INSERT INTO directory (target, url) VALUES (?, ?)", (target, base_url))
    (directory,) = connection.execute("SELECT max(id) FROM directory").fetchone()
    connection.executemany(
        "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open, reason)"
        " VALUES (?, ?, 0, 1, ?, 0, 3, 0, 'Malformed')",
        ((directory, f"{n}.html", float(n)) for n in range(COUNT)),
    )


def page_of(world: World) -> StatusPage:
    """Return what the admin port shows of this world."""
    state = DaemonState(phase="running", parts=Parts(world.settings, {"cdn": world.target}))
    state.store, state.pipeline = world.store, world.pipeline
    return StatusPage(state)


async def render(
    status_page: StatusPage, renderer: Renderer, wanted: LetterFilter = EVERY_LETTER
) -> tuple[float, bytes]:
    """Return the seconds of CPU that one page took, whatever else the machine does, and the page."""
    began = time.process_time()
    snapshot = await status_page.snapshot()
    context = PageContext(snapshot=snapshot, letters=await status_page.letters(wanted), may_decide=True, has_token=True)
    response = await asyncio.to_thread(renderer.page, context)
    return time.process_time() - began, bytes(response.body)  # type: ignore[arg-type]


async def test_the_page_is_small_and_quick_with_a_hundred_thousand_letters(tmp_path: Path) -> None:
    """Under 100 ms of CPU, of bounded size; a change is recorded while pages are rendered."""
    async with a_world(tmp_path) as world:
        await world.store._write(fill, world.settings.sites[0].base_urls[0])
        await world.store.checkpoint()
        status_page, renderer = page_of(world), Renderer()
        status = await status_page.status(brief=True)
        assert (status["dead_letters"], status["parked"]) == (2 * COUNT, 2 * COUNT)
        await render(status_page, renderer)
        took, pages = [], []
        last = (await status_page.letters(EVERY_LETTER)).rows[-1].id
        for wanted in (
            EVERY_LETTER,
            LetterFilter(after=last),
            LetterFilter(LetterKind.KEY),
            LetterFilter(source="www"),
        ):
            runs = [await render(status_page, renderer, wanted) for _ in range(3)]
            took.append(min(seconds for seconds, _ in runs))
            pages.append(runs[0][1])
        assert max(took) < 0.1, took
        assert max(map(len, pages)) < MOST_PAGE_BYTES
        assert pages[0].count(b'aria-label="Retry') == LETTERS_SHOWN
        assert b'aria-label="Retry' not in pages[2]
        rendering = asyncio.create_task(render(status_page, renderer))
        world.source.deliver(world.write("a.html", "new"))
        began = time.perf_counter()
        await world.until(lambda: world.source.acked == 1)
        assert time.perf_counter() - began < 10.0
        await rendering
