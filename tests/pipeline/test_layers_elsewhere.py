"""An outer layer whose inner one another instance refreshes, and one that a one-shot run refreshes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from listener.change import Change
from listener.contracts import ReportsTasks
from listener.pipeline import Pipeline, layers, store_options
from listener.refresh import Receipt, RefreshKind, Task, TaskState
from listener.store import Store, open_store
from listener.store.leadership import Leadership, leadership_of
from listener.store.store import StoreOptions
from tests.pipeline.scripted import BASE, Sent
from tests.pipeline.test_layers import Layer, layered
from tests.pipeline.world import MovableClock, PlayedSource, settings_for
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)


class Slow(Layer, ReportsTasks):
    """Works on each request for a while after it has accepted it."""

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """Accept it."""
        await super().submit(kind, urls, force=force, token=token)
        return Receipt(("a-task",))

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Be done at the second look."""
        self.looks = vars(self).get("looks", 0) + 1
        state = TaskState.REFRESHING if self.looks < 2 else TaskState.COMPLETE
        return [Task("a-task", None, RefreshKind.FILE, state)]


async def test_the_leader_of_an_outer_layer_learns_at_once_that_the_inner_one_is_done(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another instance refreshes that; nobody looks by itself for minutes."""
    monkeypatch.setattr("listener.pipeline.planning_round.LOOK_SECONDS", 600.0)
    assert layers.LOOK_SECONDS < 600.0
    journal: list[tuple[str, Sent]] = []

    def lead_only(account: str) -> object:
        def lead(store: Store, options: StoreOptions) -> Leadership:
            return leadership_of(store, postgres_database, accounts=[account], options=options)

        return lead

    def settings(name: str) -> dict[str, object]:
        return {"store": {"url": postgres_database}, "instance": {"name": name}, "fleet": {"lease_seconds": 3.0}}

    inner = [Layer("inner", "inner", journal) for _ in range(2)]
    outer = [Layer("outer", "outer", journal) for _ in range(2)]
    inner[0].may_answer.clear()
    async with (
        layered(tmp_path, BASE, inner[0], outer[0], extra=settings("web-1"), lead=lead_only("inner")) as first,  # type: ignore[arg-type]
        layered(tmp_path, BASE, inner[1], outer[1], extra=settings("web-2"), lead=lead_only("outer")) as second,  # type: ignore[arg-type]
    ):
        await until(lambda: first.pipeline.engines and second.pipeline.engines)
        first.source.deliver(Change("www", "d/a.html"))
        await until(lambda: len(journal) == 1)
        await until(lambda: any("waits until the layer" in one.reason for one in _deferred(second.pipeline)))
        inner[0].may_answer.set()
        await until(lambda: len(journal) == 2, seconds=8.0)
        assert [name for name, _ in journal] == ["inner", "outer"]
        assert outer[1].sent and not outer[0].sent


def _deferred(pipeline: Pipeline) -> list[object]:
    return [one for engine in pipeline.engines for one in engine.outcome.deferred]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_one_shot_run_ends_after_the_outer_layer(tmp_path: Path, follow: bool) -> None:
    """Though it waits for no task otherwise."""
    journal: list[tuple[str, Sent]] = []
    targets = {"inner": Slow("inner", "inner", journal), "outer": Layer("outer", "outer", journal)}
    edge = type("Edge", (), {"edge_url": BASE.rstrip("/")})
    tables = {"targets": {name: {"type": "alibaba-cdn"} for name in ("inner", "outer", "cdn")}}
    settings = settings_for(tmp_path, edge, tables, {"target": None, "targets": ["inner", "outer"]})  # type: ignore[arg-type]
    source, clock = PlayedSource(), MovableClock()
    store = open_store(settings.store.url, options=store_options(settings, targets), clock=clock, owner=True)
    pipeline = Pipeline(settings, store, make_sources=lambda: {"www": source}, targets=targets, clock=clock)
    source.deliver(Change("www", "d/a.html"))
    source.queue.put_nowait(None)
    async with asyncio.timeout(60):
        await pipeline.run(until_idle=True, follow=follow)
    await store.close()
    assert [name for name, _ in journal] == ["inner", "outer"]
