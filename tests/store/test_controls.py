"""What people tell a daemon through the state file: orders that stand, cancelling, and whether all is fresh."""

from __future__ import annotations

import pytest

from listener.refresh import RefreshKind, Scope
from listener.store import NeedInput
from listener.store.controls import ControlKind, Controls, Place
from listener.store.staleness import Unsettled
from listener.store.transitions import AttemptRequest
from tests.store.steps import BASE, Bench, content, file, folder, subtree


@pytest.fixture
def controls(bench: Bench) -> Controls:
    """The orders of the bench's store."""
    return Controls(bench.store)


async def test_an_order_stands_until_its_time_is_over_or_it_is_taken_back(bench: Bench, controls: Controls) -> None:
    """One of the same kind and place is replaced; each deed is in the audit."""
    shop, every = Place("", BASE + "shop/"), Place("cdn")
    await controls.put(ControlKind.HOLD, [shop], seconds=60, reason="deploy 7")
    await controls.put(ControlKind.PAUSE, [every], seconds=None)
    await controls.put(ControlKind.HOLD, [shop], seconds=600, reason="deploy 8")
    standing = await controls.active()
    assert [(one.kind, one.place, one.reason) for one in standing] == [
        (ControlKind.HOLD, shop, "deploy 8"),
        (ControlKind.PAUSE, every, ""),
    ]
    bench.clock.advance(600)
    assert [one.kind for one in await controls.active()] == [ControlKind.PAUSE]
    assert await controls.remove(ControlKind.PAUSE, [every, shop], reason="over") == 1
    assert await controls.active() == []
    reported = [(row["action"], row["subject"], row["reason"]) for row in await controls.audit()]
    assert reported == [
        ("end of pause", "cdn", "over"),
        ("hold", BASE + "shop/", "deploy 8"),
        ("pause", "cdn", ""),
        ("hold", BASE + "shop/", "deploy 7"),
    ]
    assert len(await controls.audit(limit=2)) == 2


async def test_a_clock_set_back_makes_no_hold_longer(bench: Bench, controls: Controls) -> None:
    """It ends when it was meant to."""
    await controls.put(ControlKind.HOLD, [Place()], seconds=600)
    bench.clock.advance(300 - 7200)
    await bench.store.set_back(7200)
    assert await controls.active() != []
    bench.clock.advance(300)
    assert await controls.active() == []


def test_a_place_holds_what_is_below_it() -> None:
    """By target and by prefix, both optional."""
    assert Place().holds("cdn", BASE)
    assert Place("cdn", BASE + "a/").holds("cdn", BASE + "a/b")
    assert not Place("cdn", BASE + "a/").holds("other", BASE + "a/b")
    assert not Place("", BASE + "a/").holds("cdn", BASE + "ab")


async def test_what_is_cancelled_is_settled_without_a_refresh(bench: Bench, controls: Controls) -> None:
    """Waiting, ready and rejected needs below the prefix go, those in flight stay; the audit says why."""
    await bench.change(content("a/x"), content("a/y"), content("ab"), content("b/z"))
    parked, flying = await bench.hold(file("a/x"), file("a/y"))
    await bench.store.park([parked.id], error="Malformed")
    await bench.store.mark_sending([flying.id])
    await bench.store.accept({flying.id: "t"}, next_look_at=0.0)
    await bench.change(content("a/deep/new"), wait=0)
    assert await controls.cancel(Place("other", BASE), reason="wrong target") == 0
    assert await controls.cancel(Place("cdn", BASE + "a/"), reason="rolled back") == 2
    assert await bench.stale("a/y") == ["attempted"]
    assert [await bench.stale(key) for key in ("a/x", "a/deep/new", "ab", "b/z")] == [[], [], ["ready"], ["ready"]]
    assert [(row["action"], row["count"]) for row in await controls.audit()] == [("cancel", 2), ("cancel", 0)]
    await bench.finish([flying])
    assert await controls.cancel(Place(), reason="all") == 2
    bench.assert_counted()


@pytest.mark.parametrize("kind", [ControlKind.HOLD, ControlKind.PAUSE])
async def test_an_override_gives_back_what_is_reserved_below_it(
    bench: Bench, controls: Controls, kind: ControlKind
) -> None:
    """Reserved files and directories below it are due again, and a directory above it too; all others go."""
    await bench.change(content("a/x"), content("a/d/y"), content("b/z"), content("c/1/v"))
    made = await bench.hold(file("a/x"), file("b/z"), folder("a/d/"), folder("c/"), folder("b/"))
    places = [Place("cdn", BASE + "a/"), Place("", BASE + "c/1/"), Place("other", BASE + "b/")]
    await controls.put(kind, places, seconds=60)
    assert (await bench.budget(), await bench.budget(RefreshKind.DIRECTORY)) == ((100, 0, 1), (10, 0, 1))
    assert await bench.stale("a/x") == ["ready"]
    assert await bench.store.mark_sending([one.id for one in made]) == [made[1].id, made[4].id]
    assert await controls.under_way([Place()]) == 2  # a request holds one kind
    assert await controls.under_way(places) == 0


async def test_what_is_reserved_under_an_override_is_not_sent(bench: Bench, controls: Controls) -> None:
    """The plan was made before it was given: looked at again in the transaction that lets the request go."""
    await bench.change(content("a/x"), content("b/z"))
    await controls.put(ControlKind.PAUSE, [Place("cdn", BASE + "a/")], seconds=60)
    made = await bench.hold(file("a/x"), file("b/z"))
    assert await bench.store.mark_sending([one.id for one in made]) == [made[1].id]
    assert (await bench.stale("a/x"), await bench.budget()) == (["ready"], (100, 0, 1))
    await controls.put(ControlKind.PAUSE, [Place()], seconds=60)
    await bench.store.back_to_held([made[1].id])  # refused as a batch: its halves are requests of their own
    assert await bench.store.mark_sending([made[1].id]) == []
    bench.clock.advance(61)
    again = await bench.hold(file("a/x"), file("b/z"))
    assert len(await bench.store.mark_sending([one.id for one in again])) == 2


async def test_a_hold_lets_go_what_a_person_asked_for(bench: Bench, controls: Controls) -> None:
    """A file and a directory that were requested on the command line go out under a hold, and not under a pause."""
    await bench.store.request([NeedInput("cdn", BASE + "a"), NeedInput("cdn", BASE + "d/", Scope.SUBTREE)])
    await controls.put(ControlKind.HOLD, [Place()], seconds=60)
    made = await bench.hold(file("a"), folder("d/"))
    assert len(await bench.store.mark_sending([one.id for one in made])) == 2
    await bench.store.back_to_held([one.id for one in made])
    await controls.put(ControlKind.PAUSE, [Place()], seconds=60)
    assert await bench.store.mark_sending([one.id for one in made]) == []


async def test_what_is_reserved_is_cancelled_too(bench: Bench, controls: Controls) -> None:
    """Reserved: settled and refunded. On the wire: settled, and not sent again when the CDN refuses it."""
    await bench.change(content("a/x"), content("a/y"), content("b/z"), content("a/d/1"))
    made = await bench.hold(file("a/x"), file("a/y"), file("b/z"), folder("a/d/"))
    await bench.store.mark_sending([made[1].id])
    assert await controls.cancel(Place("", BASE + "a/"), reason="wrong") == 3
    assert await controls.under_way([Place("", BASE + "a/")]) == 1
    await bench.store.back_to_held([made[1].id])
    assert await bench.store.mark_sending([one.id for one in made]) == [made[2].id]
    assert [await bench.stale(key) for key in ("a/x", "a/y", "a/d/1", "b/z")] == [[], [], [], ["attempted"]]
    assert (await bench.budget(), await bench.budget(RefreshKind.DIRECTORY)) == ((100, 0, 1), (10, 0, 0))
    bench.assert_counted()


async def test_what_changes_while_it_is_reserved_is_sent_once_all_the_same(bench: Bench, controls: Controls) -> None:
    """A change or a request removes no reservation: a URL that changes faster than requests go would never be sent."""
    keys = ["a/x", "a/y?b=/c", "z"]
    await bench.change(*(content(key) for key in keys))
    await bench.store.request([NeedInput("cdn", BASE + "d/p?q", Scope.ALL_PARAMS)])
    params = AttemptRequest("cdn", RefreshKind.IGNORE_PARAMS, BASE + "d/p?q", True, "test", 0.0)
    made = await bench.hold(*(file(key) for key in keys), params)
    await bench.change(content("a/x", 2), content("a/y?b=/c", 2), wait=0)
    await bench.store.request([NeedInput("cdn", BASE + "z"), NeedInput("cdn", BASE + "d/p?q", Scope.ALL_PARAMS)])
    assert await bench.store.mark_sending([one.id for one in made]) == [one.id for one in made]
    await bench.finish(made)
    assert [await bench.stale(key) for key in [*keys, "d/p?q"]] == [["waiting"], ["waiting"], ["ready"], ["ready"]]


async def test_what_changes_while_it_is_reserved_can_be_cancelled(bench: Bench, controls: Controls) -> None:
    """A cancelled need takes its reservation along, also when a change has removed the mark between the two."""
    await bench.change(content("a/x"))
    (made,) = await bench.hold(file("a/x"))
    await bench.change(content("a/x", 2), wait=0)
    assert await controls.cancel(Place("", BASE + "a/"), reason="wrong") == 1
    assert await bench.store.mark_sending([made.id]) == []
    assert await bench.budget() == (100, 0, 0)


async def test_a_large_cancelling_goes_in_slices(bench: Bench, controls: Controls) -> None:
    """All of it goes, whatever the size of a slice."""
    await bench.change(*(content(f"{n % 7}/{n}") for n in range(1_300)))
    assert await controls.cancel(Place(), reason="all") == 1_300
    assert await bench.ready() == {}


async def test_what_is_unsettled_is_counted_by_state(bench: Bench) -> None:
    """By prefix, also one that ends within a name; what changed later and prefetches do not count."""
    await bench.change(content("a/x"), content("a/xy"), content("a/xd/1"), content("b"))
    before = bench.clock.now()
    await bench.store.request([NeedInput("cdn", BASE + "a/x", Scope.PREFETCH)])
    bench.clock.advance(1)
    await bench.change(content("a/later"), wait=0)

    async def left(place: Place) -> list[Unsettled]:
        return await bench.store.unsettled(place, changed_before=before)

    assert [(one.state, one.needs) for one in await left(Place("", BASE + "a/x"))] == [("deferred", 3)]
    assert [(one.state, one.needs) for one in await left(Place("", BASE + "a/"))] == [("deferred", 3)]
    assert await left(Place("", BASE + "b")) == [Unsettled("deferred", 1, BASE + "b", "us")]
    assert await left(Place("other", BASE)) == []
    (one,) = await bench.send(file("b"))
    assert await left(Place("", BASE + "b")) == [Unsettled("in_flight", 1, BASE + "b", "cdn")]
    await bench.finish([one])
    assert await left(Place("", BASE + "b")) == []


async def test_a_complete_directory_settles_before_its_needs_are_removed(bench: Bench) -> None:
    """And a subtree need above the prefix makes everything below it stale."""
    await bench.change(content("a/x"), content("a/b/y"), subtree("a/"))
    before = bench.clock.now()
    assert [
        (one.state, one.needs) for one in await bench.store.unsettled(Place("", BASE + "a/b/"), changed_before=before)
    ] == [("deferred", 2)]
    (flying,) = await bench.send(folder("a/"))
    assert await bench.store.unsettled(Place("", BASE + "a/"), changed_before=before) != []
    await bench.store.complete([flying])
    assert await bench.store.unsettled(Place("", BASE + "a/"), changed_before=before) == []
