"""Messages of queues that were recorded: noted with the last of their changes, within bounds."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from listener.errors import StoreError
from listener.store.batches import Batch, Recorded
from listener.store.filtering import MESSAGE_SECONDS
from tests.store.steps import Bench, content, route


async def test_a_message_is_known_once_its_changes_are_recorded(bench: Bench) -> None:
    """And not before; one that is not named is not known."""
    assert await bench.store.known_messages(["m1", "m2"]) == frozenset()
    await bench.store.record([Batch([content("a")], message_ids=["m1"])], route)
    await bench.store.record([Batch([content("a", 2)], message_ids=["m1"])], route)
    assert await bench.store.known_messages(["m1", "m2"]) == {"m1"}


async def test_a_message_whose_changes_are_in_slices_is_noted_after_all_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any slice may fail: what was noted with another would be lost when its message comes again."""
    changes = [content(f"{number}") for number in range(1_100)]
    record, full = bench.store._recorder.record, [True]

    def maybe_full(connection: sqlite3.Connection, batch: Batch, *arguments: Any, **options: Any) -> Recorded:
        if full and any(one.key == "600" for one in batch.changes):
            raise StoreError("the disk is full")
        return record(connection, batch, *arguments, **options)

    monkeypatch.setattr(bench.store._recorder, "record", maybe_full)
    with pytest.raises(StoreError):
        await bench.store.record([Batch(changes, message_ids=["m1"])], route)
    assert await bench.store.known_messages(["m1"]) == frozenset()
    full.clear()
    await bench.store.record([Batch(changes, message_ids=["m1"])], route)
    assert await bench.store.known_messages(["m1"]) == {"m1"}


async def test_messages_are_bounded_in_number_and_age(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; none is kept for longer than a queue redelivers."""
    monkeypatch.setattr("listener.store.filtering.MOST_MESSAGES", 2)
    for number in range(4):
        await bench.store.record([Batch([content("a", number)], message_ids=[f"m{number}"])], route)
    assert await bench.store.known_messages([f"m{number}" for number in range(4)]) == {"m2", "m3"}
    bench.clock.advance(MESSAGE_SECONDS - 1)
    await bench.store.upkeep(keep_seconds=10 * MESSAGE_SECONDS)
    assert await bench.store.known_messages(["m2", "m3"]) == {"m2", "m3"}
    bench.clock.advance(2)
    await bench.store.upkeep(keep_seconds=10 * MESSAGE_SECONDS)
    assert await bench.store.known_messages(["m2", "m3"]) == frozenset()
