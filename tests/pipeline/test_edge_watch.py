"""After a refresh the edge is probed: stale points of presence are found, mended once within a share, and named."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from listener.allowances import Allowance, Day, for_each_kind
from listener.edge import prober
from listener.pipeline import observing
from listener.pipeline.observing import EdgeWatch
from listener.pipeline.repeating import REPEATED, RepeatShare
from listener.refresh import Attempt, RefreshKind, Scope
from tests.edge.scripted import an_edge
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shortly wherever it waits."""
    monkeypatch.setattr(prober, "AGAIN_SECONDS", 0.01)
    for name in ("FIRST_LOOK_SECONDS", "ORIGIN_LOOK_SECONDS"):
        monkeypatch.setattr(observing, name, 0.1)
    monkeypatch.setattr(observing, "LAST_LOOK_SECONDS", 0.2)


class Pop:
    """A point of presence, or an origin: serves what it keeps, until it is refreshed."""

    def __init__(self, folder: Path, *, ignores: int = 0) -> None:
        """Ignore so many refreshes of each file."""
        self.folder = folder
        self.ignores = ignores
        self.kept: dict[str, tuple[bytes, float]] = {}
        self.refreshes: dict[str, int] = {}

    def read(self, key: str) -> tuple[bytes, float]:
        path = self.folder / key
        return path.read_bytes(), path.stat().st_mtime

    def refresh(self, key: str) -> None:
        """Take what the origin has, unless it is ignored."""
        self.refreshes[key] = self.refreshes.get(key, 0) + 1
        if self.refreshes[key] > self.ignores:
            self.kept[key] = self.read(key)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        body, modified_at = self.kept[request.path[1:]]
        return web.Response(body=body, headers={"Last-Modified": formatdate(modified_at, usegmt=True)})


def change(world: World, pop: Pop, *keys: str) -> None:
    """Let the point of presence keep the present version of each file, and change the files."""
    for key in keys:
        path = world.origin / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
        pop.kept[key] = pop.read(key)
        world.source.deliver(world.write(key, "newer"))


def follow(world: World, pop: Pop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refresh the point of presence whenever a request is complete; return the keys of the requests."""
    note, seen = watch(world).note, list[str]()

    def noted(complete: Any) -> None:
        for one in complete:
            key = one.url.removeprefix(world.url(""))
            seen.append(key)
            if one.kind is RefreshKind.FILE:
                pop.refresh(key)
            else:
                for kept in list(pop.kept):
                    if kept.startswith(key):
                        pop.refresh(kept)
        note(complete)

    monkeypatch.setattr(world.pipeline.edge, "note", noted)
    return seen


def watch(world: World) -> EdgeWatch:
    """Return what probes."""
    assert world.pipeline.edge is not None
    return world.pipeline.edge


def settings(port: int, **edge: Any) -> dict[str, Any]:
    """Return the tables that switch probes of a point of presence on."""
    table = {"mode": "all", "after_seconds": 0.0, "per_minute": 60_000, "edges": [f"127.0.0.1:{port}"], **edge}
    return {"verifier": {"edge": table}}


async def test_a_point_of_presence_that_takes_refreshes_is_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, and nothing more is requested."""
    pop = Pop(tmp_path / "origin")
    async with an_edge(pop.answer) as edge, a_world(tmp_path, extra=settings(edge.port)) as world:
        seen = follow(world, pop, monkeypatch)
        change(world, pop, "a.html")
        await world.until(lambda: watch(world).report()["fresh"] == 1)
        report = watch(world).report()
        assert (report["stale"], report["unknown"], report["repeated"], seen) == (0, 0, 0, ["a.html"])
        assert watch(world).problems() == []
        assert edge.requests[0][2]["host"] == world.url("").removeprefix("http://").rstrip("/")


async def test_a_refresh_that_was_ignored_is_repeated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And mends it: the problem goes."""
    pop = Pop(tmp_path / "origin", ignores=1)
    async with an_edge(pop.answer) as edge, a_world(tmp_path, extra=settings(edge.port)) as world:
        seen = follow(world, pop, monkeypatch)
        change(world, pop, "a.html")
        await world.until(lambda: watch(world).report()["fresh"] == 1)
        assert watch(world).report()["repeated"] == 1
        assert seen == ["a.html", "a.html"]
        assert watch(world).problems() == []
        (last, _) = await world.store.history(limit=2)
        assert last["reason"].startswith(REPEATED)


async def test_an_edge_that_ignores_refreshes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it serves, since when; it costs one more request, and the problem goes once it is fresh."""
    from listener.daemon.status import Known, status_of
    from listener.store.owner import Owner

    pop = Pop(tmp_path / "origin", ignores=99)
    async with an_edge(pop.answer) as edge, a_world(tmp_path, extra=settings(edge.port)) as world:
        seen = follow(world, pop, monkeypatch)
        began = world.clock.now()
        change(world, pop, "a.html")
        await world.until(lambda: watch(world).report()["stale"] >= 6)
        ((what, since, remedy),) = watch(world).problems()
        assert f"edge 127.0.0.1:{edge.port} serves 1 URL stale" in what
        assert world.url("a.html") in what
        assert "3 bytes, and the storage has 5 (the copy of " in what
        assert since is not None
        assert began <= since <= world.clock.now()
        assert f"probe {world.url('a.html')} --edge 127.0.0.1:{edge.port}" in remedy
        assert seen == ["a.html", "a.html"]
        owner = Owner(is_running=True)
        status = await status_of(
            world.store,
            world.settings,
            {"cdn": world.target},
            now=world.clock.now(),
            owner=owner,
            known=Known.to(world.pipeline),
        )
        assert status["edge"]["stale_urls"] == {f"127.0.0.1:{edge.port}": 1}
        assert [one["what"] for one in status["problems"]] == [what]
        probes = watch(world).report()["stale"]
        await world.until(lambda: watch(world).report()["stale"] > probes)
        assert [one[1] for one in watch(world).problems()] == [since]
        pop.kept["a.html"] = pop.read("a.html")
        await world.until(lambda: watch(world).problems() == [])


async def test_repeats_stay_within_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many stale URLs, as many as the share pays for are refreshed once more; all are named."""
    pop = Pop(tmp_path / "origin", ignores=99)
    extra = settings(0, repeat_share=0.005)
    async with an_edge(pop.answer) as edge:
        extra["verifier"]["edge"]["edges"] = [f"127.0.0.1:{edge.port}"]
        async with a_world(tmp_path, extra=extra, quota=(1000, 0)) as world:
            seen = follow(world, pop, monkeypatch)
            change(world, pop, *(f"{number}.html" for number in range(20)))
            await world.until(lambda: watch(world).report()["not_repeated"] >= 15)
            assert watch(world).report()["repeated"] == 5
            await world.until(lambda: len(seen) == 25)
            assert "serves 20 URLs stale" in watch(world).problems()[0][0]


async def test_a_late_origin_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, nothing is requested before it serves the change, and then once."""
    pop = Pop(tmp_path / "origin")
    late = Pop(tmp_path / "origin")
    async with (
        an_edge(pop.answer) as edge,
        an_edge(late.answer) as origin,
        a_world(tmp_path, extra=settings(edge.port), site={"origin_url": origin.url}) as world,
    ):
        seen = follow(world, pop, monkeypatch)
        pop.read = lambda key: late.kept[key]  # type: ignore[method-assign]
        (world.origin / "a.html").write_text("old")
        pop.kept["a.html"] = late.kept["a.html"] = late.read("a.html")
        world.source.deliver(world.write("a.html", "newer"))
        await world.until(lambda: len(origin.requests) >= 4)
        assert seen == ["a.html"]
        problems = [what for what, _, _ in watch(world).problems()]
        assert any(what.startswith("the origin still serves 1 URL as before the change") for what in problems)
        late.kept["a.html"] = late.read("a.html")
        await world.until(lambda: watch(world).report()["fresh"] == 1)
        assert (seen, watch(world).problems()) == (["a.html", "a.html"], [])


async def test_an_edge_that_mends_itself_with_the_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs no refresh: the problem goes."""
    pop, late = Pop(tmp_path / "origin", ignores=99), Pop(tmp_path / "origin")
    async with (
        an_edge(pop.answer) as edge,
        an_edge(late.answer) as origin,
        a_world(tmp_path, extra=settings(edge.port), site={"origin_url": origin.url}) as world,
    ):
        seen = follow(world, pop, monkeypatch)
        (world.origin / "a.html").write_text("old")
        pop.kept["a.html"] = late.kept["a.html"] = late.read("a.html")
        world.source.deliver(world.write("a.html", "newer"))
        await world.until(lambda: len(watch(world).problems()) == 2)
        pop.kept["a.html"] = late.read("a.html")
        late.kept["a.html"] = late.read("a.html")
        await world.until(lambda: watch(world).problems() == [])
        assert seen == ["a.html"]


async def test_each_change_may_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also soon after the one before it; without a change it is not repeated again."""
    pop = Pop(tmp_path / "origin", ignores=1)
    table = {**settings(0), "coalescer": {"quiet_seconds": 0.05, "cap_seconds": 1.0}}
    async with an_edge(pop.answer) as edge:
        table["verifier"]["edge"]["edges"] = [f"127.0.0.1:{edge.port}"]
        async with a_world(tmp_path, extra=table, site={"min_interval_seconds": 0.0}) as world:
            seen = follow(world, pop, monkeypatch)
            change(world, pop, "a.html")
            await world.until(lambda: len(seen) == 2)
            await world.until(lambda: not watch(world).problems())
            pop.refreshes.clear()
            world.source.deliver(world.write("a.html", "newest of all"))
            await world.until(lambda: len(seen) == 4)
            await world.until(lambda: not watch(world).problems())


async def test_a_race_with_an_origin_that_lags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the edge fetched too early is found and mended, and each URL is refreshed once more at most."""
    chance = random.Random(5)
    late = Pop(tmp_path / "origin")
    has_it: dict[str, float] = {}

    def lagging(key: str) -> tuple[bytes, float]:
        if time.monotonic() >= has_it.get(key, 0.0):
            late.kept[key] = Pop.read(late, key)
        return late.kept[key]

    async def origin_answer(request: web.BaseRequest) -> web.Response:
        lagging(request.path[1:])
        return await late.answer(request)

    pop = Pop(tmp_path / "origin")
    keys = [f"{number}.html" for number in range(60)]
    async with (
        an_edge(pop.answer) as edge,
        an_edge(origin_answer) as origin,
        a_world(tmp_path, extra=settings(edge.port, repeat_share=0.5), site={"origin_url": origin.url}) as world,
    ):
        seen = follow(world, pop, monkeypatch)
        for key in keys:
            (world.origin / key).write_text("old")
            pop.kept[key] = late.kept[key] = late.read(key)
            has_it[key] = time.monotonic() + chance.choice([0.0, 0.0, chance.uniform(0, 4)])
        pop.read = lagging  # type: ignore[method-assign]
        for key in keys:
            world.source.deliver(world.write(key, "newer"))
        await world.until(lambda: all(pop.kept[key][0] == b"newer" for key in keys))
        await world.until(lambda: not watch(world).problems())
        assert len(keys) < len(seen) <= 2 * len(keys)
        assert max(Counter(seen).values()) == 2


async def test_a_newer_change_is_no_fault_of_the_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stale since it changed again is refreshed anyway."""
    pop = Pop(tmp_path / "origin", ignores=99)
    extra = {**settings(0, after_seconds=0.5), "coalescer": {"quiet_seconds": 3.0, "cap_seconds": 3.0}}
    async with an_edge(pop.answer) as edge:
        extra["verifier"]["edge"]["edges"] = [f"127.0.0.1:{edge.port}"]
        async with a_world(tmp_path, extra=extra) as world:
            seen = follow(world, pop, monkeypatch)
            change(world, pop, "a.html")
            await world.until(lambda: seen)
            world.source.deliver(world.write("a.html", "newest"))
            await world.until(lambda: edge.requests)
            await asyncio.sleep(0.2)
            assert (watch(world).report()["stale"], watch(world).problems()) == (0, [])


async def test_an_edge_that_fails_after_it_was_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stays a problem while it is unknown, and is probed until it is fresh."""
    pop = Pop(tmp_path / "origin", ignores=99)
    fails: list[int] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        if fails:
            fails.append(1)
        return web.Response(status=503) if 0 < len(fails) < 4 else await pop.answer(request)

    async with an_edge(answer) as edge, a_world(tmp_path, extra=settings(edge.port)) as world:
        follow(world, pop, monkeypatch)
        change(world, pop, "a.html")
        await world.until(lambda: watch(world).report()["stale"] >= 3)
        fails.append(1)
        await world.until(lambda: watch(world).report()["unknown"] >= 1)
        assert len(watch(world).problems()) == 1
        pop.kept["a.html"] = pop.read("a.html")
        await world.until(lambda: watch(world).problems() == [])


async def test_some_urls_of_a_directory_are_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the index knows."""
    pop = Pop(tmp_path / "origin")
    async with an_edge(pop.answer) as edge, a_world(tmp_path, extra=settings(edge.port), quota=(3, 5)) as world:
        follow(world, pop, monkeypatch)
        change(world, pop, *(f"d/{number}.html" for number in range(12)))
        await world.until(lambda: watch(world).report()["fresh"] >= observing.OF_A_DIRECTORY)
        assert watch(world).report()["stale"] == 0


async def test_what_is_unknown_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason; nothing is requested for it."""

    async def fails(_: web.BaseRequest) -> web.Response:
        return web.Response(status=503)

    pop = Pop(tmp_path / "origin")
    async with an_edge(fails) as edge, a_world(tmp_path, extra=settings(edge.port)) as world:
        seen = follow(world, pop, monkeypatch)
        change(world, pop, "a.html")
        await world.until(lambda: watch(world).report()["unknown"] == 1)
        (one,) = watch(world).report()["latest_unknown"]
        assert (one["url"], one["reason"]) == (world.url("a.html"), "answers 503")
        assert (watch(world).problems(), seen) == ([], ["a.html"])


async def test_completions_cost_next_to_nothing(tmp_path: Path) -> None:
    """Ten thousand at once are noted within the limit, as many as it allows of a sample; none waits for a probe."""
    async with a_world(tmp_path, extra=settings(9, mode="sample", per_minute=50, after_seconds=600)) as world:
        urls = [Attempt(n, "cdn", RefreshKind.FILE, world.url(f"{n}.html"), True, 1) for n in range(10_000)]
        began = time.process_time()
        watch(world).note(urls)
        assert time.process_time() - began < 2
        report = watch(world).report()
        assert report["waiting"] <= 50
        assert report["waiting"] > 25
        assert report["left_out"] == 10_000 - 50


async def test_what_was_spent_is_learned() -> None:
    """From the audit trail, by its reason, within the present window; the live limit counts."""

    class Target:
        account = "main"
        allowances = for_each_kind({RefreshKind.FILE: 999, RefreshKind.DIRECTORY: 999}, Day())

    class Store:
        async def budget(self, _account: str, allowance: Allowance) -> Any:
            return SimpleNamespace(limit=20 if allowance.name == "file" else 10)

    share = RepeatShare({"cdn": Target()}, 0.1)  # type: ignore[dict-item]
    now = 1_800_000_000.0
    rows = [
        {"target": "cdn", "kind": "file", "reason": f"{REPEATED}: x", "created_at": now - 5},
        {"target": "cdn", "kind": "file", "reason": f"{REPEATED}: x", "created_at": now - 3 * 86400},
        {"target": "cdn", "kind": "file", "reason": "changed", "created_at": now - 5},
        {"target": "gone", "kind": "file", "reason": f"{REPEATED}: x", "created_at": now - 5},
    ]
    share.learn(rows)

    async def take(scope: Scope, at: float) -> bool:
        return await share.take(Store(), "cdn", scope, now=at)  # type: ignore[arg-type]

    assert [await take(Scope.EXACT, now) for _ in range(3)] == [True, False, False]
    assert await take(Scope.EXACT, now + 2 * 86400)
    assert [await take(Scope.SUBTREE, now) for _ in range(2)] == [True, False]


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    """Nothing is watched."""
    async with a_world(tmp_path) as world:
        assert world.pipeline.edge is None


def test_switched_off_it_imports_nothing() -> None:
    """Of what probes, with all that the daemon needs."""
    program = (
        "import sys, listener.cli.run, listener.daemon.service, listener.pipeline;"
        "print([name for name in sys.modules if name.startswith(('listener.edge', 'listener.pipeline.observing',"
        " 'listener.pipeline.repeating'))])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
