"""Which needs of an inner layer an outer one waits for, and up to which change it need not, on both databases."""

from __future__ import annotations

import pytest

from listener.refresh import Attempt, RefreshKind, Scope
from listener.store import NeedInput
from listener.store.batches import Batch
from listener.store.layering import MOST_EXEMPT, after_layers, how_far, may_be_exempt
from listener.store.needs import DueRow, Inner, Passed, Snapshot
from listener.store.transitions import AttemptRequest
from tests.store.steps import ALLOWANCES, BASE, Bench, content

URL = f"{BASE}d/a.html"
INNER = Inner(["inner"])


@pytest.mark.parametrize("files_only", [False, True])
@pytest.mark.parametrize("scope", list(Scope))
async def test_which_needs_of_an_inner_layer_are_waited_for(bench: Bench, scope: Scope, files_only: bool) -> None:
    """All but prefetches; of a layer that refreshes files only no others than files."""
    inner = Inner(files_only=["inner"]) if files_only else INNER
    url = f"{BASE}d/" if scope is Scope.SUBTREE else URL
    await bench.store.request([NeedInput("inner", url, scope)])
    await bench.store.request([NeedInput("outer", one, Scope.EXACT) for one in (url, f"{BASE}d/b.html")])
    waits = scope is Scope.EXACT or not (files_only or scope is Scope.PREFETCH)

    def check(snapshot: Snapshot) -> None:
        (load,) = snapshot.loads(targets=["outer"])
        left, behind = snapshot.run(after_layers, load, inner)
        assert (left.exact, behind) == ((1, 1) if waits else (2, 0))
        assert len(snapshot.due_rows(left, Scope.EXACT, 10)) == left.exact
        held_up = Passed() if waits else None
        assert snapshot.run(how_far, inner, "outer", url, Scope.EXACT) == held_up
        assert snapshot.run(how_far, inner, "outer", BASE, Scope.SUBTREE) == held_up
        assert snapshot.run(how_far, inner, "outer", f"{BASE}d/b.html", Scope.EXACT) is None

    await bench.store.read(check)


async def change(bench: Bench, *keys: str) -> int:
    """Change these keys for both layers, and let the quiet time pass."""
    (recorded,) = await bench.store.record(
        [Batch([content(key, mtime=int(bench.clock.time)) for key in keys], None, False)],
        lambda one: [NeedInput(name, BASE + one.key, Scope.EXACT) for name in ("inner", "outer")],
    )
    bench.clock.advance(60.0)
    await bench.store.promote_due()
    return recorded.sequence


async def send(
    bench: Bench, target: str, url: str, kind: RefreshKind = RefreshKind.FILE, **fields: object
) -> list[Attempt]:
    """Send a request for this URL, and have it accepted."""
    one = AttemptRequest(target, kind, url, True, "test", 0.0, **fields)  # type: ignore[arg-type]
    made = await bench.store.hold([one], account=target, allowances=ALLOWANCES)
    await bench.store.mark_sending([attempt.id for attempt in made])
    await bench.store.accept({attempt.id: "" for attempt in made}, next_look_at=0.0)
    return made


async def outer_rows(bench: Bench, inner: Inner = INNER) -> list[DueRow]:
    """Return what the outer layer may refresh."""

    def rows(snapshot: Snapshot) -> list[DueRow]:
        return [
            row
            for load in snapshot.loads(targets=["outer"])
            for row in snapshot.due_rows(snapshot.run(after_layers, load, inner)[0], Scope.EXACT, 10)
        ]

    return await bench.store.read(rows)


@pytest.mark.parametrize("kind", [RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS])
async def test_a_url_that_changed_again_may_be_refreshed_up_to_what_was_dropped(
    bench: Bench, kind: RefreshKind
) -> None:
    """With the watermark of the inner attempt, once, and again after the next one; its need outlives that."""
    await change(bench, "d/a.html")
    url = {RefreshKind.DIRECTORY: f"{BASE}d/"}.get(kind, URL)
    if kind is RefreshKind.IGNORE_PARAMS:
        await bench.store.request([NeedInput("inner", URL, Scope.ALL_PARAMS)])
    first = await send(bench, "inner", url, kind)
    # Nothing marks a need for which no attempt of its own was made: it counts as stale since its first change.
    changed_again_at = bench.clock.time - (60.0 if kind is RefreshKind.IGNORE_PARAMS else 0.0)
    await change(bench, "d/a.html")
    assert await outer_rows(bench) == []
    await bench.finish(first)
    (row,) = await outer_rows(bench)
    assert row.passed == Passed(first[0].watermark, changed_again_at)
    assert await bench.store.read(lambda s: s.run(how_far, INNER, "outer", URL, Scope.EXACT)) == row.passed

    sent = await send(bench, "outer", URL, watermark=row.passed.watermark, later_since=row.passed.later_since)
    assert sent[0].watermark == first[0].watermark
    assert await outer_rows(bench) == []
    await bench.finish(sent)
    assert await outer_rows(bench) == []
    (need,) = [one for one in await bench.store.explain(URL) if one["target"] == "outer"]
    assert need["state"] in ("ready", "deferred") and need["stale_since"] == changed_again_at

    second = await send(bench, "inner", URL)
    await bench.finish(second)
    (row,) = await outer_rows(bench)
    assert row.passed is None
    await bench.finish(await send(bench, "outer", URL))
    assert await bench.store.explain(URL) == []
    bench.assert_counted()


async def test_two_inner_layers_are_waited_for(bench: Bench) -> None:
    """The lower of the two watermarks counts; one that has dropped nothing holds it up."""
    inner = Inner(["inner"], ["innermost"])
    await bench.store.request([NeedInput(name, URL, Scope.EXACT) for name in ("inner", "innermost", "outer")])
    innermost = await send(bench, "innermost", URL)
    await change(bench, "e.html")
    middle = await send(bench, "inner", URL)
    assert innermost[0].watermark < middle[0].watermark
    await bench.store.request([NeedInput(name, URL, Scope.EXACT) for name in ("inner", "innermost", "outer")])
    await bench.finish(middle)
    assert [row.url for row in await outer_rows(bench, inner)] == []
    await bench.finish(innermost)
    (row,) = await outer_rows(bench, inner)
    assert row.passed is not None and row.passed.watermark == innermost[0].watermark


async def test_a_failed_refresh_of_the_outer_layer_is_repeated(bench: Bench) -> None:
    """It refreshed nothing."""
    await change(bench, "d/a.html")
    first = await send(bench, "inner", URL)
    await change(bench, "d/a.html")
    await bench.finish(first)
    failed = await send(bench, "outer", URL, watermark=first[0].watermark)
    await bench.store.fail([one.id for one in failed], retry_at=0.0, error="no")
    await bench.store.end_backoff([one.id for one in failed])
    (row,) = await outer_rows(bench)
    assert row.passed is not None and row.passed.watermark == first[0].watermark


async def test_what_has_to_be_evicted_is_not_dropped_by_a_validation(bench: Bench) -> None:
    """An inner attempt without force leaves the old copy where the validator did not change."""
    await change(bench, "d/a.html")
    made = await bench.store.hold(
        [AttemptRequest("inner", RefreshKind.DIRECTORY, f"{BASE}d/", False, "test", 0.0)],
        account="inner",
        allowances=ALLOWANCES,
    )
    await bench.store.mark_sending([one.id for one in made])
    await bench.store.request([NeedInput("inner", URL, Scope.EXACT), NeedInput("outer", URL, Scope.EXACT)])
    await bench.finish(made)
    (row,) = await outer_rows(bench)
    assert row.passed is not None and row.passed.watermark == made[0].watermark
    connection = bench.database.connect()
    for statement in ("BEGIN", "UPDATE need SET needs_force = 1", "COMMIT"):
        connection.execute(statement)
    assert await outer_rows(bench) == []


async def test_what_an_inner_directory_refresh_is_still_settling_is_waited_for(bench: Bench) -> None:
    """Its needs are removed soon; a refresh up to its watermark would be one more than necessary."""
    await change(bench, "d/a.html")
    first = await send(bench, "inner", f"{BASE}d/", RefreshKind.DIRECTORY)
    await bench.store.complete(first)
    assert await outer_rows(bench) == []
    await bench.finish(first)
    assert [row.passed for row in await outer_rows(bench)] == [None]


async def test_a_directory_is_refreshed_without_what_is_left_below_it(bench: Bench) -> None:
    """What inner layers have yet to drop is not covered by it; what they have dropped is."""
    await change(bench, "d/a.html", "d/b.html", "d/e/c.html")
    await bench.finish(await send(bench, "inner", f"{BASE}d/b.html"))

    def check(snapshot: Snapshot) -> bool:
        last = snapshot.last_sequence()
        assert snapshot.run(how_far, INNER, "outer", f"{BASE}d/", Scope.SUBTREE) == Passed()
        return snapshot.run(may_be_exempt, INNER, "outer", f"{BASE}d/", watermark=last)

    assert await bench.store.read(check)
    made = await send(bench, "outer", f"{BASE}d/", RefreshKind.DIRECTORY, exempt=INNER)
    bench.assert_counted()
    loads = await bench.store.read(lambda snapshot: snapshot.loads(targets=["outer"]))
    assert sorted((load.url, load.exact) for load in loads) == [(f"{BASE}d/", 1), (f"{BASE}d/e/", 1)]
    await bench.finish(made)
    rows = [await bench.store.explain(f"{BASE}d/{name}") for name in ("a.html", "b.html", "e/c.html")]
    assert [len([one for one in found if one["target"] == "outer"]) for found in rows] == [1, 0, 1]
    bench.assert_counted()


async def test_a_directory_waits_for_its_own_and_for_very_many(bench: Bench) -> None:
    """A directory that an inner layer has yet to drop as one is waited for; so are more than one transaction holds."""
    place = f"{BASE}d/"

    async def may() -> bool:
        return await bench.store.read(
            lambda s: s.run(may_be_exempt, INNER, "outer", place, watermark=s.last_sequence())
        )

    await change(bench, *(f"d/{number}.html" for number in range(MOST_EXEMPT)))
    assert await may()
    await change(bench, "d/one-more.html")
    assert not await may()
    await bench.finish(await send(bench, "inner", place, RefreshKind.DIRECTORY))
    await bench.store.request([NeedInput("inner", place, Scope.SUBTREE)])
    assert not await may()


@pytest.mark.parametrize("key", ["d/a~b.html", "d/a~b/c.html"])
async def test_what_begins_so_is_waited_for_wherever_it_lies(bench: Bench, key: str) -> None:
    """Under whichever name, and in whichever directory below; a directory that does not wait leaves it out."""
    by_beginning = Inner(["inner"], by_beginning=frozenset({"outer"}))
    await bench.store.request([NeedInput("inner", BASE + key, Scope.EXACT)])
    await bench.store.request([NeedInput("outer", f"{BASE}d/{name}", Scope.EXACT) for name in ("a*", "b*")])

    def check(snapshot: Snapshot) -> None:
        waits = [snapshot.run(how_far, by_beginning, "outer", f"{BASE}d/{name}", Scope.EXACT) for name in ("a*", "b*")]
        assert waits == [Passed(), None]
        assert snapshot.run(how_far, INNER, "outer", f"{BASE}d/a*", Scope.EXACT) is None

    await bench.store.read(check)
    (one,) = await send(bench, "outer", f"{BASE}d/", RefreshKind.DIRECTORY, exempt=by_beginning)
    left = bench.sql(
        "SELECT n.name FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target"
        f" WHERE t.name = 'outer' AND n.sequence > {one.watermark}"
    )
    assert left == [("a*",)]
