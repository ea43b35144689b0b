"""A temporary name costs nothing, whenever it comes and goes while a listener starts, works or is killed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from listener.change import Change, Fingerprint
from listener.contracts import Delivery
from listener.settings import CoalescerSettings
from listener.sources.filesystem import FilesystemSettings, FilesystemSource, watches
from listener.sources.filesystem.source import Session
from listener.store import NeedInput, Store, open_store
from listener.store.batches import Batch
from listener.store.store import StoreOptions
from tests.sources.harness import fanotify_needed

pytestmark = pytest.mark.looptime(False)

BASE = "https://www.example.com/"
STABLE_SECONDS = 0.05
SLOW = CoalescerSettings(quiet_seconds=300, cap_seconds=600, unfinished_quiet_seconds=300, unfinished_cap_seconds=600)
"""So that every window stays open for as long as a test takes."""


def route(change: Change) -> Sequence[NeedInput]:
    """One base URL, one target."""
    return [NeedInput("cdn", BASE + change.key)]


class Daemon:
    """A source whose deliveries are recorded, as far as the test allows; may be killed and started again."""

    def __init__(self, root: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Prepare; nothing runs yet. Directories that are entered can be stopped before they are listed."""
        self.backend, self.root, self.url = "inotify", root, f"sqlite:///{state}/state.db"
        self.may_list, self.may_compare, self.may_record = threading.Event(), asyncio.Event(), asyncio.Event()
        self.watched = threading.Event()
        self.open_gates()
        daemon, enter = self, watches.Watches.enter

        def enter_and_wait(self: watches.Watches, prefix: bytes) -> bool:
            is_watched = enter(self, prefix)
            daemon.watched.set()
            daemon.may_list.wait(30)
            return is_watched

        monkeypatch.setattr(watches.Watches, "enter", enter_and_wait)

    def open_gates(self) -> None:
        """Let everything go on."""
        for gate in (self.may_list, self.may_compare, self.may_record):
            gate.set()

    async def start(self) -> None:
        """Start as after a crash."""
        self.store = open_store(self.url, owner=True, options=StoreOptions(timing=SLOW))
        await self.store.recover()
        settings = FilesystemSettings(
            path=self.root,
            backend=self.backend,
            stable_seconds=STABLE_SECONDS,
            root_check_seconds=0.2,
            max_delete_share=1.0,
        )
        self.source = FilesystemSource("www", settings)
        self.queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self.tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._record())]

    async def _read(self) -> None:
        async for delivery in self.source.deliveries(_Gated(self.store, self.may_compare)):
            self.queue.put_nowait(delivery)

    async def _record(self) -> None:
        while True:
            delivery = await self.queue.get()
            await self.may_record.wait()
            await self.store.record([Batch(delivery.changes, delivery.scan_sequence, delivery.seed)], route)
            await delivery.ack()

    async def kill(self) -> None:
        """End without recording what is under way."""
        for task in self.tasks:
            task.cancel()
        self.open_gates()
        for task in self.tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.store.close()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait in real time."""
        end = time.monotonic() + 30
        while not condition():
            for task in self.tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < end, what
            await asyncio.sleep(0.005)

    @property
    def session(self) -> Session:
        """What lives as long as the source runs."""
        assert self.source._session is not None
        return self.source._session

    @property
    def knows_all(self) -> bool:
        """Whether the first scan is over and what came meanwhile is worked through."""
        return self.source._session is not None and self.session._live.may_skip

    async def until_at_rest(self) -> None:
        """Wait until all that happened is recorded: the second file is seen in a later round than the first."""
        await self.until(lambda: self.knows_all, "the first scan is over")
        for _ in range(2):
            (self.root / "last.html").write_text(f"{time.monotonic_ns()}")
            written = (self.root / "last.html").stat().st_mtime_ns
            end = time.monotonic() + 30
            while not await self._is_at_rest(written):
                assert time.monotonic() < end
                await asyncio.sleep(0.01)

    async def _is_at_rest(self, written: int) -> bool:
        found = (await self.store.objects("www", ["last.html"])).get("last.html")
        is_recorded = found is not None and found.mtime_ns == written and not self.session._acks
        return is_recorded and self.session._live.next_due(time.monotonic()) > 60

    async def needs(self) -> dict[str, int]:
        """Return how many needs there are, by name."""
        needs = await self.store._read(lambda c: c.execute("SELECT name, count(*) FROM need GROUP BY 1").fetchall())
        return {name: count for name, count in needs if name not in ("last.html", "found.html")}

    async def clear(self) -> None:
        """Settle everything, as if it had been refreshed."""
        await self.store._write(lambda c: c.execute("DELETE FROM need"))


class _Gated:
    """The store's index, which a scan may have to wait for before it compares."""

    def __init__(self, store: Store, gate: asyncio.Event) -> None:
        self._store, self._gate = store, gate

    async def contents(self, root: str, directories: Sequence[str]) -> Mapping[str, Mapping[str, Fingerprint]]:
        """Return what is known, once the gate is open."""
        await self._gate.wait()
        return await self._store.contents(root, directories)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    """A listener whose index holds one page."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "page.html").write_text("first\n")
    daemon = Daemon(tmp_path / "www", tmp_path, monkeypatch)
    await daemon.start()
    try:
        await daemon.until_at_rest()
        await daemon.clear()
        yield daemon
    finally:
        await daemon.kill()


TEMPORARY = ".page.html.Tmp123"
PHASES = ["down", "watched", "listed", "scanned", "complete"]
"""When a name comes or goes: what the listener, that starts, has done at that time."""


async def reach(daemon: Daemon, phase: str) -> None:
    """Let a listener that starts go on to the end of this phase."""
    if phase == "watched":
        daemon.watched.clear()
        daemon.may_list.clear()
        daemon.may_compare.clear()
        daemon.may_record.clear()
        (daemon.root / "found.html").write_text("made while nothing ran\n")
        await asyncio.sleep(STABLE_SECONDS)
        await daemon.start()
        await daemon.until(daemon.watched.is_set, "the root is watched")
    elif phase == "listed":
        daemon.may_list.set()
        await asyncio.sleep(0.1)  # the comparison waits
    elif phase == "scanned":
        daemon.may_compare.set()
        await daemon.until(lambda: daemon.queue.qsize() or daemon.source.health.figures.get("scan_found"), "scanned")
        await daemon.until(lambda: "scan_seconds" in daemon.source.health.figures, "scanned")
    elif phase == "complete":
        daemon.may_record.set()
        await daemon.until(lambda: daemon.knows_all, "complete")


ORDERS = [(comes, goes) for comes in range(len(PHASES)) for goes in range(comes, len(PHASES))]


async def live_through_a_start(daemon: Daemon, comes: int, goes: int, *, is_renamed: bool) -> dict[str, int]:
    """Have a temporary name come and go in these phases; return the needs that are left but for the page's."""
    await daemon.kill()
    temporary = daemon.root / TEMPORARY
    for number, phase in enumerate(PHASES):
        await reach(daemon, phase)
        if number == comes:
            temporary.write_text("second\n")
        if number == goes:
            await asyncio.sleep(1.2 * STABLE_SECONDS if comes != goes else 0)
            temporary.rename(daemon.root / "page.html") if is_renamed else temporary.unlink()
    await daemon.until_at_rest()
    needs = await daemon.needs()
    assert needs.pop("page.html", 0) == is_renamed
    return needs


@pytest.mark.parametrize("is_renamed", [True, False])
@pytest.mark.parametrize(("comes", "goes"), ORDERS)
async def test_a_temporary_name_during_a_start(daemon: Daemon, comes: int, goes: int, is_renamed: bool) -> None:
    """It costs a refresh only where it was there, unknown, before anybody watched: it may have been there for long."""
    needs = await live_through_a_start(daemon, comes, goes, is_renamed=is_renamed)
    assert needs == ({TEMPORARY: 1} if comes == 0 < goes else {})


@pytest.mark.parametrize("goes", [1, 2, 3, 4])
async def test_fanotify_loses_no_end_of_a_name(
    daemon: Daemon, goes: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its merged events prove no birth, so that a name during a start may cost a refresh; an end is never lost."""
    fanotify_needed(request, tmp_path)
    daemon.backend = "fanotify"
    assert await live_through_a_start(daemon, 0, goes, is_renamed=goes % 2 == 0) == {TEMPORARY: 1}


async def test_what_came_while_events_were_lost_is_refreshed_when_it_goes(daemon: Daemon) -> None:
    """Nobody saw it come, and a scan is still to find it: its end is the first event of it."""
    watcher, names = daemon.session.watcher, daemon.root / "came.html"
    assert isinstance(watcher, watches.Watches)
    blobs: list[bytes] = []
    with pytest.MonkeyPatch.context() as lost:
        lost.setattr(watcher, "feed", blobs.append)
        names.write_text("nobody heard of it\n")
        await daemon.until(lambda: blobs, "its events were thrown away")
        await asyncio.sleep(0.05)
    watcher.overrun()
    await daemon.until(daemon.session._rescans.waiting, "a scan waits")
    names.unlink()
    await daemon.until_at_rest()
    assert await daemon.needs() == {"came.html": 1}


@pytest.mark.parametrize("seed", range(6))
async def test_random_lives_and_kills(daemon: Daemon, seed: int) -> None:
    """A name that lived within one life of the listener costs nothing, and what is there in the end is refreshed."""
    dice, alive, across = random.Random(seed), [], set()
    for number in range(30):
        step = dice.choice(["come", "come", "go", "go", "kill", "rest", "pause"])
        if step == "come":
            alive.append(f"{number}.tmp")
            (daemon.root / alive[-1]).write_text(f"{number}\n")
        elif step == "go" and alive:
            name = alive.pop(dice.randrange(len(alive)))
            if dice.random() < 0.5:
                (daemon.root / name).rename(daemon.root / "page.html")
            else:
                (daemon.root / name).unlink()
        elif step == "kill":
            await daemon.kill()
            across.update(alive)
            daemon.watched.clear()
            await daemon.start()
            await daemon.until(daemon.watched.is_set, "the root is watched")
        elif step == "rest":
            await daemon.until_at_rest()
        elif step == "pause":
            await asyncio.sleep(dice.uniform(0, 0.1))
    await daemon.until_at_rest()
    needs = await daemon.needs()
    assert needs.keys() - {"page.html"} >= set(alive)
    assert needs.keys() - {"page.html"} - set(alive) <= across
