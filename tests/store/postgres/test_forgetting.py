"""An instance that will never return is forgotten, and what nobody follows is released; nothing stays stale by it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from listener.contracts import SourceHealth, SourceState
from listener.errors import ConfigurationError, StoreBusy, StoreError
from listener.refresh import NeedState
from listener.store.postgres import forgetting
from listener.store.postgres.forgetting import Forgotten, Released, forget, release
from tests.store.databases import empty_schema
from tests.store.postgres.copies import Fleet, fleet, holds, promoted, record
from tests.store.steps import ALLOWANCES, FakeClock, file

pytestmark = pytest.mark.looptime(False)


@pytest.fixture
async def stand(store_url: str, clock: FakeClock) -> AsyncIterator[Fleet]:
    """A fleet on an empty schema."""
    empty_schema(store_url)
    async with fleet(store_url, clock) as made:
        yield made


async def test_an_instance_that_runs_or_is_unknown_is_refused(stand: Fleet) -> None:
    """Nothing is removed; the error names the instances that are known."""
    one = await stand.join("a")
    await record(one, holds("x", 1))
    with pytest.raises(StoreBusy, match="instance a runs: its heartbeat lasts for"):
        await forget(one, "a")
    with pytest.raises(ConfigurationError, match="there is no instance 'b'") as refused:
        await forget(one, "b")
    assert refused.value.hint == "known: a"
    assert list(await one.directory("www", "")) == ["x"]


async def test_its_leases_reports_and_copies_go(stand: Fleet) -> None:
    """And no others'; its registrations stay counted, so that a frozen process of it is fenced off for good."""
    one, other = await stand.join("a"), await stand.join("gone")
    for instance in (one, other):
        await record(instance, holds("x", 1), holds("d/y", 1))
    stand.sql(
        "INSERT INTO {}.lease (name, instance, incarnation, term) VALUES ('main', 'gone', 1, 7), ('b', 'a', 1, 7)"
    )
    for instance in (one, other):
        await instance.save_source("www", SourceHealth(SourceState.LISTENING))
    stand.end("gone")
    assert await forget(one, "gone") == Forgotten(leases=1, reports=1, objects=2, requested=0)
    assert stand.sql("SELECT name FROM {}.root ORDER BY 1") == [("www@a",)]
    assert sorted(stand.sql("SELECT name, instance, term FROM {}.lease")) == [("b", "a", 7), ("main", None, 8)]
    assert stand.sql("SELECT incarnation FROM {}.instance WHERE name = 'gone'")
    assert [instance.name for instance in await one.instances()] == ["a"]
    assert list((await one.source_reports())["www"]) == ["a"]
    assert list(await one.directory("www", "")) == ["x"]


async def test_where_its_copy_was_another_one_is_refreshed(stand: Fleet) -> None:
    """The CDN may have fetched from it last: other content, an object that only it had, one that it lacked."""
    one, other = await stand.join("a"), await stand.join("gone")
    await record(one, holds("same", 1), holds("other", 1), holds("d/lacked", 1))
    await record(other, holds("same", 1), holds("other", 2), holds("d/more", 1))
    stand.sql("DELETE FROM {}.need")
    stand.end("gone")
    assert (await forget(one, "gone")).requested == 3
    assert stand.needs().keys() == {"other", "lacked", "more"}
    assert list(await one.directory("www", "d/")) == ["lacked"]


async def test_it_goes_on_where_it_was_interrupted(stand: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compared is not compared once more: a part of it is gone, and would look like a difference."""
    one, other = await stand.join("a"), await stand.join("gone")
    for instance in (one, other):
        await record(instance, holds("x", 1), holds("d/y", 1))
    stand.sql("DELETE FROM {}.need")
    stand.end("gone")
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(forgetting.retention, "retire_root", lambda *_: 1 // 0)
        await forget(one, "gone")
    stand.sql(
        "DELETE FROM {}.object WHERE tree IN (SELECT t.id FROM {}.tree t JOIN {}.root r ON r.id = t.root"
        " WHERE r.name = 'www@gone')"
    )
    assert (await forget(one, "gone")).requested == 0
    assert stand.sql("SELECT name FROM {}.root ORDER BY 1") == [("www@a",)]


async def test_the_only_copy_in_use_is_kept(stand: Fleet) -> None:
    """Else the first scan of the next instance would take whatever it finds as known."""
    one, other = await stand.join("a", is_seeded=False), await stand.join("gone")
    await record(other, holds("x", 1))
    stand.end("gone")
    with pytest.raises(StoreError, match="instance gone has the only copy of source www that is in use"):
        await forget(one, "gone")
    assert stand.sql("SELECT name FROM {}.root WHERE seeded = 1") == [("www@gone",)]


async def test_what_was_sent_for_an_account_that_nobody_leads_is_released(stand: Fleet, clock: FakeClock) -> None:
    """Reserved is refunded, sent counts as spent; the needs are ready again. One with a leader is refused."""
    one = await stand.join("a")
    keys = ["held", "accepted", "unknown", "failed"]
    await record(one, *(holds(key, 1) for key in keys))
    await promoted(one, clock, 100.0)
    made = {}
    for key in keys:
        (made[key],) = await one.hold([file(key)], account="main", allowances=ALLOWANCES)
    sent = [made[key].id for key in keys[1:]]
    await one.mark_sending(sent)
    await one.accept({made["accepted"].id: "task"}, next_look_at=clock.now())
    await one.mark_unknown([made["unknown"].id], next_look_at=clock.now(), error="lost")
    await one.fail([made["failed"].id], retry_at=clock.now() + 100, error="no")
    stand.sql("INSERT INTO {}.lease (name, instance, incarnation, term) VALUES ('main', 'a', 1, 7)")
    assert not await one.unled_accounts()
    with pytest.raises(StoreBusy, match="account main: instance a is configured for it"):
        await release(one, "main")
    stand.end("a")
    assert await one.unled_accounts() == ["main"]
    assert await release(one, "main") == Released(refunded=1, spent=2, ended=1)
    assert stand.needs() == dict.fromkeys(keys, NeedState.READY)
    assert stand.sql("SELECT spent, held FROM {}.ledger WHERE kind = 'file'") == [(2, 0)]
    assert not await one.unled_accounts()
    with pytest.raises(ConfigurationError, match="nothing is in flight for it"):
        await release(one, "main")
