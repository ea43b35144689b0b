"""Promise 7: a source that hangs is degraded within a minute, in every view, and well again once it moves."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from source_harness import Reader

from listener.contracts import SourceHealth, SourceState
from listener.daemon.health import reasons_not_ready
from listener.pipeline import stalls
from listener.pipeline.stalls import Stalls
from listener.sources.filesystem.look import Looker


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
    """A delivery that is being taken, a source that never tells of progress, one that moves."""
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
    monkeypatch.setattr(stalls, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(stalls, "_LOOK_SECONDS", 0.1)
    hangs, real = threading.Event(), Looker.all

    def look(self: Looker, *arguments: Any) -> Any:
        hangs.wait(30)
        return real(self, *arguments)

    monkeypatch.setattr(Looker, "all", look)
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
        await reader.until_told("page")
        await reader.until(lambda: reader.source.health.ready and not reader.source.health.detail, "well again")
        watching.cancel()
