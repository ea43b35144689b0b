"""Damage: found at the start and at the first error, remembered for good, never taken for a defect."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listener.errors import StoreError, StoreUnusable
from listener.store import Store, open_store
from listener.store.agreement import DISAGREEMENTS
from listener.store.sqlite import maintenance, ownership
from listener.store.sqlite.database import connect
from listener.store.sqlite.ownership import Damage
from tests.store.steps import Bench, FakeClock, content, file

PAGE = 4096


@pytest.fixture
def bench(sqlite_bench: Bench) -> Bench:
    """Only SQLite: what is damaged is a file."""
    return sqlite_bench


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file with rows in most tables."""
    import asyncio

    path = tmp_path_factory.mktemp("sound") / "s.db"

    async def fill() -> None:
        clock = FakeClock()
        async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
            bench = Bench(store, clock)
            await store.recover()
            await bench.change(*(content(f"d{n % 40}/{n}.html") for n in range(800)))
            await bench.finish(await bench.send(*(file(f"d{n % 40}/{n}.html") for n in range(50))))
            await bench.hold(*(file(f"d{n % 40}/{n}.html") for n in range(100, 150)))
            await store.mark_clean()

    asyncio.run(fill())
    return path.read_bytes()


def put(folder: Path, data: bytes) -> Path:
    """Put a state file in a place of its own."""
    path = folder / f"{time.monotonic_ns()}.db"
    path.write_bytes(data)
    return path


def zeroed(data: bytes, page: int, _other: int) -> bytes:
    """A page that was lost."""
    return data[: page * PAGE] + bytes(PAGE) + data[(page + 1) * PAGE :]


def swapped(data: bytes, page: int, other: int) -> bytes:
    """A page that holds the bytes of another, as after a write that went astray."""
    return data[: page * PAGE] + data[other * PAGE : (other + 1) * PAGE] + data[(page + 1) * PAGE :]


def flipped(data: bytes, page: int, other: int) -> bytes:
    """A page with one byte changed in its head."""
    at = page * PAGE + other % 8
    return data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(page=st.integers(1, 10_000), other=st.integers(1, 10_000), how=st.sampled_from([zeroed, swapped, flipped]))
async def test_what_a_full_check_finds_is_found_at_the_start(
    tmp_path: Path, sound: bytes, page: int, other: int, how: Callable[[bytes, int, int], bytes]
) -> None:
    """Whatever page is damaged: if `store check` finds it, the daemon refuses to work before it writes anything."""
    pages = len(sound) // PAGE
    path = put(tmp_path, how(sound, 1 + page % (pages - 1), 1 + other % (pages - 1)))
    try:
        found = maintenance.check(path)
    except StoreUnusable:
        found = ["cannot be read"]
    # Rows that disagree are no damage of pages; SQLite cannot know of them.
    structural = [one for one in found if not one.startswith(tuple(DISAGREEMENTS))]
    if not structural:
        return
    before = path.read_bytes()
    with pytest.raises(StoreUnusable) as caught:
        async with open_store(f"sqlite:///{path}", owner=True) as store:
            await store.check_at_start()
    assert "restore a backup" in caught.value.hint
    assert path.read_bytes()[PAGE:] == before[PAGE:]


def not_utf8_in_schema(path: Path) -> None:
    """A table whose name is no UTF-8: SQLite's own message about it cannot be decoded."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET name = cast(x'6ec565ff64' AS TEXT),"
            " sql = replace(sql, 'TABLE need ', 'TABLE n ') WHERE name = 'need'"
        )
        connection.commit()


def not_utf8_in_row(path: Path) -> None:
    """A text of a row that is no UTF-8."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE target SET name = cast(x'ff80' AS TEXT)")
        connection.commit()


def no_such_state(path: Path) -> None:
    """A state that no version ever wrote, and a lost page that proves the damage."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE attempt_group SET state = 'rubbish'")
        connection.commit()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'order_token_at'").fetchone()
    path.write_bytes(zeroed(path.read_bytes(), page - 1, 0))


@pytest.mark.parametrize("harm", [not_utf8_in_schema, not_utf8_in_row, no_such_state])
@pytest.mark.parametrize("readonly", [True, False])
async def test_no_damage_is_a_defect(
    tmp_path: Path, sound: bytes, harm: Callable[[Path], None], readonly: bool
) -> None:
    """Text that cannot be decoded and rows that cannot be are reported as a damaged file, for good."""
    path = put(tmp_path, sound)
    harm(path)
    with pytest.raises(StoreUnusable) as caught:
        async with open_store(f"sqlite:///{path}", owner=not readonly, readonly=readonly) as store:
            await store.counts()
            await store.history(limit=1_000)
            await store.attempts_in(*("held", "sending", "unknown", "accepted"))
    assert "restore a backup" in caught.value.hint


async def test_after_the_first_proof_nothing_is_written(tmp_path: Path, sound: bytes) -> None:
    """A read that meets damage ends all writing by this process: nothing is held, sent, recorded or checkpointed."""
    path = put(tmp_path, sound)
    async with open_store(f"sqlite:///{path}", owner=True) as store:
        await store.recover()
        await store.checkpoint()
        await store._write(lambda c: c.execute("UPDATE target SET name = cast(x'ff80' AS TEXT)").rowcount)
        assert store.damage is None
        with pytest.raises(StoreUnusable):
            await store.history()
        assert store.damage is not None
        for refused in (
            store.request([]),
            store.mark_sending([1]),
            store.record([], lambda _: []),
            store.checkpoint(),
            store.mark_clean(),
        ):
            if await _is_refused(refused):
                continue
            pytest.fail("something was written")


async def _is_refused(call: object) -> bool:
    try:
        await call  # type: ignore[misc]
    except StoreUnusable:
        return True
    return call.__name__ in ("request", "record")  # type: ignore[attr-defined] # nothing to write, nothing written


async def test_an_error_of_ours_stays_one(bench: Bench) -> None:
    """An unexpected error over a sound file is reported as it is, and the next ones without another check."""
    checks = 0

    def fail(_: sqlite3.Connection) -> None:
        raise ValueError("ours")

    for _ in range(2):
        with pytest.raises(ValueError, match="ours"):
            await bench.store._read(fail)
        with pytest.raises(ValueError, match="ours"):
            await bench.store._write(fail)
    assert bench.store.damage is None
    assert checks == 0
    await bench.change(content("a"))


@pytest.mark.looptime(False)
async def test_a_large_file_is_checked_in_the_background(
    tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start does not wait for it; what it finds is remembered. A check ends with the store."""
    import asyncio

    monkeypatch.setattr(ownership, "SMALL_BYTES", 10 * PAGE)
    path = put(tmp_path, sound)
    async with open_store(f"sqlite:///{path}", owner=True) as store:
        await store.check_at_start()
        assert await _checked(store) is None
    no_such_state(path)
    async with open_store(f"sqlite:///{path}", owner=True) as store:
        await store.check_at_start()
        async with asyncio.timeout(20):
            while store.damage is None:
                await asyncio.sleep(0.01)
    ended = Damage(path, partial(connect, path, readonly=True))
    ended.end()
    ended.check_large()


async def _checked(store: Store) -> StoreError | None:
    await store._run_in(store._checks, lambda: None)
    return store.damage


def test_a_check_has_an_end(tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes too long is left unfinished, and no damage is concluded from that."""
    monkeypatch.setattr(ownership, "STEPS", 1)
    monkeypatch.setattr(ownership, "WHOLE_SECONDS", 0.0)
    path = put(tmp_path, sound)
    found = Damage(path, partial(connect, path, readonly=True))
    assert found.check_small()
    assert found.found is None
