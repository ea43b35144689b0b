"""A standby is promoted that lacks commits which were confirmed: every acknowledged change is recorded again."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from listener.change import Change
from listener.contracts import Unreadable
from listener.daemon.fleet import lost_of
from listener.errors import TargetError
from listener.pipeline import engine
from listener.pipeline.intake import Intake, StoreRetry
from listener.pipeline.replay import Replay
from listener.router.routing import Sites
from listener.settings import Settings, Site
from listener.store import Store, open_store
from listener.store.access import Access
from listener.store.durability import CommitCount, CommitMark
from listener.store.postgres.migrations import SCHEMA
from tests.pipeline.world import PlayedSource, a_world, stays
from tests.postgres.cluster import Cluster, Standby
from tests.postgres.fixtures import MakeCluster, MakeStandby
from tests.store.databases import PostgresDatabase, prepare_schema
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
SITE = Site(source="www", target="cdn", base_urls=["https://www.example.com/"], name="shop")


class TreeSource(PlayedSource):
    """A source that can compare its storage with the index."""

    def __init__(self) -> None:
        super().__init__("tree")
        self.roots = ("tree",)
        self.rescans: list[str] = []

    def rescan(self, reason: str) -> None:
        self.rescans.append(reason)


class Ingest:
    """One instance, as far as it takes deliveries."""

    def __init__(self, store: Store, counted: Any = None) -> None:
        self.store = store
        self.queue, self.tree = PlayedSource(), TreeSource()
        sources: Any = {"www": self.queue, "tree": self.tree}
        self.replay = Replay(
            counted or store.counted,  # type: ignore[arg-type]
            lambda: self.intake.sources,
            [SITE],
            record=lambda batch: self.intake.record(batch),  # noqa: PLW0108 - made below
            set_aside=lambda name, unreadable: self.intake.set_aside(name, unreadable),  # noqa: PLW0108
            save=store.save_trouble if counted is None else self._show,
            now=time.time,
            changed=lambda: None,
        )
        self.intake = Intake(
            lambda: sources,
            store,
            Sites([SITE]),
            retry=StoreRetry(),
            replay=self.replay,
            committed=lambda: None,
        )

    async def _show(self, _trouble: str) -> None:
        """Keep it nowhere: the store counts no commits."""

    async def deliver(self, *keys: str) -> None:
        """Deliver a message for each key, and wait until all are acknowledged."""
        before = self.queue.acked
        for key in keys:
            self.queue.deliver(Change("www", key), message_ids=[f"message {key}"])
        await until(lambda: self.queue.acked == before + len(keys))


@asynccontextmanager
async def running(store: Store, folder: Path, *, seconds: float = 600.0, counted: Any = None) -> AsyncIterator[Ingest]:
    """Run an instance, and end it as SIGKILL would: nothing is kept at its end."""
    ingest = Ingest(store, counted)
    await ingest.replay.open(folder, instance="web-1", seconds=seconds)
    work = [ingest.intake.read("www"), ingest.intake.read("tree"), ingest.intake.commit(), ingest.replay.run()]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield ingest
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if (ring := ingest.replay._ring) is not None:
            ring._connection.close()
        await store.close()


class Pair:
    """A primary and its asynchronous standby."""

    def __init__(self, primary: Cluster, standby: Standby) -> None:
        self.primary, self.standby = primary, standby
        self.url = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"

    def open(self) -> Store:
        return PostgresDatabase(self.url).open(instance="web-1")

    def part(self) -> None:
        """Let the standby have everything up to now, and nothing from now on."""
        position = self.primary.value("SELECT pg_current_wal_flush_lsn()")
        behind = "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0') < %s::pg_lsn"
        while self.standby.value(behind, position):
            time.sleep(0.01)
        self.standby.stall()

    def promote(self) -> None:
        """Lose the primary."""
        self.primary.stop("immediate")
        self.standby.promote()

    def needs(self) -> set[str]:
        """Return the names that the promoted server has needs of."""
        return set(self.standby.value(f"SELECT coalesce(array_agg(name), '{{}}') FROM {SCHEMA}.need"))

    def messages(self) -> int:
        return int(self.standby.value(f"SELECT count(*) FROM {SCHEMA}.message"))


@pytest.fixture
def pair(make_cluster: MakeCluster, make_standby: MakeStandby) -> Iterator[Pair]:
    """Two servers with an empty schema."""
    primary = make_cluster()
    prepare_schema(primary.url())
    yield Pair(primary, make_standby(primary))


def keys(first: int, last: int) -> list[str]:
    """Return so many names."""
    return [f"{number}.html" for number in range(first, last)]


async def test_what_was_acknowledged_and_lost_is_recorded_again(pair: Pair, tmp_path: Path) -> None:
    """Also the ids of its messages; trees are compared at once; it is reported with its number."""
    async with running(pair.open(), tmp_path) as ingest:
        await ingest.deliver(*keys(0, 20))
        pair.part()
        for key in keys(20, 40):
            await ingest.deliver(key)
        assert ingest.replay.trouble == ""
        pair.promote()
        await ingest.deliver("later.html")
        await until(lambda: ingest.replay.trouble.endswith("were recorded again"))
        assert pair.needs() == {*keys(0, 40), "later.html"}
        assert pair.messages() == 41
        assert ingest.replay.trouble.startswith("20 confirmed commits were lost")
        assert ingest.tree.rescans == ["the database lost commits"]
        (loss,) = ingest.replay.mark.losses
        assert loss.commits == 20


async def test_what_was_lost_before_a_restart_is_recorded_again(pair: Pair, tmp_path: Path) -> None:
    """The instance was killed before it saw the promoted server."""
    async with running(pair.open(), tmp_path) as ingest:
        await ingest.deliver(*keys(0, 5))
        pair.part()
        for key in keys(5, 10):
            await ingest.deliver(key)
    pair.promote()
    async with running(pair.open(), tmp_path) as again:
        await until(lambda: again.replay.trouble.endswith("were recorded again"))
        assert pair.needs() == set(keys(0, 10))
        assert again.replay.trouble.startswith("5 confirmed")


async def test_what_could_not_be_read_and_was_lost_is_set_aside_again(pair: Pair, tmp_path: Path) -> None:
    """Its message is gone from the queue: nothing else would show it to a person. A restart in between does no harm."""
    letters = [Unreadable(bytes([number, 0xFF]), b"{\xff\x00", "no JSON") for number in range(4)]
    async with running(pair.open(), tmp_path) as ingest:
        await ingest.deliver("a.html")
        pair.part()
        for letter in letters:
            before = ingest.queue.acked
            ingest.queue.deliver(unreadable=[letter])
            await until(lambda before=before: ingest.queue.acked == before + 1)  # type: ignore[misc]
    pair.promote()
    async with running(pair.open(), tmp_path) as again:
        await until(lambda: again.replay.trouble.endswith("were recorded again"))
        found = await again.store.dead_letters()
        assert {(one.source, one.reason) for one in found} == {("www", "no JSON")}
        assert len(found) == len(letters)
        bodies = await again.store._read(lambda c: c.execute("SELECT DISTINCT body FROM dead_letter").fetchall())
        assert [bytes(body) for (body,) in bodies] == [b"{\xff\x00"]


async def test_where_the_file_does_not_reach_the_sites_are_named(pair: Pair, tmp_path: Path) -> None:
    """With the command that finds what is missing."""
    async with running(pair.open(), tmp_path, seconds=0.0) as ingest:
        pair.part()
        await ingest.deliver("lost.html")
        pair.promote()
        await ingest.deliver("later.html")
        await until(lambda: "backfill" in ingest.replay.trouble)
        assert "cdn-listener backfill www (sites: shop)" in ingest.replay.trouble
        pair.standby.value(
            f"INSERT INTO {SCHEMA}.instance VALUES ('web-1', 1, now() + interval '1 hour', '1', ARRAY[]::text[], now())"
        )
        await until(lambda: pair.standby.value(f"SELECT trouble FROM {SCHEMA}.instance_count") == ingest.replay.trouble)
        (shown,) = await ingest.store.instances()
        ((words, _, remedy),) = lost_of([shown], {}, Settings())
        assert ingest.replay.trouble in words
        assert "backfill" in remedy
        assert pair.needs() == {"later.html"}


class PlayedCount:
    """Commits of a store that counts none, which the test loses."""

    identity = "played"

    def __init__(self) -> None:
        self._count = CommitCount()
        self._count.compare(0)

    @property
    def mark(self) -> CommitMark:
        return self._count.mark or CommitMark(0)

    def expect(self, commits: int) -> None:
        self._count.expect(commits)

    def save_trouble(self, _connection: Any, trouble: str) -> None:
        """Keep it nowhere."""

    def commit(self) -> None:
        self._count.confirm(self.mark.commits + 1)

    def lose(self, commits: int) -> None:
        self._count.compare(self.mark.commits - commits)


async def test_a_commit_that_may_be_lost_before_it_was_kept_is_recorded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was confirmed, and the loss was found before the file had it: nothing would find it later."""
    count = PlayedCount()
    store = open_store(f"sqlite:///{tmp_path}/state.db", owner=True)
    recorded: list[str] = []

    async def record(self: Store, batches: Any, *args: Any) -> Any:
        found = await Store.record(self, batches, *args)
        recorded.extend(change.key for batch in batches for change in batch.changes)
        count.commit()
        if recorded == ["a.html"]:
            count.lose(1)
        return found

    monkeypatch.setattr(store, "record", lambda *args: record(store, *args))
    async with running(store, tmp_path, counted=count) as ingest:
        await ingest.deliver("a.html")
        assert recorded[:2] == ["a.html", "a.html"]


async def test_only_what_its_origin_deletes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redelivered message too: who recorded it may have ended before it kept it."""
    count = PlayedCount()
    store = open_store(f"sqlite:///{tmp_path}/state.db", owner=True)
    async with running(store, tmp_path, counted=count) as ingest:
        await ingest.deliver("a.html", "b.html")
        ingest.tree.deliver(Change("tree", "c.html"))
        await until(lambda: ingest.tree.acked == 1)
        await ingest.deliver("a.html")
        await ingest.replay.close()
        assert kept(tmp_path) == ["a.html", "b.html", "a.html"]


def kept(folder: Path) -> list[str]:
    """Return the keys in the ring, in order."""
    (path,) = folder.glob("replay-web-1-*.db")
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT content FROM batch ORDER BY number").fetchall()
    return [change[1] for (content,) in rows for change in json.loads(content)[0]]


async def test_nothing_is_sent_after_a_loss_before_the_live_quota_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger may lack what was spent. Where the quota cannot be read, it is shown, and tried again."""
    count = PlayedCount()
    count.expect(5)
    monkeypatch.setattr(engine, "QUOTA_RETRY_SECONDS", 0.3)
    async with a_world(tmp_path) as world:
        await world.stop()
        read, is_away = world.target.read_quota, [True]

        async def read_quota() -> Any:
            if is_away:
                raise TargetError("no answer")
            return await read()

        monkeypatch.setattr(world.target, "read_quota", read_quota)
        monkeypatch.setattr(Access, "counted", count)
        await world.start()
        world.source.deliver(world.write("a.html", "new"))
        await stays(world)
        assert world.paths == []
        assert any("the live quota is read before anything is sent" in one for one in world.pipeline.troubles)
        is_away.clear()
        await world.settled()
        assert world.paths != []
