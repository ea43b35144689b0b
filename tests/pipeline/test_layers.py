"""An outer layer is refreshed once the inner one has dropped the old copy: never before, and not much later."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from listener.alibaba.signature import Credentials
from listener.allowances import Day, for_each_kind
from listener.change import Change, ChangeKind
from listener.contracts import KindLimits, Target
from listener.emulator import Emulator, EmulatorSettings
from listener.errors import BatchRejected
from listener.pipeline import Pipeline, store_options
from listener.refresh import Receipt, RefreshKind, Scope
from listener.store import NeedInput, Store, open_store
from listener.store.leadership import Leadership
from listener.store.store import StoreOptions
from listener.targets.alibaba_cdn import AlibabaCdn
from listener.targets.cloudfront.paths import nameable
from listener.targets.http_purge import HttpPurge
from tests.keys import KEYS
from tests.pipeline.scripted import BASE, Scripted, Sent
from tests.pipeline.world import MovableClock, PlayedSource, settings_for
from tests.targets.http_purge.caches import cache, origin
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


PLENTY = {RefreshKind.FILE: 10_000, RefreshKind.DIRECTORY: 20}


class Layer(Scripted):
    """Notes in one list what is sent; accepts once it may."""

    def __init__(self, name: str, account: str, journal: list[tuple[str, Sent]]) -> None:
        super().__init__()
        self.name, self.account = name, account
        # Files are plenty: whether a directory is cheaper depends on the hours that are left of the day.
        self.allowances = for_each_kind({kind: PLENTY[kind] for kind in self.limits}, Day())
        self.journal = journal
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.kept_waiting = ""
        """A URL whose requests get no answer."""
        self.answers_left = -1
        """After so many requests the next ones get no answer; -1: all do."""

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        self.journal.append((self.name, Sent(kind, tuple(sorted(urls)), force, token)))
        await self.may_answer.wait()
        while self.kept_waiting in urls or not self.answers_left:
            await asyncio.sleep(0.02)
        self.answers_left -= 1
        return await super().submit(kind, urls, force=force, token=token)


class Layered:
    """A pipeline with an inner and an outer target."""

    def __init__(self, store: Store, source: PlayedSource, clock: MovableClock, pipeline: Pipeline) -> None:
        self.store, self.source, self.clock, self.pipeline = store, source, clock, pipeline

    async def settled(self) -> None:
        """Wait until nothing is left to do."""
        while True:
            done = self.source.queue.empty() and self.pipeline.intake.idle  # before what it recorded is counted
            counts = await self.store.counts()
            if done and not any((counts.pending, counts.in_flight, counts.failed)):
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def layered(
    folder: Path,
    base_url: str,
    inner: Target,
    outer: Target,
    *,
    extra: dict[str, Any] | None = None,
    lead: Callable[[Store, StoreOptions], Leadership] | None = None,
) -> AsyncIterator[Layered]:
    """Run one whose site has these layers, with these settings besides; it leads all accounts unless ``lead`` says."""
    edge: Any = type("Edge", (), {"edge_url": base_url.rstrip("/")})
    tables = {"inner": {"type": "alibaba-cdn"}, "outer": {"type": "alibaba-cdn"}, "cdn": {"type": "alibaba-cdn"}}
    tables_and = {"targets": tables, **(extra or {})}
    settings = settings_for(folder, edge, tables_and, {"target": None, "targets": ["inner", "outer"]})
    targets = {"inner": inner, "outer": outer}
    source, clock = PlayedSource(), MovableClock()
    options = store_options(settings, targets)
    store = open_store(settings.store.url, options=options, clock=clock, owner=True)
    pipeline = Pipeline(
        settings, store, make_sources=lambda: {"www": source}, targets=targets, clock=clock,
        leadership=lead and lead(store, options), state_directory=folder,
    )  # fmt: skip
    running = asyncio.create_task(pipeline.run())
    try:
        async with asyncio.timeout(50):
            yield Layered(store, source, clock, pipeline)
    finally:
        pipeline.stop()
        await running
        await store.close()


@pytest.fixture(params=["two accounts", "one account"])
def layers(request: pytest.FixtureRequest) -> Callable[[], tuple[Layer, Layer, list[tuple[str, Sent]]]]:
    """Make an inner and an outer layer, and what they note."""

    def make() -> tuple[Layer, Layer, list[tuple[str, Sent]]]:
        journal: list[tuple[str, Sent]] = []
        outer = "inner" if request.param == "one account" else "outer"
        return Layer("inner", "inner", journal), Layer("outer", outer, journal), journal

    return make


Make = Callable[[], tuple[Layer, Layer, list[tuple[str, Sent]]]]


async def test_a_file_goes_to_the_outer_layer_once_the_inner_one_is_done(layers: Make, tmp_path: Path) -> None:
    """However long that takes; what the inner layer has done already is not held up by what it has not."""
    inner, outer, journal = layers()
    async with layered(tmp_path, BASE, inner, outer) as world:
        world.source.deliver(Change("www", "d/first.html"))
        await world.settled()
        inner.may_answer.clear()
        world.source.deliver(Change("www", "d/a.html"))
        await until(lambda: len(journal) == 3)
        await asyncio.sleep(0.5)
        assert [name for name, _ in journal] == ["inner", "outer", "inner"]
        (row,) = [row for row in await world.store.explain(f"{BASE}d/a.html") if row["target"] == "outer"]
        assert row["state"] in ("ready", "deferred")
        inner.may_answer.set()
        await until(lambda: len(journal) == 4, seconds=10)  # by the answer, and not only when it is looked again
        await world.settled()
        assert [(name, one.urls) for name, one in journal[2:]] == [
            ("inner", (f"{BASE}d/a.html",)),
            ("outer", (f"{BASE}d/a.html",)),
        ]


async def test_a_url_that_changes_all_the_time_reaches_the_outer_layer(layers: Make, tmp_path: Path) -> None:
    """After each answer of the inner layer once, though a newer change waits there; fresh only after the last."""
    inner, outer, journal = layers()
    inner.answers_left = 0
    async with layered(tmp_path, BASE, inner, outer) as world:
        world.source.deliver(Change("www", "d/a.html"))
        await until(lambda: len(journal) == 1)
        for done in range(3):
            world.source.deliver(Change("www", "d/a.html"))
            await until(lambda: world.source.queue.empty() and world.pipeline.intake.idle)
            inner.answers_left = 1
            # Each time the inner layer answers for a change, the outer one is sent that; the newer change waits again.
            await until(lambda expected=2 * done + 3: len(journal) == expected)  # type: ignore[misc]
            assert sorted(name for name, _ in journal[2 * done + 1 :]) == ["inner", "outer"]
        await asyncio.sleep(0.3)
        assert len(journal) == 7
        assert {row["target"] for row in await world.store.explain(f"{BASE}d/a.html")} == {"inner", "outer"}
        inner.answers_left = -1
        await world.settled()
        assert Counter(name for name, _ in journal) == {"inner": 4, "outer": 4}


async def test_a_change_after_the_plan_is_not_covered(layers: Make, tmp_path: Path) -> None:
    """The inner layer has yet to drop it when the outer attempt is made: the need outlives that."""
    inner, outer, journal = layers()
    async with layered(tmp_path, BASE, inner, outer) as world:
        inner.answers_left = 1
        hold, done = Store.hold, asyncio.Event()

        async def late(store: Store, wanted: Any, **others: Any) -> Any:
            if "outer" in {one.target for one in wanted} and not done.is_set():
                done.set()
                world.source.deliver(Change("www", "d/a.html"))
                await until(lambda: world.source.queue.empty() and world.pipeline.intake.idle)
            return await hold(store, wanted, **others)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "hold", late)
            world.source.deliver(Change("www", "d/a.html"))
            await until(lambda: len(journal) == 3)
        await asyncio.sleep(0.3)
        assert sorted(name for name, _ in journal) == ["inner", "inner", "outer"]
        assert {row["target"] for row in await world.store.explain(f"{BASE}d/a.html")} == {"inner", "outer"}
        inner.answers_left = -1
        await world.settled()
        assert Counter(name for name, _ in journal) == {"inner": 2, "outer": 2}


@pytest.mark.parametrize("urgent", [False, True])
async def test_a_path_with_any_query_waits_for_each_query(layers: Make, tmp_path: Path, urgent: bool) -> None:
    """Its refresh at the outer layer settles them all: one that the inner layer still has would be fetched again."""
    inner, outer, journal = layers()
    every = dict.fromkeys((RefreshKind.FILE, RefreshKind.IGNORE_PARAMS), KindLimits(10))
    for layer in (inner, outer):
        vars(layer).update(limits=every, allowances=for_each_kind(dict.fromkeys(every, 100), Day()))
    async with layered(tmp_path, BASE, inner, outer) as world:
        inner.kept_waiting = f"{BASE}d/a.html?w=2"
        await world.store.request([NeedInput(name, inner.kept_waiting, Scope.EXACT) for name in ("inner", "outer")])
        await until(lambda: len(journal) == 1)
        await world.store.request([NeedInput("outer", f"{BASE}d/a.html", Scope.ALL_PARAMS)], urgent=urgent)
        await asyncio.sleep(0.4)
        assert [name for name, _ in journal] == ["inner"]
        inner.kept_waiting = ""
        await world.settled()
        assert {name for name, _ in journal[1:]} == {"outer"}


class ByBeginning(Layer):
    """A layer that cannot be asked for some URLs, as CloudFront."""

    shares_hosts = False
    nameable = staticmethod(nameable)


@pytest.mark.parametrize("key", ["d/a~b.html", "d/a~b/c.html", "d/~b.html"])
@pytest.mark.parametrize("urgent", [False, True])
async def test_what_is_refreshed_by_its_beginning_waits_for_all_that_begins_so(
    layers: Make, tmp_path: Path, key: str, urgent: bool
) -> None:
    """The outer layer keeps it under another name than the inner one, which has yet to drop it."""
    inner, outer, journal = layers()
    outer = ByBeginning(outer.name, outer.account, journal)
    async with layered(tmp_path, BASE, inner, outer) as world:
        inner.kept_waiting = BASE + key
        address = nameable(inner.kept_waiting)
        if urgent:
            needs = [NeedInput("inner", inner.kept_waiting, Scope.EXACT), NeedInput("outer", address, Scope.EXACT)]
            await world.store.request(needs, urgent=True)
        else:
            world.source.deliver(Change("www", key))
        await until(lambda: len(journal) == 1)
        await asyncio.sleep(0.4)
        assert [name for name, _ in journal] == ["inner"]
        assert await _left(world, address) == ["outer"]
        inner.kept_waiting = ""
        await world.settled()
        assert [(name, one.urls) for name, one in journal] == [("inner", (BASE + key,)), ("outer", (address,))]


async def test_a_directory_does_not_cover_what_is_refreshed_by_its_beginning_and_waits(
    layers: Make, tmp_path: Path
) -> None:
    """After a minute the directory is refreshed without it."""
    inner, outer, journal = layers()
    outer = ByBeginning(outer.name, outer.account, journal)
    async with layered(tmp_path, BASE, inner, outer) as world:
        inner.kept_waiting = f"{BASE}d/a~b.html"
        world.source.deliver(Change("www", "d/a~b.html"))
        await until(lambda: len(journal) == 1)
        await world.store.request([NeedInput("outer", f"{BASE}d/", Scope.SUBTREE)])
        await asyncio.sleep(0.3)
        world.clock.ahead += 61.0
        await until(lambda: len(journal) == 2)
        assert (journal[1][0], journal[1][1].kind) == ("outer", RefreshKind.DIRECTORY)
        await until_async(lambda: _left(world, f"{BASE}d/"), [])
        assert await _left(world, f"{BASE}d/a*") == ["outer"]
        inner.kept_waiting = ""
        await world.settled()
        assert [(name, one.urls) for name, one in journal[2:]] == [("outer", (f"{BASE}d/a*",))]


async def test_what_changes_all_the_time_does_not_hold_up_its_directory(layers: Make, tmp_path: Path) -> None:
    """After a minute it is refreshed without that; what the inner layer had done is fresh then, the rest is not."""
    inner, outer, journal = layers()
    async with layered(tmp_path, BASE, inner, outer) as world:
        inner.kept_waiting = f"{BASE}d/busy.html"
        world.source.deliver(Change("www", "d/busy.html"))
        await until(lambda: len(journal) == 1)
        await world.store.request([NeedInput("outer", f"{BASE}d/", Scope.SUBTREE)])
        await asyncio.sleep(0.3)
        assert len(journal) == 1
        world.clock.ahead += 61.0
        await until(lambda: len(journal) == 2)
        assert (journal[1][0], journal[1][1].kind) == ("outer", RefreshKind.DIRECTORY)
        await until_async(lambda: _left(world, f"{BASE}d/"), [])
        assert await _left(world, f"{BASE}d/busy.html") == ["inner", "outer"]
        inner.kept_waiting = ""
        await world.settled()
        assert [(name, one.urls) for name, one in journal[2:]] == [("outer", (f"{BASE}d/busy.html",))]


async def _left(world: Layered, url: str) -> list[str]:
    return [row["target"] for row in await world.store.explain(url) if row["url"] == url]


async def until_async(what: Callable[[], Any], expected: object) -> None:
    """Wait until a coroutine returns this."""
    while await what() != expected:
        await asyncio.sleep(0.02)


async def test_of_one_folder_only_what_the_inner_layer_has_done_goes_on(layers: Make, tmp_path: Path) -> None:
    """Though the other file waits longer already."""
    inner, outer, journal = layers()
    async with layered(tmp_path, BASE, inner, outer) as world:
        inner.kept_waiting = f"{BASE}d/slow.html"
        world.source.deliver(Change("www", "d/slow.html"))
        await until(lambda: len(journal) == 1)
        world.source.deliver(Change("www", "d/quick.html"))
        await until(lambda: len(journal) == 3)
        await asyncio.sleep(0.3)
        assert [(name, one.urls) for name, one in journal[1:]] == [
            (name, (f"{BASE}d/quick.html",)) for name in ("inner", "outer")
        ]
        inner.kept_waiting = ""
        await world.settled()
        assert [(name, one.urls) for name, one in journal[3:]] == [("outer", (f"{BASE}d/slow.html",))]


@pytest.mark.parametrize("urgent", [False, True])
@pytest.mark.parametrize("scope", [Scope.EXACT, Scope.SUBTREE])
async def test_what_a_person_requests_keeps_the_order(layers: Make, tmp_path: Path, scope: Scope, urgent: bool) -> None:
    """Files and directories, urgent ones too."""
    inner, outer, journal = layers()
    inner.may_answer.clear()
    url = f"{BASE}d/" if scope is Scope.SUBTREE else f"{BASE}d/a.html"
    async with layered(tmp_path, BASE, inner, outer) as world:
        needs = [NeedInput(name, url, scope) for name in ("inner", "outer")]
        await world.store.request(needs, urgent=urgent)
        await until(lambda: len(journal) == 1)
        await asyncio.sleep(0.4)
        assert [name for name, _ in journal] == ["inner"]
        inner.may_answer.set()
        await world.settled()
        assert [name for name, _ in journal] == ["inner", "outer"]


async def test_a_directory_waits_for_files_below_it(layers: Make, tmp_path: Path) -> None:
    """A file that the inner layer still has would be fetched again with the directory."""
    inner, outer, journal = layers()
    async with layered(tmp_path, BASE, inner, outer) as world:
        inner.may_answer.clear()
        world.source.deliver(Change("www", "d/sub/a.html"))
        await until(lambda: len(journal) == 1)
        await world.store.request([NeedInput("outer", f"{BASE}d/", Scope.SUBTREE)])
        await asyncio.sleep(0.4)
        assert [name for name, _ in journal] == ["inner"]
        inner.may_answer.set()
        await world.settled()
        assert journal[1][0] == "outer"


async def test_a_renamed_directory_keeps_the_order(layers: Make, tmp_path: Path) -> None:
    """As a change of a source brings it."""
    inner, outer, journal = layers()
    inner.may_answer.clear()
    async with layered(tmp_path, BASE, inner, outer) as world:
        world.source.deliver(Change("www", "old/", ChangeKind.SUBTREE))
        await until(lambda: len(journal) == 1)
        await asyncio.sleep(0.4)
        assert [name for name, _ in journal] == ["inner"]
        inner.may_answer.set()
        await world.settled()
        assert [(name, one.kind) for name, one in journal] == [
            ("inner", RefreshKind.DIRECTORY),
            ("outer", RefreshKind.DIRECTORY),
        ]


async def test_what_the_inner_layer_rejects_holds_up_nothing(layers: Make, tmp_path: Path) -> None:
    """A person decides about it; the outer layer is refreshed all the same."""
    inner, outer, journal = layers()
    inner.answers.append(BatchRejected("no"))
    async with layered(tmp_path, BASE, inner, outer) as world:
        world.source.deliver(Change("www", "a.html"))
        await until(lambda: len(journal) == 2)
        await world.settled()
        assert [name for name, _ in journal] == ["inner", "outer"]
        assert (await world.store.counts()).parked == 1


async def test_an_edge_behind_a_real_varnish_gets_the_new_copy(
    tmp_path: Path, system_command: Callable[[str], str]
) -> None:
    """The edge fetches from Varnish: purged first it would keep the old copy. It turns fresh, each time."""
    with origin() as versions, cache("varnish", system_command, versions) as varnish:
        clock = MovableClock()
        options = EmulatorSettings(
            origin=varnish.address, credentials=Credentials("testid", "testsecret"), api_port=0, edge_port=0,
            task_seconds=0.1, quota={RefreshKind.FILE: 1000, RefreshKind.DIRECTORY: 20}, clock=clock,
        )  # fmt: skip
        async with Emulator(options) as emulator, aiohttp.ClientSession() as http:

            async def seen(path: str) -> int:
                async with http.get(emulator.edge_url + path) as response:
                    return int((await response.text()).split()[0])

            inner = HttpPurge("inner", HttpPurge.Settings(servers=[varnish.address], host=f"127.0.0.1:{varnish.port}"))
            table = {"endpoint": emulator.api_url}
            outer = AlibabaCdn("outer", AlibabaCdn.Settings(**table), clock=clock, environment=KEYS)  # type: ignore[arg-type]
            keys = [f"news/{n}.html" for n in range(10)]
            async with layered(tmp_path, emulator.edge_url + "/", inner, outer) as world:
                for _ in range(3):
                    for key in keys:
                        assert await seen(f"/{key}") == versions.version
                    versions.version += 1
                    world.source.deliver(*(Change("www", key) for key in keys))
                    await world.settled()
                    assert [await seen(f"/{key}") for key in keys] == [versions.version] * len(keys)
                versions.version += 1
                world.source.deliver(Change("www", "news/", ChangeKind.SUBTREE))
                await world.settled()
                assert [await seen(f"/{key}") for key in keys] == [versions.version] * len(keys)
            await inner.close()
            await outer.close()


@pytest.mark.parametrize("urgent", [False, True])
@pytest.mark.parametrize("scope", [Scope.SUBTREE, Scope.ALL_PARAMS, Scope.PREFETCH])
async def test_what_the_inner_layer_cannot_do_holds_up_nothing(tmp_path: Path, scope: Scope, urgent: bool) -> None:
    """It refreshes files only, as nginx does: neither the outer layer's request waits, nor one above, nor a file."""
    journal: list[tuple[str, Sent]] = []
    inner, outer = (Layer(name, name, journal) for name in ("inner", "outer"))
    every = dict.fromkeys(RefreshKind, KindLimits(10))
    vars(inner)["limits"] = {RefreshKind.FILE: KindLimits(10)}
    vars(outer).update(limits=every, allowances=for_each_kind(dict.fromkeys(every, 100), Day()))
    url = f"{BASE}d/" if scope is Scope.SUBTREE else f"{BASE}d/a.html"
    async with layered(tmp_path, BASE, inner, outer) as world:
        await world.store.request([NeedInput(name, url, scope) for name in ("inner", "outer")], urgent=urgent)
        await until(lambda: [name for name, _ in journal] == ["outer"])
        await world.store.request([NeedInput("outer", BASE, Scope.SUBTREE)])
        await until(lambda: len(journal) == 2)
        inner.may_answer.clear()
        world.source.deliver(Change("www", "d/a.html"))
        await until(lambda: len(journal) == 3)
        await asyncio.sleep(0.3)
        assert [name for name, _ in journal] == ["outer", "outer", "inner"]
        inner.may_answer.set()
        await until(lambda: [name for name, _ in journal] == ["outer", "outer", "inner", "outer"])
