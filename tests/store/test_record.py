"""Promises 1 and 2, the store's half: what is recorded is in index and needs, and scans never undo what is newer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.change import Change, ChangeKind, Fingerprint
from listener.errors import KeyRejected
from listener.refresh import Scope
from listener.store import NeedInput, open_store
from listener.store.batches import Batch
from listener.store.index import objects_beginning
from listener.store.store import RECORD_ROWS, StoreOptions
from tests.store.steps import BASE, Bench, FakeClock, content, deleted, file, folder, route, subtree


async def test_a_change_is_in_index_and_needs(bench: Bench) -> None:
    """One commit holds both the object and the need of its URL."""
    sequence = await bench.change(content("a/x"), wait=0)
    assert bench.index() == {"a/x": sequence}
    assert await bench.stale("a/x") == ["waiting"]
    assert await bench.store.directory("www", "a/") == {"x": Fingerprint(1, 10**9, 10**9, 1)}
    bench.assert_counted()


async def test_only_what_is_due_becomes_ready(bench: Bench) -> None:
    """Its neighbours in the directory wait on, and so does another scope of its own URL."""

    def delayed(change: Change) -> list[NeedInput]:
        url, later = BASE + change.key, 1_000.0
        exact = NeedInput("cdn", url, Scope.EXACT, later if change.key == "d/later" else 0.0)
        return [exact, NeedInput("cdn", url, Scope.PREFETCH, later)]

    await bench.store.record([Batch([content("d/now"), content("d/later")])], delayed)
    bench.clock.advance(60)
    assert (await bench.store.promote_due()).total() == 1
    assert [await bench.stale(key) for key in ("d/now", "d/later")] == [["ready", "waiting"], ["waiting", "waiting"]]
    bench.assert_counted()


async def test_new_and_known_objects_mix(bench: Bench) -> None:
    """Whatever part of a batch is new, each directory's count equals its rows, and each row is the latest."""
    for keys in (["a/1", "b/1"], ["a/1", "a/2"], ["a/1", "a/2"], ["a/2", "a/1", "c/1", "b/1", "b/2"]):
        last = await bench.change(*(content(key) for key in keys), wait=0)
        bench.assert_counted()
        assert {bench.index()[key] for key in keys} == {last}
    assert len(bench.index()) == 5


async def test_a_key_twice_in_a_batch_ends_as_its_last_change(bench: Bench) -> None:
    """Written, removed and written again in one batch, a key stands once, as it was last."""
    await bench.change(content("a", 1), deleted("a"), content("a", 2), content("b"), deleted("b"), wait=0)
    assert set(bench.index()) == {"a"}
    assert (await bench.store.directory("www", ""))["a"].mtime_ns == 2 * 10**9
    bench.assert_counted()
    assert await bench.stale("b") == ["waiting"]


async def test_a_deletion_leaves_index_and_makes_a_need(bench: Bench) -> None:
    """A cache must learn the 404; a deletion of what was never known counts nothing twice."""
    await bench.change(content("a/x"), wait=0)
    await bench.change(deleted("a/x"), deleted("a/y"))
    assert bench.index() == {}
    assert await bench.ready() == {"a/": 2}
    bench.assert_counted()


async def test_new_headers_make_a_need(bench: Bench) -> None:
    """A metadata change refreshes like content."""
    await bench.change(Change("www", "x", ChangeKind.METADATA))
    assert await bench.ready() == {"": 1}
    assert set(bench.index()) == {"x"}


async def test_a_deletion_cancels_a_prefetch(bench: Bench) -> None:
    """What is gone is not fetched into the cache; a prefetch of another URL stays."""
    wanted = [NeedInput("cdn", BASE + key, Scope.PREFETCH) for key in ("a/x", "a/y")]
    await bench.store.request(wanted)
    await bench.change(deleted("a/x"), wait=0)
    assert await bench.stale("a/x") == ["waiting"]
    assert [need["scope"] for need in await bench.store.explain(BASE + "a/y")] == ["prefetch"]


async def test_a_subtree_is_one_need(bench: Bench) -> None:
    """A folder of which nobody knows what changed is one subtree need, also when its key lacks the slash or is all."""
    await bench.change(content("a/x"), subtree("a/"), Change("www", "b", ChangeKind.SUBTREE), subtree(""))
    found = {(need["url"], need["scope"]) for key in ("a/", "b/") for need in await bench.store.explain(BASE + key)}
    assert found == {(BASE + key, "subtree") for key in ("a/", "b/", "")}
    assert set(bench.index()) == {"a/x"}


async def test_a_deleted_subtree_becomes_exact_needs(bench: Bench) -> None:
    """Promise 7: a small known subtree is expanded through the index, next to what has a similar name."""
    await bench.change(*(content(key) for key in ("a/1", "a/b/2", "ab/3", "a0")), wait=0, seed=True)
    await bench.change(subtree("a/", gone=True))
    assert await bench.ready() == {"a/": 1, "a/b/": 1}
    assert set(bench.index()) == {"ab/3", "a0"}
    bench.assert_counted()


async def test_a_large_deleted_subtree_is_doomed(tmp_path: object, clock: FakeClock) -> None:
    """One over the limit is one subtree need; its index rows go in slices, and what is put there later stays."""
    async with open_store(
        f"sqlite:///{tmp_path}/s.db", clock=clock, owner=True, options=StoreOptions(expand_limit=2)
    ) as store:
        bench = Bench(store, clock)
        keys = ("a/1", "a/b/2", "a/b/3")
        await bench.change(*(content(key) for key in keys), content("z"), wait=0, seed=True)
        await bench.change(content("a/b/0"), subtree("a/", gone=True), content("a/b/3", 2))
        assert await bench.ready() == {"a/": 1, "a/b/": 2}
        assert await store.directory("www", "a/b/") == {"3": Fingerprint(1, 2 * 10**9, 2 * 10**9, 1)}
        assert await store.directories("www") == ["", "a/b/"]
        await store.upkeep(keep_seconds=1e9)
        assert set(bench.index()) == {"a/b/3", "z"}
        bench.assert_counted()
        assert bench.sql("SELECT * FROM pending_delete") == []


async def test_a_deleted_subtree_without_objects(bench: Bench) -> None:
    """Empty in a seeded index: nothing to refresh. Never seeded: nobody knows, so one subtree need."""
    await bench.change(subtree("a/", gone=True))
    assert await bench.ready() == {"a/": 1}
    await bench.store.mark_seeded("www")
    assert await bench.store.seeded("www")
    await bench.change(subtree("b/", gone=True))
    assert await bench.ready() == {"a/": 1}


async def test_a_seeding_makes_no_needs(bench: Bench) -> None:
    """The first listing fills the index and refreshes nothing, whatever it holds."""
    await bench.change(content("a/1"), content("2"), subtree("b/", gone=True), seed=True)
    assert await bench.ready() == {}
    assert (await bench.store.counts()).pending == 0
    assert set(bench.index()) == {"a/1", "2"}
    assert not await bench.store.seeded("www")


async def test_a_scan_does_not_undo_what_is_newer(bench: Bench) -> None:
    """A scan's finding applies only where the index is not newer than its start, for writes and for deletions."""
    await bench.change(content("kept"), content("removed"), content("rewritten"), content("odd"), wait=0, seed=True)
    began = await bench.store.sequence()
    await bench.change(deleted("removed"), content("rewritten", 2), content("born"), wait=0)
    (recorded,) = await bench.store.record(
        [Batch([content("removed"), deleted("rewritten"), deleted("born"), content("kept", 3), deleted("odd")], began)],
        route,
    )
    assert (recorded.outdated, recorded.needs) == (3, 2)
    assert set(bench.index()) == {"kept", "rewritten", "born"}
    assert (await bench.store.directory("www", ""))["rewritten"].mtime_ns == 2 * 10**9


async def test_a_scan_does_not_bring_back_a_doomed_subtree(tmp_path: object, clock: FakeClock) -> None:
    """What a scan found below a folder before that was deleted is outdated; a scan begun later is believed."""
    options = StoreOptions(expand_limit=1)
    async with open_store(f"sqlite:///{tmp_path}/s.db", clock=clock, owner=True, options=options) as store:
        bench = Bench(store, clock)
        await bench.change(*(content(f"a/b/{n}") for n in range(3)), wait=0, seed=True)
        began = await store.sequence()
        await bench.change(subtree("a/", gone=True), wait=0)
        await store.upkeep(keep_seconds=1e9)
        for scan, outdated in ((began, 1), (await store.sequence(), 0)):
            (recorded,) = await store.record([Batch([content("a/b/1", 5)], scan)], route)
            assert recorded.outdated == outdated
        assert set(bench.index()) == {"a/b/1"}


async def test_a_scan_that_missed_a_subtree_spares_what_is_newer(tmp_path: object, clock: FakeClock) -> None:
    """When a scan found a folder gone, only what was known when it began is forgotten."""
    options = StoreOptions(expand_limit=1)
    async with open_store(f"sqlite:///{tmp_path}/s.db", clock=clock, owner=True, options=options) as store:
        bench = Bench(store, clock)
        await bench.change(*(content(f"a/{n}") for n in range(3)), wait=0, seed=True)
        began = await store.sequence()
        await bench.change(content("a/new"), wait=0)
        await bench.change(subtree("a/", gone=True), wait=0, scan=began)
        await store.upkeep(keep_seconds=1e9)
        assert set(bench.index()) == {"a/new"}
        bench.assert_counted()


async def test_a_rejected_key_is_a_dead_letter(bench: Bench) -> None:
    """A key that can never be a URL is set aside with its reason, reported once, and sinks no other key."""

    def refuse(change: Change) -> Sequence[NeedInput]:
        if "bad" in change.key:
            raise KeyRejected(f"no URL: {change.key}")
        return route(change)

    for _ in range(2):
        (recorded,) = await bench.store.record([Batch([content("bad\udcff"), content("good")])], refuse)
        assert recorded.rejected == [("bad\udcff", "no URL: bad\udcff")]
    (letter,) = await bench.store.dead_letters()
    assert (letter.kind, letter.subject, letter.reason) == ("key", "bad\udcff", "no URL: bad\\udcff")
    counts = await bench.store.counts()
    assert (counts.parked, counts.dead_letters, counts.pending) == (1, 1, 1)
    assert set(bench.index()) == {"bad\udcff", "good"}


async def test_what_no_file_can_hold_sinks_nothing(bench: Bench) -> None:
    """Half a surrogate pair and numbers beyond 64 bits, as hostile messages have them, are set aside or left out."""
    wild = Change("www", "w", fingerprint=Fingerprint(10**30, 1, -(10**30), 2, "\ud800"))
    (recorded,) = await bench.store.record([Batch([content("a"), Change("www", "\ud800"), wild])], route)
    assert [key for key, _ in recorded.rejected] == ["\ud800"]
    found = await bench.store.directory("www", "")
    assert set(found) == {"a", "w"}
    assert found["w"] == Fingerprint(None, 1, None, 2, "\\ud800")
    assert (await bench.store.counts()).pending == 2


async def test_a_key_that_is_no_utf8_is_kept_byte_by_byte(bench: Bench) -> None:
    """The index holds the bytes that the storage holds."""
    await bench.store.record([Batch([content("d\udce9/\udcff.html")])], lambda change: [])
    assert set(await bench.store.directory("www", "d\udce9/")) == {"\udcff.html"}
    assert await bench.store.directories("www") == ["d\udce9/"]
    assert bench.sql("SELECT path, name FROM object JOIN tree ON tree.id = tree") == [(b"d\xe9/", b"\xff.html")]


@pytest.mark.parametrize(
    ("offset", "expected"), [(-10.0, -10.0), (10.0, 0.0), (-40 * 86400.0, 0.0), (float("nan"), 0.0), (None, 0.0)]
)
async def test_event_time_is_believed_within_reason(bench: Bench, offset: float | None, expected: float) -> None:
    """Staleness counts from the event; a time in the future, or a month back, is a wrong clock."""
    now = bench.clock.now()
    await bench.change(content("x", event_time=None if offset is None else now + offset), wait=0)
    (need,) = await bench.store.explain(BASE + "x")
    assert need["stale_since"] == now + expected
    assert (await bench.store.counts()).oldest_stale_since == now + expected


def late(seconds: float) -> object:
    """Return a route whose origin has changes so many seconds later."""
    return lambda change: [need._replace(delay_seconds=seconds) for need in route(change)]


async def test_what_is_not_at_the_origin_is_covered_by_nothing(bench: Bench) -> None:
    """With an origin delay a need is open until the origin surely has the change; no attempt before that ends it."""
    await bench.store.record([Batch([content("a/x")])], late(10.0))  # type: ignore[arg-type]
    await bench.finish(await bench.send(folder("a/")))
    bench.clock.advance(9)
    await bench.store.promote_due()
    assert await bench.stale("a/x") == ["waiting"]
    bench.clock.advance(2)
    await bench.store.promote_due()
    assert await bench.stale("a/x") == ["ready"]


async def test_the_cap_does_not_beat_the_origin(bench: Bench) -> None:
    """A hot file is not sent before the origin has its newest change, also when its cap is over: it would be lost."""
    for _ in range(35):
        await bench.store.record([Batch([content("x")])], late(10.0))  # type: ignore[arg-type]
        bench.clock.advance(1)
        await bench.store.promote_due()
        assert await bench.stale("x") == ["waiting"]
    assert await bench.store.next_due() == bench.clock.now() + 9


async def test_a_quicker_site_does_not_close_what_a_slow_one_keeps_open(bench: Bench) -> None:
    """A URL of two sites waits for the slower origin, also when the quick one's change comes last or a person asks."""
    await bench.store.record([Batch([content("x")])], late(10.0))  # type: ignore[arg-type]
    due = await bench.store.next_due()
    await bench.change(content("x"), wait=0)
    await bench.store.request([NeedInput("cdn", BASE + "x")], urgent=True, reason="now")
    assert await bench.store.next_due() == due
    (need,) = await bench.store.explain(BASE + "x")
    assert (need["state"], bool(need["open"]), need["urgent"]) == ("waiting", True, 1)


async def test_an_unfinished_write_is_due_later_and_closed_by_its_end(bench: Bench) -> None:
    """While it is written a file waits longer; its last event brings it back to the usual quiet time."""
    now = bench.clock.now()
    await bench.change(content("x", finished=False), wait=0)
    assert await bench.store.next_due() == now + 5
    await bench.change(content("x"), wait=0)
    assert await bench.store.next_due() == now + 1
    (need,) = await bench.store.explain(BASE + "x")
    assert not need["open"]


async def test_a_ready_need_that_is_written_again_waits_again(bench: Bench) -> None:
    """A due need whose object is being written again goes back to wait, and is as old as before."""
    await bench.change(content("x"))
    await bench.change(content("x", finished=False), wait=0)
    assert await bench.stale("x") == ["waiting"]
    await bench.change(content("y"))
    await bench.change(content("y"), wait=0)
    assert await bench.stale("y") == ["ready"]


async def test_a_parked_need_stays_parked(bench: Bench) -> None:
    """What the CDN refused waits for an operator, also when its object changes; retried, it can be settled."""
    await bench.change(content("x"))
    (attempt,) = await bench.hold(file("x"))
    await bench.store.park([attempt.id], error="InvalidObjectPath.Malformed")
    await bench.change(content("x", finished=False))
    assert await bench.stale("x") == ["parked"]
    assert await bench.store.retry(BASE + "x") == 1
    await bench.finish(await bench.send(file("x")))
    assert await bench.stale("x") == []


async def test_a_large_batch_is_one_record(bench: Bench) -> None:
    """A batch beyond a slice is written whole, in order, and reported as one."""
    many = RECORD_ROWS * 2 + 7
    changes = [content(f"d/{n}") for n in range(many)] + [subtree("e/", gone=True)] * 5 + [content("d/0", 9)]
    (recorded, other) = await bench.store.record([Batch(changes), Batch([])], route)
    assert recorded.needs == many + 6
    assert (await bench.store.directory("www", "d/"))["0"].mtime_ns == 9 * 10**9
    assert other.sequence > recorded.sequence
    assert await bench.store.read(lambda s: s.weight_below("www", "d/")) == many
    assert await bench.store.read(lambda s: s.weight_below("www", "")) == many


@pytest.mark.parametrize(
    ("beginning", "objects"),
    [("d/a", 4), ("d/", 6), ("d/a/", 2), ("d/ab", 1), ("d/é", 1), ("d/z", 0), ("", 7), ("e", 1)],
)
async def test_objects_that_begin_so_are_counted(bench: Bench, beginning: str, objects: int) -> None:
    """By name, and in folders whose names begin so; of one storage."""
    keys = ["d/a", "d/ab", "d/a/1", "d/a/2", "d/é", "d/b", "e1"]
    await bench.store.record([Batch([content(key) for key in keys])], route)
    assert await bench.store.read(lambda s: s.run(objects_beginning, "www", beginning)) == objects
    assert await bench.store.read(lambda s: s.run(objects_beginning, "other", beginning)) == 0


KEYS = st.sampled_from(["a", "b/1", "b/2", "b/c/1", "b/c/2", "d/1"])
STEPS = st.one_of(
    KEYS.map(content),
    KEYS.map(deleted),
    st.sampled_from(["", "b/", "b/c/", "d/"]).flatmap(lambda p: st.booleans().map(lambda g: subtree(p, gone=g))),
)


@example([([content("a"), subtree("", gone=True)], False)], 0)
@given(st.lists(st.tuples(st.lists(STEPS, max_size=6), st.booleans()), max_size=6), st.sampled_from([0, 2, 100]))
async def test_the_index_equals_a_dict(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[list[Change], bool]], limit: int
) -> None:
    """After any batches and upkeep the index holds what a plain dictionary would, counted right after every step."""
    path = tmp_path_factory.mktemp("s") / "s.db"
    known: set[str] = set()
    async with open_store(f"sqlite:///{path}", owner=True, options=StoreOptions(expand_limit=limit)) as store:
        bench = Bench(store, FakeClock())
        for changes, tidy in batches:
            await store.record([Batch(changes)], route)
            bench.assert_counted()
            for change in changes:
                if change.kind is ChangeKind.CONTENT:
                    known.add(change.key)
                elif change.kind is ChangeKind.DELETED:
                    known.discard(change.key)
                elif change.kind is ChangeKind.SUBTREE_DELETED:
                    known = {key for key in known if not key.startswith(change.key)}
            if tidy:
                await store.upkeep(keep_seconds=1e9)
                bench.assert_counted()
                assert set(bench.index()) == known
            visible = {d + name for d in await store.directories("www") for name in await store.directory("www", d)}
            assert visible == known


async def test_a_change_below_a_directory_under_way_starts_a_new_window(bench: Bench) -> None:
    """What the directory covers and is changed meanwhile waits its quiet time again, and is stale only since then."""
    await bench.change(content("a/ready"))
    await bench.change(content("a/waiting"), wait=0)
    made = await bench.send(folder("a/"))
    bench.clock.advance(0.5)
    during = bench.clock.now()
    await bench.change(content("a/ready", 2), content("a/waiting", 2), wait=0)
    await bench.finish(made)
    for key in ("a/ready", "a/waiting"):
        (need,) = await bench.store.explain(BASE + key)
        assert (need["state"], need["due_at"], need["stale_since"]) == ("waiting", during + 1, during)


async def test_a_first_change_below_a_directory_under_way_keeps_its_age(bench: Bench) -> None:
    """What the directory did not cover is as old after its end as its event was."""
    made = await bench.send(folder("a/"))
    since = bench.clock.now() - 500
    await bench.change(content("a/x", event_time=since), wait=0)
    await bench.change(content("a/x", 2), wait=0)
    await bench.finish(made)
    (need,) = await bench.store.explain(BASE + "a/x")
    assert need["stale_since"] == since


async def test_objects_of_a_folder_are_counted_by_their_names(bench: Bench) -> None:
    """A URL names its object also where it has escapes or a query; two URLs of one object count once."""
    await bench.change(
        content("d/a"), content("d/é x"), content("d/%41"), content("d/b"), content("d/c"), wait=0, seed=True
    )
    urls = ["d/a", "d/a?w=1", "d/b?w=1", "d/%C3%A9%20x", "d/%2541", "d/gone"]
    await bench.store.request([NeedInput("cdn", BASE + url) for url in urls])
    await bench.store.promote_due()
    (load,) = await bench.store.read(lambda snapshot: snapshot.loads())
    assert await bench.store.read(lambda snapshot: snapshot.objects_named("www", "d/", load.directory)) == 4
