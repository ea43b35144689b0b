"""From an event of OSS in a queue to the edge: whatever happens to an object, the edge turns fresh, or it is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from listener.sources.mns import MnsSource
from tests.pipeline.world import World, a_world
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.oss_messages import body_of, event
from tests.sources.mns.sdk import Sdk

pytestmark = pytest.mark.looptime(False)
KEYS = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "testid", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "testsecret"}


@asynccontextmanager
async def listening(folder: Path, service: FakeMns, **options: Any) -> AsyncIterator[World]:
    """Run a world whose only source reads the fake's queue."""
    settings = MnsSource.Settings(endpoint=service.url, queue="events", wait_seconds=20)  # type: ignore[call-arg]
    async with a_world(folder, **options) as world:
        await world.stop()
        world.source = MnsSource("www", settings, environment=KEYS)  # type: ignore[assignment, arg-type]
        await world.start()
        yield world


async def settled(world: World, service: FakeMns) -> None:
    """Wait until the queue is empty and nothing is left to do."""

    async def nothing_left() -> bool:
        if service.queue.messages or not world.pipeline.intake.idle:
            return False
        counts = await world.store.counts()
        return not any((counts.pending, counts.in_flight, counts.failed))

    await world.until(nothing_left, seconds=30)


def names(*kinds: str) -> list[str]:
    """Return event names of creations."""
    return [f"ObjectCreated:{kind}" for kind in kinds]


MULTIPART = ("InitiateMultipartUpload", "UploadPart", "UploadPartCopy", "UploadPart", "CompleteMultipartUpload")
CASES: dict[str, tuple[list[str], bool]] = {
    "overwritten": (names("PutObject"), True),
    "posted by a form": (names("PostObject"), True),
    "copied over": (names("CopyObject"), True),
    "uploaded in parts": (names(*MULTIPART), True),
    "appended to": (names("AppendObject"), True),
    "made a link": (names("PutSymlink"), True),
    "given other headers": (["ObjectModified:UpdateObjectMeta"], True),
    "replicated": (["ObjectReplication:ObjectCreated"], True),
    "deleted": (["ObjectRemoved:DeleteObject"], False),
    "deleted with others": (["ObjectRemoved:DeleteObjects"], False),
    "expired": (["ObjectRemoved:DeleteObjects"], False),
    "removed by replication": (["ObjectReplication:ObjectRemoved"], False),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_edge_follows_the_object(tmp_path: Path, service: FakeMns, sdk: Sdk, case: str) -> None:
    """Sent by the official SDK as OSS sends it; one refresh for each spelling of ``+``, and nothing is left to do."""
    kinds, stays = CASES[case]
    async with listening(tmp_path, service) as world:
        key = "dir/a b+ü.html"
        world.write(key, "first")
        assert await world.get(key) == "first"
        if stays:
            world.write(key, "second")
        else:
            world.remove(key)
        assert await world.get(key) == "first"
        await sdk.send(*(body_of(event(kind, key), encode=False) for kind in kinds))
        await settled(world, service)
        assert await world.get(key) == ("second" if stays else "404")
        assert world.accepted == {"file": 2}


async def test_a_new_object_is_seen_where_a_404_was_cached(tmp_path: Path, service: FakeMns) -> None:
    """A put of what was not there: visitors who asked too early do not keep their 404."""
    async with listening(tmp_path, service) as world:
        assert await world.get("new.html") == "404"
        world.write("new.html", "new")
        await service.send(body_of(event("ObjectCreated:PutObject", "new.html")))
        await settled(world, service)
        assert await world.get("new.html") == "new"


@pytest.mark.parametrize("kind", ["InitiateMultipartUpload", "UploadPart", "UploadPartCopy"])
async def test_parts_of_an_upload_cost_nothing(tmp_path: Path, service: FakeMns, kind: str) -> None:
    """Only its end changes what a URL shows."""
    async with listening(tmp_path, service) as world:
        await service.send(body_of(event(f"ObjectCreated:{kind}", "a.html")))
        await settled(world, service)
        assert world.accepted == {}


async def test_a_queue_that_repeats_itself_costs_nothing_twice(tmp_path: Path, service: FakeMns) -> None:
    """Each message comes about twice, while it is read and after: every object is refreshed once."""
    service.duplicate_share = 0.5
    keys = [f"d/{number}.html" for number in range(60)]
    async with listening(tmp_path, service) as world:
        for key in keys:
            world.write(key, "second")
        await service.send(*(body_of(event("ObjectCreated:PutObject", key)) for key in keys))
        await settled(world, service)
        assert world.accepted.get("file", 0) + 60 * world.accepted.get("directory", 0) <= 60
        assert [await world.get(key) for key in keys] == ["second"] * 60


async def test_what_cannot_be_read_is_kept_before_it_is_deleted(tmp_path: Path, service: FakeMns) -> None:
    """A dead letter with the whole body, also in the same batch as good ones."""
    kept: list[bool] = []
    async with listening(tmp_path, service) as world:
        folder = world.settings.store.url.removeprefix("sqlite:///")
        service.on_delete = lambda name: kept.append(_dead_letters(folder) == ["gibberish"] or name != bad)
        bad, _ = await service.send("gibberish", body_of(event("ObjectCreated:PutObject", "a.html")))
        await settled(world, service)
        assert world.accepted == {"file": 1}
    assert kept == [True, True]


async def test_a_full_disk_keeps_messages_in_the_queue(
    tmp_path: Path, service: FakeMns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be committed nothing is deleted, however often it comes again; afterwards each counts once."""
    from listener.errors import StoreError

    monkeypatch.setattr("listener.pipeline.intake.STORE_RETRY_SECONDS", 0.1)
    async with listening(tmp_path, service) as world:
        record, full = world.store.record, [True]

        async def maybe(*arguments: Any, **named: Any) -> Any:
            if full:
                raise StoreError("disk full", hint="free some")
            return await record(*arguments, **named)

        monkeypatch.setattr(world.store, "record", maybe)
        await service.send(*(body_of(event("ObjectCreated:PutObject", f"{number}.html")) for number in range(20)))
        await world.until(lambda: world.pipeline.store_trouble and len(service.in_flight) == 20, seconds=30)
        await service.advance(31)
        await world.until(lambda: world.source.health.figures.get("repeated_messages", 0) >= 20, seconds=30)
        assert service.queue.deleted == []
        full.clear()
        await settled(world, service)
        assert len(service.queue.deleted) == 20
        assert world.accepted == {"file": 20}


async def test_a_restart_between_commit_and_deletion_records_nothing_twice(tmp_path: Path, service: FakeMns) -> None:
    """What was durable and not deleted comes again to the next process: merged, and refreshed at most once more."""
    async with listening(tmp_path, service) as world:
        service.denied = {"BatchDeleteMessage"}
        world.write("a.html", "second")
        await service.send(body_of(event("ObjectCreated:PutObject", "a.html")))
        await world.until(lambda: world.accepted == {"file": 1}, seconds=30)

        async def confirmed() -> bool:
            return not (await world.store.counts()).in_flight

        await world.until(confirmed, seconds=30)  # the next emulator does not know the task
    service.denied = set()
    await service.advance(31)
    async with listening(tmp_path, service) as world:
        await settled(world, service)
        assert world.accepted.get("file", 0) <= 1
        assert len(service.queue.deleted) == 1


def _dead_letters(path: str) -> list[str]:
    """Return the bodies of the dead letters in the state file, as another process sees it."""
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT body FROM dead_letter").fetchall()
    finally:
        connection.close()
    return [row[0].decode() if isinstance(row[0], bytes) else row[0] for row in rows]
