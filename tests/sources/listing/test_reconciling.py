"""The daemon's schedule: a bucket that reports nothing is listed, what differs is refreshed, drift is a figure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import BaseModel

from listener.change import Change, Fingerprint
from listener.contracts import Check, CheckState, Delivery, IndexView, Rescans, SourceHealth, SourceState
from listener.errors import ConfigurationError, SourceUnavailable
from listener.plugins import load_sources
from listener.settings import parse_settings
from listener.sources.listing import EventsWithReconcile, ListingSource
from listener.sources.listing import bucket as bucket_module
from listener.store import Store, open_store
from listener.store.batches import Batch
from listener.testing import Follower
from tests.sources.listing.buckets import FakeBucket, a_bucket, denied
from tests.stand import Stand, until

pytestmark = pytest.mark.looptime(False)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ak")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk")
    monkeypatch.setattr(bucket_module, "TRIES", 1)


@pytest.fixture
def bucket() -> Iterator[FakeBucket]:
    """A bucket of 300 objects."""
    with a_bucket(*(f"d{number % 3}/{number:03}" for number in range(300))) as bucket:
        yield bucket


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A state file."""
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as store:
        yield store


class Running(Follower):
    """A source that is followed, its changes recorded in a store."""

    def __init__(self, source: Any, store: Store) -> None:
        super().__init__(source)
        self.index = self.store = store  # type: ignore[assignment]
        self.seeds = 0
        self.outdated = 0

    async def before(self) -> None:
        """Do what a test wants done before what was found is recorded."""

    async def __aenter__(self) -> Self:
        """Start, without waiting."""
        self.start()
        return self

    async def commit(self, delivery: Delivery) -> None:
        if not delivery.seed:
            await self.before()
        batch = Batch(delivery.changes, delivery.scan_sequence, delivery.seed)
        (recorded,) = await self.store.record([batch], lambda _change: [])
        self.outdated += recorded.outdated
        if delivery.seed:
            self.seeds += len(delivery.changes)


def reported(running: Running) -> dict[str, str]:
    """Return the kind of change of each key."""
    return {change.key: change.kind.value for change in running.changes}


async def test_the_first_listing_seeds_and_later_ones_find_drift(bucket: FakeBucket, store: Store) -> None:
    """Nothing is refreshed for what was there; then what is new, changed and gone, with the figures of it."""
    source = ListingSource("www", bucket.settings(interval_seconds=0.2))
    async with Running(source, store) as running:
        await running.until(lambda: source.health.ready and source.health.rescans)
        assert (running.seeds, running.changes) == (300, [])
        bucket.objects |= {"new": b"x", "d0/000": b"changed"}
        del bucket.objects["d1/001"]
        await running.until(lambda: len(running.changes) == 3)
        assert reported(running) == {"new": "content", "d0/000": "content", "d1/001": "deleted"}
        await running.until(lambda: source.health.figures.get("drift_gone") == 0)
        assert source.health.state in (SourceState.LISTENING, SourceState.SCANNING)
    assert not source.health.ready


async def test_a_listing_is_made_when_it_is_requested(bucket: FakeBucket, store: Store) -> None:
    """Whatever the interval: with none at all, and once more where one is under way."""
    source = ListingSource("www", bucket.settings(interval_seconds=0))
    assert isinstance(source, Rescans)
    async with Running(source, store) as running:
        await running.until(lambda: source.health.ready)
        bucket.objects |= {"new": b"x"}
        source.rescan("a test")
        await running.until(lambda: reported(running) == {"new": "content"})


async def test_a_bucket_that_shrinks_by_nine_tenths(bucket: FakeBucket, store: Store) -> None:
    """Nothing is taken for deleted, and it is reported with the command that confirms it; confirmed, it is."""
    source = ListingSource("www", bucket.settings(interval_seconds=0.2))
    async with Running(source, store) as running:
        await running.until(lambda: source.health.rescans)
        whole = dict(bucket.objects)
        bucket.objects = dict(list(whole.items())[:30])
        await running.until(lambda: "confirm-deletions www" in source.health.detail)
        bucket.objects = {}
        await running.until(lambda: "nothing is listed" in source.health.detail)
        assert running.changes == []
        bucket.objects = dict(list(whole.items())[:30])
        source.confirm_deletions()
        await running.until(lambda: len(running.changes) == 270)
        assert set(reported(running).values()) == {"deleted"}
        await running.until(lambda: not source.health.detail)


async def test_a_listing_that_fails_is_tried_again(
    bucket: FakeBucket, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a listing deletes nothing; the source says what is wrong, stays up, and heals by itself."""
    monkeypatch.setattr("listener.sources.listing.source.FIRST_RETRY_SECONDS", 0.05)
    bucket.page = 50
    source = ListingSource("www", bucket.settings(interval_seconds=0.2, concurrency=2))
    async with Running(source, store) as running:
        await running.until(lambda: source.health.rescans)
        bucket.fault = lambda _prefix, after: denied() if after > "d1/" else None
        await running.until(lambda: source.health.state is SourceState.DEGRADED)
        assert "AccessDenied" in source.health.detail
        assert source.health.ready, "what was found before still holds"
        bucket.fault = lambda _prefix, _after: None
        before = source.health.rescans
        await running.until(lambda: source.health.rescans > before)
        assert (running.changes, source.health.detail) == ([], "")


async def test_an_interrupted_seeding_is_done_again_as_one(bucket: FakeBucket, store: Store) -> None:
    """Until a first listing was whole nothing is refreshed for what it finds."""
    bucket.page = 50
    bucket.fault = lambda _prefix, after: denied() if after > "d1/" else None
    source = ListingSource("www", bucket.settings(concurrency=1))
    async with Running(source, store) as running:
        await running.until(lambda: source.health.state is SourceState.DEGRADED)
        assert not source.health.ready
    bucket.fault = lambda _prefix, _after: None
    source = ListingSource("www", bucket.settings(concurrency=1, interval_seconds=0))
    async with Running(source, store) as running:
        await running.until(lambda: source.health.ready)
        assert (running.seeds, running.changes) == (300, [])
    assert await store.seeded("www")


async def test_what_an_event_reported_meanwhile_stays(bucket: FakeBucket, store: Store) -> None:
    """A finding speaks of the moment when the listing began: an index row that is newer is left alone."""
    source = ListingSource("www", bucket.settings(interval_seconds=0.2))
    async with Running(source, store) as running:
        await running.until(lambda: source.health.ready)

        async def reported_meanwhile() -> None:
            await store.record([Batch([Change("www", "d0/000", fingerprint=Fingerprint(9))])], lambda _change: [])

        running.before = reported_meanwhile
        del bucket.objects["d0/000"]
        await running.until(lambda: running.changes)
        assert running.outdated == 1
        assert "000" in await store.directory("www", "d0/")


class Events:
    """A source of events that a test reports what to bring."""

    Settings = BaseModel

    def __init__(self, name: str, *deliveries: Delivery | Exception) -> None:
        self.name, self.roots, self.health = name, (name,), SourceHealth()
        self._deliveries: Sequence[Delivery | Exception] = deliveries

    async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
        self.health.state, self.health.ready, self.health.lost_events = SourceState.LISTENING, True, 2
        for one in self._deliveries:
            if isinstance(one, Exception):
                raise one
            yield one
        await asyncio.Event().wait()

    async def check(self) -> Sequence[Check]:
        return [Check("events", CheckState.OK, "well")]

    def setup(self) -> str:
        return "# paste this"


async def test_events_and_a_listing_are_one_source(bucket: FakeBucket, store: Store) -> None:
    """Ready once both are; what either brings comes; figures and troubles of both are reported."""
    events = Events("www", Delivery([Change("www", "heard", fingerprint=Fingerprint(1))]))
    source = EventsWithReconcile(events, bucket.settings(interval_seconds=0.2))
    async with Running(source, store) as running:
        await running.until(lambda: source.health.ready and source.health.rescans)
        assert "heard" in reported(running)
        bucket.objects["missed"] = b"x"
        await running.until(lambda: "missed" in reported(running))
        assert source.health.lost_events == 2
        assert "drift_unknown" in source.health.figures
    assert [check.state for check in await source.check()] == [CheckState.OK, CheckState.OK]
    assert source.setup() == "# paste this"


async def test_a_listing_that_fails_does_not_end_the_events(bucket: FakeBucket, store: Store) -> None:
    """It is degraded, and says why; an error of the events ends both, to be made again."""
    bucket.fault = lambda _prefix, _after: denied()
    events = Events("www", Delivery([Change("www", "heard", fingerprint=Fingerprint(1))]))
    source = EventsWithReconcile(events, bucket.settings())
    async with Running(source, store) as running:
        await running.until(lambda: "heard" in reported(running) and "AccessDenied" in source.health.detail)
        assert not source.health.ready
    failing = EventsWithReconcile(Events("www", SourceUnavailable("queue gone")), bucket.settings())
    with pytest.raises(SourceUnavailable, match="queue gone"):
        async for _ in failing.deliveries(store):
            pass


def configured(table: dict[str, Any]) -> Any:
    """Return settings with one source."""
    given = {
        "sources": {"www": table},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": "www", "target": "cdn", "base_urls": ["https://www.example.com/"]}],
    }
    return parse_settings(given, {})


def test_a_source_of_events_names_its_bucket() -> None:
    """The table below it is checked, and makes a pair; a wrong key in it is reported with its whole name."""
    queue = {"type": "sqs", "queue_url": "https://sqs.eu-west-1.amazonaws.com/1/q"}
    table = queue | {"listing": {"url": "s3://site", "interval_seconds": 3600}}
    assert isinstance(load_sources(configured(table))["www"], EventsWithReconcile)
    assert not isinstance(load_sources(configured(queue))["www"], EventsWithReconcile)
    with pytest.raises(ConfigurationError, match=r"sources\.www\.listing\.bukket"):
        load_sources(configured(queue | {"listing": {"url": "s3://site", "bukket": 1}}))
    with pytest.raises(ConfigurationError, match="listing"):
        load_sources(configured({"type": "filesystem", "path": "/", "listing": {"url": "s3://site"}}))
    assert isinstance(load_sources(configured({"type": "listing", "url": "s3://site"}))["www"], ListingSource)


async def test_the_check_lists_a_page(bucket: FakeBucket) -> None:
    """It says whether the bucket can be listed, and warns of one that holds nothing."""
    source = ListingSource("www", bucket.settings())
    assert [check.state for check in await source.check()] == [CheckState.OK]
    bucket.objects = {}
    assert [check.state for check in await source.check()] == [CheckState.WARNING]
    bucket.fault = lambda _prefix, _after: denied("InvalidAccessKeyId")
    (check,) = await source.check()
    assert (check.state, "access key" in check.hint) == (CheckState.FAILED, True)


def test_a_bucket_behind_a_daemon(stand: Stand, bucket: FakeBucket) -> None:
    """The whole path: ready once it is seeded, an unreported change is refreshed, the drift is in the status."""
    table = f'[sources.www]\ntype = "listing"\nurl = "s3://site"\nendpoint_url = "http://127.0.0.1:{bucket.port}"\n'
    text = stand.configure().read_text()
    begin = text.index("[sources.www]")
    stand.put(
        text[:begin] + table + 'region = "us-east-1"\ninterval_seconds = 0.5\n' + text[text.index("[targets.cdn]") :]
    )
    with stand.daemon():
        bucket.objects["d0/000"] = b"changed"
        until(lambda: stand.url("d0/000") in stand.paths())
    assert stand.paths() == [stand.url("d0/000")]
