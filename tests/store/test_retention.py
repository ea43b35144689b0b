"""Retention: every row ends as documented, and the file's free space goes back to the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from listener.change import Change
from listener.contracts import SourceHealth, SourceState, Unreadable
from listener.refresh import AttemptState
from listener.store import open_store
from listener.store.controls import AccountReport, ControlKind, Controls, Place, Progress
from listener.store.database import prepare
from listener.store.maintenance import Configured
from listener.store.record import Batch
from listener.store.transitions import AttemptRequest
from tests.store.steps import BASE, Bench, FakeClock, content, deleted, file, folder

DAY = 86400.0
KEEP = 30 * DAY
WWW = Configured(frozenset({"www"}), frozenset({"main"}), frozenset({"www"}), frozenset({"cdn"}))


async def upkeep(bench: Bench) -> None:
    """Let upkeep run as often as it takes to find nothing more."""
    for _ in range(3):
        await bench.store.upkeep(keep_seconds=KEEP, configured=WWW)


def rows(bench: Bench) -> dict[str, int]:
    """Return how many rows each table holds, without those that hold none."""
    tables = [name for (name,) in bench.sql("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    counts = {name: bench.sql(f"SELECT count(*) FROM {name}")[0][0] for name in tables}
    return {name: count for name, count in counts.items() if count and name not in ("meta", "sqlite_sequence")}


async def test_every_row_of_history_ends(bench: Bench) -> None:
    """Audit, expired overrides, backfills finished or not, settled attempts, old days, counts of what was dropped."""
    await bench.change(content("a"))
    await bench.finish(await bench.send(file("a")))
    controls = Controls(bench.store)
    await controls.put(ControlKind.PAUSE, [Place("", BASE)], seconds=3600, reason="x")
    await controls.put(ControlKind.HOLD, [Place("cdn")], seconds=None)
    await bench.store.save_progress("finished", Progress("a", 1, True))
    await bench.store.save_progress("unfinished", Progress("a", 1, False))
    await bench.change(content("a"))
    await bench.finish(await bench.send(file("a")))
    await bench.store._write(
        lambda c: c.execute("INSERT INTO dropped VALUES ('q', 'key', 1, 1, ?)", (bench.clock.now(),))
    )
    await upkeep(bench)
    before = rows(bench)
    assert {"audit", "backfill", "attempt", "ledger", "dropped"} <= set(before)
    assert (before["control"], before["backfill"]) == (2, 2)
    bench.clock.advance(3601)
    await upkeep(bench)
    assert rows(bench)["control"] == 1
    bench.clock.advance(KEEP + 2 * DAY)
    await upkeep(bench)
    assert rows(bench) == {"target": 1, "root": 1, "tree": 1, "object": 1, "control": 1}


@pytest.mark.parametrize("name", ["www", "gone"])
async def test_names_that_are_configured_no_longer_end(bench: Bench, name: str) -> None:
    """Their index, tokens, tombstones and words end with the history; those of configured names stay."""
    changes = [Change(name, f"{n % 3}/{n}", content("x").kind, content("x").fingerprint) for n in range(1_200)]
    await bench.store.record([Batch(changes, seed=True)], lambda _: [])
    token = Change(name, "token", content("x").kind, content("x").fingerprint, order="1")
    await bench.store.record([Batch([token, deleted("0/0")._replace(root=name)])], lambda _: [])
    await bench.store.save_source(name, SourceHealth(SourceState.LISTENING))
    account = "main" if name == "www" else "other"
    await bench.store.save_account(AccountReport(account))
    await bench.store.add_dead_letters(name, [Unreadable(b"m", b"", "none")])
    await upkeep(bench)
    bench.clock.advance(KEEP / 2)
    await upkeep(bench)
    half = rows(bench)
    assert half["object"] == 1_200
    bench.clock.advance(KEEP / 2 + 16 * DAY)
    await bench.store.upkeep(keep_seconds=KEEP, configured=WWW)
    await bench.store.mark_seeded(name)  # its id is cached again
    await upkeep(bench)
    left = rows(bench)
    if name == "www":
        assert left == {name: count for name, count in half.items() if name not in ("order_token", "tombstone")}
    else:
        assert left == {"dead_letter": 1}
    await bench.change(Change(name, "again", content("x").kind, content("x").fingerprint))
    assert rows(bench)["root"] == 1
    assert bench.sql("SELECT count(*) FROM tree WHERE root NOT IN (SELECT id FROM root)") == [(0,)]


@pytest.mark.parametrize("state", ["unknown", "accepted", "unconfirmed"])
@pytest.mark.parametrize("request_of", [file, folder])
async def test_attempts_of_a_target_that_is_configured_no_longer_end(
    bench: Bench, state: str, request_of: Callable[[str], AttemptRequest]
) -> None:
    """After ``keep_days`` nobody is in flight for it, no unit stays reserved, and what is stale is due again."""
    await bench.change(content("d/a"))
    (attempt,) = await bench.hold(request_of("d/a" if request_of is file else "d/"))
    await bench.store.mark_sending([attempt.id])
    if state == "unknown":
        await bench.store.mark_unknown([attempt.id], next_look_at=bench.clock.now(), error="lost")
    else:
        await bench.store.accept({attempt.id: "task"}, next_look_at=bench.clock.now())
    if state == "unconfirmed":
        await bench.store.unconfirm(attempt, next_look_at=None, error="late")
    without = WWW._replace(targets=frozenset({"other"}))
    for configured, days, ends in ((WWW, 31, False), (without, 0, True)):
        bench.clock.advance(days * DAY)
        await bench.store.upkeep(keep_seconds=KEEP, configured=configured)
        active = await bench.store.attempts_in(*AttemptState)
        assert (active == []) is ends
    assert (await bench.store.counts()).deferred == 1
    assert bench.sql("SELECT coalesce(sum(held), 0) FROM ledger") == [(0,)]


@pytest.mark.parametrize("is_converted", [False, True])
async def test_free_space_goes_back_in_slices(tmp_path: Path, clock: FakeClock, is_converted: bool) -> None:
    """After a mass deletion the file shrinks by itself, also one of an earlier version; no commit takes long."""
    path = tmp_path / "s.db"
    if is_converted:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript((Path(__file__).parent / "version_1.sql").read_text())
            connection.executescript(
                "PRAGMA application_id = 0x43444E4C; PRAGMA user_version = 1;"
                "INSERT INTO meta (id, sequence, created_at) VALUES (1, 7, 0)"
            )
    with closing(prepare(path)):
        pass
    async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
        bench = Bench(store, clock)
        await bench.change(*(content(f"{n % 50}/{'x' * 200}{n}") for n in range(20_000)), wait=0)
        await store.checkpoint()
        full = path.stat().st_size
        await store._write(lambda connection: connection.execute("DELETE FROM object").rowcount)
        await store._write(lambda connection: connection.execute("DELETE FROM need").rowcount)
        await store.upkeep(keep_seconds=KEEP)
        await store.checkpoint()
    with closing(prepare(path)):
        pass
    assert path.stat().st_size < full / 2
    async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
        await store.check_at_start()
