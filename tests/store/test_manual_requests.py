"""Manual requests, prefetches, retries and discards; what is reported of needs, attempts and sources (promise 5)."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from listener.allowances import DAY_SECONDS
from listener.contracts import SourceHealth, SourceState, Unreadable
from listener.refresh import AttemptState, NeedState, RefreshKind, Scope
from listener.store import NeedInput, letters
from listener.store.controls import Progress, request
from listener.store.names import Names
from listener.store.needs import Snapshot
from listener.store.sqlite.database import prepare
from listener.store.sqlite.maintenance import check
from listener.store.store import SLICE_ROWS
from listener.store.transitions import SWEEP_DIRECTORIES, AttemptRequest, SweepPosition, sweep
from tests.store.steps import BASE, QUOTA, Bench, content, file, folder, subtree


async def test_an_ask_is_due_at_once(bench: Bench) -> None:
    """A person's wish is ready without quiet time, and found as urgent with its reason."""
    await bench.change(content("x"), wait=0)
    await bench.store.request([NeedInput("cdn", BASE + key) for key in ("x", "y")], urgent=True, reason="legal")
    await bench.store.request([NeedInput("cdn", BASE + "z")])
    rows = await bench.store.read(lambda s: s.manual_rows(10))
    reported = [(row.url[len(BASE) :], row.reason, row.urgent) for row in rows]
    assert sorted(reported) == [("x", "legal", True), ("y", "legal", True), ("z", None, False)]
    assert await bench.ready() == {"": 3}
    assert await bench.store.request([]) == 0
    many = [NeedInput("cdn", f"{BASE}d/{n}") for n in range(SLICE_ROWS + 1)]
    assert await bench.store.request(many) == await bench.store.sequence()
    assert (await bench.ready())["d/"] == SLICE_ROWS + 1


async def test_an_ask_below_a_directory_under_way_is_seen(bench: Bench) -> None:
    """A URL that was ready and covered is needed again once a person requests it, while the directory flies."""
    await bench.change(content("a/x"), content("a/y"))
    flying = await bench.send(folder("a/"))
    assert await bench.ready() == {}
    await bench.store.request([NeedInput("cdn", BASE + "a/x")])
    assert await bench.ready() == {"a/": 1}
    bench.assert_counted()
    counts = await bench.store.counts()
    assert (counts.pending, counts.in_flight) == (1, 1)
    (load,) = await bench.store.read(Snapshot.loads)
    rows = await bench.store.read(lambda s: s.due_rows(load, Scope.EXACT, 10))
    assert [row.url for row in rows] == [BASE + "a/x"]
    await bench.finish(flying)
    assert await bench.stale("a/x") == ["ready"]


async def test_a_prefetch_below_a_directory_is_no_part_of_it(bench: Bench) -> None:
    """A directory refresh covers no prefetch: it stays pending, and does not age the store."""
    await bench.store.request([NeedInput("cdn", BASE + "a/x", Scope.PREFETCH)])
    assert (await bench.store.counts()).oldest_stale_since is None
    await bench.change(content("a/y"))
    flying = await bench.send(folder("a/"))
    counts = await bench.store.counts()
    assert (counts.pending, counts.in_flight) == (1, 1)
    (load,) = await bench.store.read(Snapshot.loads)
    assert (load.exact, load.prefetch) == (0, 1)
    assert [row.url for row in await bench.store.read(lambda s: s.due_rows(load, Scope.PREFETCH, 5))] == [BASE + "a/x"]
    await bench.finish(flying)
    assert await bench.ready() == {"a/": 1}


async def test_what_is_set_aside_stays_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are kept, bodies of fewer: a misrouted queue cannot fill the disk."""
    monkeypatch.setattr(letters, "MAX_LETTERS", 7)
    monkeypatch.setattr(letters, "MAX_BODIES", 3)
    await bench.store.add_dead_letters("q", [Unreadable(b"m-%d" % n, b"body", "no JSON") for n in range(1_200)])
    await bench.store.upkeep(keep_seconds=3600.0)
    assert [one.subject for one in await bench.store.dead_letters()] == [f"m-{n}" for n in range(1_199, 1_192, -1)]
    kept = bench.sql("SELECT subject FROM dead_letter WHERE body IS NOT NULL ORDER BY id")
    assert kept == [(b"m-1197",), (b"m-1198",), (b"m-1199",)]


async def test_what_was_set_aside_can_be_retried_or_discarded(bench: Bench) -> None:
    """Parked URLs, one or all; keys and messages can only be discarded."""
    await bench.change(content("a"), content("b"), content("c"))
    for one in await bench.hold(file("a"), file("b"), file("c")):
        await bench.store.park([one.id], error="Malformed")
    await bench.store.add_dead_letters("q", [Unreadable(b"m-1", b"x" * 300_000, "no JSON")])
    await bench.store.add_dead_letters("q", [Unreadable(b"m-1", b"y", "still none")])
    found = await bench.store.dead_letters()
    assert [(one.kind, one.reason) for one in found] == [("url", "Malformed")] * 3 + [("message", "still none")]
    assert [one.kind for one in await bench.store.dead_letters(limit=1)] == ["url"]
    counts = await bench.store.counts()
    assert (counts.parked, counts.dead_letters, counts.pending) == (3, 4, 0)
    assert await bench.store.retry(BASE + "a") == 1
    assert await bench.store.discard(BASE + "b") == 1
    assert await bench.store.discard("m-1") == 1
    assert [await bench.stale(key) for key in "abc"] == [["ready"], [], ["parked"]]
    assert await bench.store.retry() == 1
    assert await bench.store.discard() == 0
    assert await bench.ready() == {"": 2}


async def test_an_ask_unparks(bench: Bench) -> None:
    """Asked for manually a parked URL is tried again, without the old complaint."""
    await bench.change(content("a"))
    (one,) = await bench.hold(file("a"))
    await bench.store.park([one.id], error="Malformed")
    await bench.store.request([NeedInput("cdn", BASE + "a")])
    (need,) = await bench.store.explain(BASE + "a")
    assert (need["state"], need["reason"]) == ("deferred", "")


async def test_a_refused_directory_is_parked(bench: Bench) -> None:
    """The subtree need that it was for is set aside; the files below are left to the plan."""
    await bench.change(subtree("a/"), content("a/x"))
    (one,) = await bench.hold(folder("a/"))
    await bench.store.park([one.id], error="InvalidObjectPath")
    assert (await bench.stale("a/"), await bench.stale("a/x")) == (["parked"], ["ready"])
    assert await bench.budget(RefreshKind.DIRECTORY) == (10, 0, 0)


async def test_the_history_shows_what_was_sent_and_why(bench: Bench) -> None:
    """Attempts are kept after their end, newest first, with latency, for as long as is asked."""
    since = bench.clock.now()
    await bench.change(content("a"), content("b"))
    made = await bench.send(file("a", urgent=True)._replace(stale_since=since))
    await bench.finish(made)
    await bench.send(file("b"))
    first, second = await bench.store.history()
    assert (first["url"], second["url"]) == (BASE + "b", BASE + "a")
    assert (second["latency_seconds"], second["state"], second["reason"]) == (60.0, "complete", "test")
    assert [one["url"] for one in await bench.store.history(url=BASE + "a")] == [BASE + "a"]
    bench.clock.advance(DAY_SECONDS)
    await bench.store.upkeep(keep_seconds=50)
    assert [one["url"] for one in await bench.store.history()] == [BASE + "b"]


async def test_sources_and_progress_are_kept(bench: Bench) -> None:
    """What a source said of itself and how far a backfill got are there for a command without a daemon."""
    health = SourceHealth(SourceState.LISTENING, True, 5.0, 1, 2, "all well", {"watches": 3.0})
    await bench.store.save_source("www", health)
    found = (await bench.store.sources())["www"]
    assert (found["state"], found["ready"], found["figures"]) == ("listening", True, {"watches": 3.0})
    assert await bench.store.progress("x") is None
    await bench.store.save_progress("x", Progress("k\udcff", 7, True))
    assert await bench.store.progress("x") == Progress("k\udcff", 7, True)
    bench.clock.advance(DAY_SECONDS)
    await bench.store.upkeep(keep_seconds=50)
    assert await bench.store.progress("x") is None


async def test_looks_are_counted_and_put_off(bench: Bench) -> None:
    """A look counts and names the next; putting one off does not count; only what is due is returned."""
    await bench.change(content("a"), content("b"))
    one, two = await bench.send(file("a"), file("b"))
    now = bench.clock.now()
    await bench.store.look_again([(one.id, now + 5)])
    await bench.store.postpone([(two.id, now + 500)])
    found = await bench.store.attempts_in(AttemptState.ACCEPTED, due_by=now + 10)
    assert [(attempt.id, attempt.looks) for attempt in found] == [(one.id, 1)]
    assert len(await bench.store.attempts_in(AttemptState.ACCEPTED, due_by=float("inf"))) == 2


async def test_a_sweep_goes_in_slices(bench: Bench) -> None:
    """Each slice looks at no more than it may, also past needs that stay; to begin again does no harm."""
    count = 25
    await bench.change(*(content(f"a/{n:03}") for n in range(count)), *(content(f"a/{n}/x") for n in range(5)))
    made = await bench.send(folder("a/"))
    await bench.change(*(content(f"a/{n:03}", 2) for n in range(0, count, 2)))
    await bench.store.complete(made)
    after: SweepPosition | None = SweepPosition()
    left, slices = 30, 0
    while after is not None:
        if slices == 4:
            after = SweepPosition()
        after = await bench.store._write(sweep, made[0], after, 4)
        slices += 1
        now = bench.sql("SELECT count(*) FROM need")[0][0]
        assert left - now <= 4
        left = now
    assert left == 13
    assert await bench.store.attempts_in(AttemptState.COMPLETE) == []
    bench.assert_counted()


async def test_a_sweep_of_many_directories(bench: Bench) -> None:
    """Empty-handed slices go on to the next directories until all are done."""
    keys = [f"a/{n:04}/x" for n in range(SWEEP_DIRECTORIES + 3)]
    await bench.change(*(content(key) for key in keys))
    await bench.finish(await bench.send(folder("a/")))
    assert (await bench.store.counts()).pending == 0
    await bench.store.upkeep(keep_seconds=1e9)
    assert bench.sql("SELECT count(*) FROM directory") == [(0,)]


async def test_an_unconfirmed_directory_is_let_go_when_another_covers_all(bench: Bench) -> None:
    """A later complete directory at or above it leaves the unconfirmed one nothing to cover."""
    await bench.change(content("a/b/1"))
    (lost,) = await bench.send(folder("a/b/"))
    await bench.store.unconfirm([lost.id], next_look_at=None, error="an hour")
    assert (await bench.store.counts()).unconfirmed == 1
    await bench.change(content("a/c"))
    await bench.finish(await bench.send(folder("a/", force=False)))
    assert len(await bench.store.attempts_in(AttemptState.UNCONFIRMED)) == 1
    await bench.change(content("a/b/1", 2))
    await bench.finish(await bench.send(folder("a/")))
    assert await bench.store.attempts_in(AttemptState.UNCONFIRMED) == []
    assert (await bench.store.counts()).unconfirmed == 0


async def test_an_unconfirmed_file_whose_need_changed_is_let_go(bench: Bench) -> None:
    """Upkeep ends attempts that cover nothing any more, and they become history like others."""
    await bench.change(content("a"))
    (lost,) = await bench.send(file("a"))
    await bench.store.unconfirm([lost.id], next_look_at=None, error="an hour")
    await bench.change(content("a", 2))
    await bench.store.upkeep(keep_seconds=1e9)
    assert await bench.store.attempts_in(AttemptState.UNCONFIRMED) == []
    bench.clock.advance(DAY_SECONDS)
    await bench.store.upkeep(keep_seconds=50)
    assert await bench.store.history() == []


async def test_the_oldest_change_is_reported(bench: Bench) -> None:
    """The age of the store is that of its oldest need, in whatever state it stands."""
    began = bench.clock.now()
    for key in ("ready", "attempted", "parked", "unconfirmed"):
        await bench.change(content(key))
    await bench.change(content("waiting"), wait=0)
    attempted, parked, unconfirmed = await bench.send(file("attempted"), file("parked"), file("unconfirmed"))
    await bench.store.unconfirm([unconfirmed.id], next_look_at=None, error="")
    await bench.store.park([parked.id], error="")
    assert (await bench.store.counts()).oldest_stale_since == began
    await bench.finish(await bench.send(file("ready")))
    assert (await bench.store.counts()).oldest_stale_since == began + 60
    await bench.finish([attempted])
    assert (await bench.store.counts()).oldest_stale_since == began + 120
    await bench.store.discard()
    assert (await bench.store.counts()).oldest_stale_since == began + 180
    await bench.finish([unconfirmed])
    assert (await bench.store.counts()).oldest_stale_since == began + 240


async def test_unknown_urls_settle_nothing(bench: Bench) -> None:
    """An attempt whose directory nobody knows any more ends without harm."""
    await bench.change(content("a/x"))
    made = await bench.send(file("a/x"))
    await bench.store._write(lambda c: c.execute("DELETE FROM need").rowcount)
    await bench.store.upkeep(keep_seconds=1e9)
    await bench.finish(made)
    assert await bench.store.explain(BASE + "a/x") == []
    assert QUOTA[RefreshKind.FILE] == 100


async def test_hot_queries_use_their_index(sqlite_bench: Bench) -> None:
    """No query that runs with every step reads a table of needs or attempts from end to end."""
    bench = sqlite_bench
    await bench.change(*(content(f"a/{n}") for n in range(50)))
    statements: list[str] = []

    def traced(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(statements.append)

    await bench.store._write(traced)
    await bench.store._read(traced)
    await bench.store._read(traced)
    await bench.change(content("a/1", 2), content("b"), subtree("c/", gone=True))
    prefetch = AttemptRequest("cdn", RefreshKind.PREFETCH, BASE + "a/2", False, "test", 0.0)
    made = await bench.send(folder("a/"), file("b", min_interval_seconds=5.0), prefetch)
    await bench.change(content("a/1", 3))
    await bench.store.request([NeedInput("cdn", BASE + "a/7", scope) for scope in (Scope.EXACT, Scope.PREFETCH)])
    for load in await bench.store.read(Snapshot.loads):
        for scope in Scope:
            await bench.store.read(lambda s, load=load, scope=scope: s.due_rows(load, scope, 10))
    await bench.store.read(lambda s: s.manual_rows(10))
    await bench.store.next_due()
    await bench.store.counts()
    await bench.store.explain(BASE + "a/1")
    await bench.store.unconfirm([made[1].id], next_look_at=None, error="")
    await bench.finish(made)
    await bench.store.recover()
    await bench.store.upkeep(keep_seconds=1e9)
    await bench.store._write(lambda c: c.set_trace_callback(None))
    wrong = set()
    with closing(sqlite3.connect(bench.store.path)) as connection:
        for statement in {one for one in statements if one.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))}:
            for *_, step in connection.execute("EXPLAIN QUERY PLAN " + statement):
                if step.startswith(("SCAN need", "SCAN attempt", "SCAN object", "SCAN d ", "SCAN tree")):
                    if os.environ.get("SHOW_PLANS"):
                        print(step, "|", " ".join(statement.split())[:150])
                    if "USING" not in step:
                        wrong.add((step, " ".join(statement.split())))
    assert len(statements) > 100
    assert wrong == set()


@pytest.mark.parametrize("seed", range(20))
def test_due_needs_are_counted_however_they_became_due(tmp_path: Path, seed: int) -> None:
    """What a request makes due was there in any state, or not, and may be named twice."""
    chance = random.Random(seed)
    states, keys = chance.choice([([*NeedState], 16), ([NeedState.WAITING], 12)])
    with closing(prepare(tmp_path / "state.db")) as file:
        file.execute("PRAGMA synchronous = OFF")
        names = Names()
        directory = names.directory(file, names.target(file, "cdn"), BASE)
        file.execute("UPDATE meta SET sequence = 8")
        rows = [
            (directory, f"{name}", chance.randint(1, 8), state, 9.0 if state is NeedState.WAITING else None, is_open)
            for name in range(12)
            for state in [chance.choice(states)]
            for is_open in [chance.choice([0, 0, 2]) if state is NeedState.WAITING else 0]
        ]
        file.executemany(
            "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, due_at, open)"
            " VALUES (?, ?, 0, ?, 1, 1, ?, ?, ?)",
            rows,
        )
        inputs = [NeedInput("cdn", f"{BASE}{chance.randrange(keys)}") for _ in range(10)]
        request(file, names, inputs, now=5.0)
    assert check(tmp_path / "state.db") == []
