"""Retention: every row ends as documented, and the file's free space goes back to the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from listener.allowances import Allowance, Month, Rolling
from listener.change import Change
from listener.contracts import SourceHealth, SourceState, Unreadable
from listener.refresh import AttemptState, RefreshKind
from listener.store import open_store
from listener.store.batches import Batch
from listener.store.controls import AccountReport, ControlKind, Controls, Place, Progress
from listener.store.postgres.translation import TABLES
from listener.store.retention import BOUNDS, NEWEST_WINDOWS, UNSETTLED_SECONDS, Configured
from listener.store.sqlite.database import prepare
from listener.store.store import REMOVE_ROWS
from listener.store.transitions import AttemptRequest
from tests.store.steps import BASE, Bench, FakeClock, add_attempt, content, deleted, file, folder, subtree

DAY = 86400.0
KEEP = 30 * DAY
WWW = Configured(frozenset({"www"}), frozenset({"main"}), frozenset({"www"}), frozenset({"cdn"}))


async def upkeep(bench: Bench) -> None:
    """Let upkeep run as often as it takes to find nothing more."""
    for _ in range(3):
        await bench.store.upkeep(keep_seconds=KEEP, configured=WWW)


def rows(bench: Bench) -> dict[str, int]:
    """Return how many rows each table holds, without those that hold none."""
    counts = {name: bench.sql(f"SELECT count(*) FROM {name}")[0][0] for name in sorted(TABLES - {"meta"})}
    return {name: count for name, count in counts.items() if count}


async def test_every_table_has_a_stated_bound(bench: Bench) -> None:
    """A new table needs one; what is stated of a table that is gone is removed."""
    assert set(BOUNDS) == TABLES
    assert all(bound.most and bound.removed for bound in BOUNDS.values())


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
    assert {"audit", "backfill", "attempt_group", "attempt_item", "ledger", "dropped"} <= set(before)
    assert (before["control"], before["backfill"]) == (2, 2)
    bench.clock.advance(3601)
    await upkeep(bench)
    assert rows(bench)["control"] == 1
    bench.clock.advance(KEEP + 2 * DAY)
    await upkeep(bench)
    assert rows(bench) == {"target": 1, "root": 1, "tree": 1, "object": 1, "control": 1, "ledger": 1}
    for _ in range(NEWEST_WINDOWS):
        bench.clock.advance(DAY)
        await bench.change(content("a"))
        await bench.finish(await bench.send(file("a")))
    assert rows(bench)["ledger"] == NEWEST_WINDOWS + 1
    await upkeep(bench)
    assert rows(bench)["ledger"] == NEWEST_WINDOWS


async def test_a_clock_that_is_wrong_for_a_while_makes_nothing_unspent(bench: Bench) -> None:
    """Years ahead, as at the boot of a machine without a battery, and back: a month's units, and those of 30 days."""
    month = Allowance(name="month", limit=1, window=Month(), costs={RefreshKind.FILE: 1})
    days = Allowance(name="days", limit=1, window=Rolling(30), costs={RefreshKind.FILE: 1})
    await bench.change(content("a"), wait=2.0)
    made = await bench.store.hold([file("a")], account="main", allowances=[month, days])
    await bench.store.mark_sending([one.id for one in made])
    await bench.store.accept({made[0].id: "t"}, next_look_at=0.0)
    bench.clock.advance(3_000 * DAY)
    # No target of this account is configured, or its windows are those of the wrong day.
    await bench.change(content("b"), wait=2.0)
    await bench.store.refund(
        [one.id for one in await bench.store.hold([file("b")], account="main", allowances=[month])]
    )
    await upkeep(bench)
    bench.clock.advance(-3_000 * DAY)
    assert [(await bench.store.budget("main", one)).spent for one in (month, days)] == [1, 1]
    assert await bench.store.hold([file("b")], account="main", allowances=[month]) == []


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
        # An instance of a fleet repeats its reports; of one that does so no longer nothing is kept for ever.
        gone = {"order_token", "tombstone"} | ({"source"} if bench.store.instance else set())
        assert left == {name: count for name, count in half.items() if name not in gone}
    else:
        assert left == {"dead_letter": 1}
    await bench.change(Change(name, "again", content("x").kind, content("x").fingerprint))
    assert rows(bench)["root"] == 1
    assert bench.sql("SELECT count(*) FROM tree WHERE root NOT IN (SELECT id FROM root)") == [(0,)]


WITHOUT = WWW._replace(targets=frozenset({"other"}))


async def test_a_target_stays_while_a_url_of_it_is_stale(bench: Bench) -> None:
    """The configuration has it no longer, and nothing was ever sent to it."""
    await bench.change(content("a"))
    bench.clock.advance(3 * KEEP)
    await bench.store.upkeep(keep_seconds=KEEP, configured=WITHOUT)
    assert rows(bench)["target"] == 1
    assert (await bench.store.counts()).deferred == 1


async def test_a_target_ends_with_its_history(bench: Bench) -> None:
    """One that is configured stays; one that is not ends after its last attempt, and may come back."""
    await bench.change(content("d/a"))
    await bench.finish(await bench.send(folder("d/")))
    for days, configured, left in ((0, WITHOUT, 1), (0, WITHOUT, 1), (31, WWW, 1), (0, WITHOUT, 0)):
        bench.clock.advance(days * DAY)
        (reserved,) = await bench.hold(folder("d/"))  # its id is cached
        await bench.store.refund([reserved.id])
        await bench.store.upkeep(keep_seconds=KEEP, configured=configured)
        assert rows(bench).get("target", 0) == left
    await bench.change(content("a"))
    assert (await bench.store.counts()).deferred == 1


async def test_what_an_unknown_outcome_is_compared_with_stays(bench: Bench) -> None:
    """A task in the list may be that of an earlier request, which must be known as long as one is not settled."""
    await bench.change(content("a"), content("b"))
    await bench.finish(await bench.send(file("a")))
    (unknown,) = await bench.hold(file("b"))
    await bench.store.mark_sending([unknown.id])
    await bench.store.mark_unknown([unknown.id], next_look_at=bench.clock.now(), error="lost")
    bench.clock.advance(KEEP + 2 * DAY)
    await upkeep(bench)
    assert bench.sql("SELECT state FROM attempt ORDER BY id") == [("complete",), ("unknown",)]
    await bench.store.accept({unknown.id: "task"}, next_look_at=bench.clock.now())
    await upkeep(bench)
    assert bench.sql("SELECT state FROM attempt ORDER BY id") == [("accepted",)]


async def test_what_ended_long_before_an_unknown_outcome_is_removed(bench: Bench) -> None:
    """A request whose outcome stays unknown does not keep the whole history."""
    await bench.change(content("a"), content("b"))
    await bench.finish(await bench.send(file("a")))
    bench.clock.advance(UNSETTLED_SECONDS + 60)
    (unknown,) = await bench.hold(file("b"))
    await bench.store.mark_sending([unknown.id])
    await bench.store.mark_unknown([unknown.id], next_look_at=bench.clock.now(), error="lost")
    bench.clock.advance(KEEP + 2 * DAY)
    await upkeep(bench)
    assert bench.sql("SELECT state FROM attempt") == [("unknown",)]


async def unconfirmed(bench: Bench, *wanted: AttemptRequest) -> list[int]:
    """Send these; their tasks never end. Return their ids."""
    made = await bench.send(*wanted)
    for one in made:
        await bench.store.unconfirm([one.id], next_look_at=None, error="late")
    return [one.id for one in made]


def active(bench: Bench) -> list[int]:
    """Return the ids of the attempts on which anything depends."""
    return [id_ for (id_,) in bench.sql("SELECT id FROM attempt WHERE active = 1 ORDER BY id")]


async def test_an_unconfirmed_directory_stays_while_it_covers_a_need(bench: Bench) -> None:
    """However old it is: without it the URL would be sent again merely because its task is old."""
    await bench.change(content("d/a"), content("d/b"))
    (id_,) = await unconfirmed(bench, folder("d/"))
    await bench.change(content("d/b", 2))
    bench.clock.advance(3 * KEEP)
    await upkeep(bench)
    assert active(bench) == [id_]
    counts = await bench.store.counts()
    assert (counts.unconfirmed, counts.deferred) == (1, 1)


async def test_an_unconfirmed_directory_ends_once_it_covers_nothing(bench: Bench) -> None:
    """All that was below it changed again; it is history after ``keep_days``, and gone after as long again."""
    await bench.change(content("d/a"), content("d/b"), content("other"))
    (id_,) = await unconfirmed(bench, folder("d/"))
    await bench.change(content("d/a", 2), content("d/b", 2))
    await upkeep(bench)
    assert active(bench) == [id_]
    bench.clock.advance(KEEP + DAY)
    await upkeep(bench)
    assert active(bench) == []
    assert (await bench.store.counts()).deferred == 3
    bench.clock.advance(KEEP + DAY)
    await upkeep(bench)
    assert "attempt" not in rows(bench)


@pytest.mark.parametrize(
    ("first", "second", "is_kept"),
    [
        (folder("d/"), folder("d/"), False),
        (folder("d/e/"), folder("d/"), False),
        (folder("d/"), folder("d/e/"), True),
        (folder("d/e/"), folder("d/f/"), True),
        (folder("d/"), folder("d/", force=False), True),
    ],
)
async def test_an_unconfirmed_directory_ends_where_a_later_one_covers_it_all(
    bench: Bench, first: AttemptRequest, second: AttemptRequest, is_kept: bool
) -> None:
    """One that is requested day after day leaves one row, and its URLs stay unconfirmed."""
    await bench.change(content("d/e/a"), content("d/f/a"))
    before = await unconfirmed(bench, first)
    after = await unconfirmed(bench, second)
    counts = await bench.store.counts()
    bench.clock.advance(KEEP + DAY)
    await upkeep(bench)
    assert active(bench) == [*(before if is_kept else ()), *after]
    assert await bench.store.counts() == counts


async def test_a_tombstone_does_not_end_with_an_older_one_of_its_key(bench: Bench) -> None:
    """An object whose key ends with a slash was deleted two days ago, the directory of that name just now."""
    await bench.change(deleted("d/"), content("d/a"))
    bench.clock.advance(2 * DAY)
    await bench.change(subtree("d/", gone=True), wait=0)
    await bench.store._write(
        lambda connection: connection.execute(
            "INSERT INTO tombstone (root, key, below, sequence, at) VALUES (1, ?1, 1, 9, ?2)"
            " ON CONFLICT (root, key, below) DO UPDATE SET sequence = 9, at = ?2",
            (b"d/", bench.clock.now()),
        )
    )
    await upkeep(bench)
    assert bench.sql("SELECT key, below FROM tombstone WHERE key = ?", b"d/") == [(b"d/", 1)]


async def test_removal_is_done_in_slices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit removes more than a slice, however much has to go."""
    keys = [f"{n % 2}/{n}" for n in range(3_000)]
    await bench.change(*(content(key) for key in keys))
    await bench.change(*(deleted(key) for key in keys if key.startswith("0/")), subtree("1/", gone=True), wait=0)
    for number in range(2):
        await bench.finish(await bench.send(folder(f"{number}/")))
    assert {"object": 1_500, "tombstone": 1_501, "pending_delete": 1}.items() <= rows(bench).items()
    connection = bench.database.connect()
    connection.execute("BEGIN")
    for key in keys:
        add_attempt(connection, key, finished_at=0.0, active=0)
    connection.execute("COMMIT")
    written: list[int] = []
    write = bench.store._write

    async def counting(operation: Callable[..., object], *args: object, **kw: object) -> object:
        def counted(connection: Any) -> object:
            before = connection.total_changes
            result = operation(connection, *args, **kw)
            written.append(connection.total_changes - before)
            return result

        return await write(counted)

    monkeypatch.setattr(bench.store, "_write", counting)
    bench.clock.advance(KEEP + 2 * DAY)
    await upkeep(bench)
    left = rows(bench)
    assert not {"attempt", "tombstone", "object", "pending_delete"} & set(left)
    assert sum(written) > 2 * len(keys)
    assert max(written) <= REMOVE_ROWS + 2  # with the count of the directory, and where the next slice begins


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
        await bench.store.unconfirm([attempt.id], next_look_at=None, error="late")
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
