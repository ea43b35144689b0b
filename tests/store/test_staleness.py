"""What is stale, since when and why: every state has a reason, from one function, in bounded queries."""

from __future__ import annotations

from collections import Counter

import pytest

from listener.contracts import SourceHealth, SourceState
from listener.refresh import AttemptState, NeedState
from listener.store.controls import AccountReport, ControlKind, Controls, Place
from listener.store.report import Refreshed, Total
from listener.store.staleness import StaleNeed, Surroundings, Unsettled, WaitsFor, status_word, waits_for
from tests.store.steps import BASE, Bench, content, file, folder, subtree


async def listed(bench: Bench, *, limit: int = 50, is_running: bool | None = True) -> list[StaleNeed]:
    """Return what is listed as stale."""
    given = Surroundings(bench.clock.now(), is_running, {"cdn": "main"})
    return await bench.store.stale(given, limit=limit)


async def of(bench: Bench, key: str, *, is_running: bool | None = True) -> StaleNeed:
    """Return why one key's URL is stale; it is listed just the same."""
    given = Surroundings(bench.clock.now(), is_running, {"cdn": "main"})
    (found,) = await bench.store.stale(given, url=BASE + key)
    assert found in await listed(bench, is_running=is_running)
    return found


async def report(bench: Bench, **fields: object) -> None:
    """Have the account's sender say something."""
    account = AccountReport("main", **fields)  # type: ignore[arg-type]
    await bench.store.save_account(account)


async def test_every_state_has_a_reason_and_a_next_step(bench: Bench) -> None:
    """From the change to its rejection: what it waits for, and until when."""
    began = bench.clock.now()
    await bench.change(content("a", 1, finished=False), wait=0)
    assert await of(bench, "a") == StaleNeed(
        "cdn", BASE + "a", "exact", "waiting", began, "its writer may not be done", began + 5
    )
    await bench.change(content("a"))
    await report(bench)
    assert (await of(bench, "a")).reason == "waits for the next plan"
    (one,) = await bench.hold(file("a")._replace(stale_since=began))
    assert "is sent next" in (await of(bench, "a")).reason
    await bench.store.mark_sending([one.id])
    assert "under way" in (await of(bench, "a")).reason
    await bench.store.mark_unknown([one.id], next_look_at=began + 300, error="")
    assert (await of(bench, "a"))[3:] == ("in_flight", began, (await of(bench, "a")).reason, began + 300)
    assert "lost" in (await of(bench, "a")).reason
    await bench.store.accept({one.id: "t"}, next_look_at=began + 400)
    assert (await of(bench, "a"))[3:] == ("in_flight", began, "the CDN works on it", began + 400)
    (again,) = await bench.store.attempts_in(AttemptState.ACCEPTED)
    await bench.store.fail([again.id], retry_at=began + 500, error="Internal Error")
    assert (await of(bench, "a"))[3:] == ("failed", began, "Internal Error", began + 500)
    await bench.store.end_backoff([again.id])
    (one,) = await bench.hold(file("a")._replace(stale_since=began))
    await bench.store.park([one.id], error="Malformed")
    assert (await of(bench, "a"))[3:] == ("parked", began, "Malformed", None)


async def test_what_is_due_says_what_stops_it(bench: Bench) -> None:
    """No daemon, an order, the account's trouble, the plan's reason: the first that applies."""
    await bench.change(content("d/a"))
    assert (await of(bench, "d/a")).reason == "no configured target sends it"
    await report(bench, deferred={("cdn", BASE + "d/"): "no file quota left today"})
    assert (await of(bench, "d/a")).reason == "no file quota left today"
    problem = "cannot connect to http://cdn-api.test: no such host"
    await report(bench, problem=problem, remedy="r", since=1.0, until=bench.clock.now() + 60)
    assert (await of(bench, "d/a"))[3:] == ("deferred", bench.clock.now() - 60, problem, bench.clock.now() + 60)
    controls = Controls(bench.store)
    await controls.put(ControlKind.PAUSE, [Place("", BASE + "d/")], seconds=100, reason="maintenance")
    assert (await of(bench, "d/a"))[5:] == ("paused: maintenance", bench.clock.now() + 100)
    assert "no daemon runs" in (await of(bench, "d/a", is_running=False)).reason
    assert (await of(bench, "d/a", is_running=None)).reason == "paused: maintenance"
    await controls.remove(ControlKind.PAUSE, [Place("", BASE + "d/")])
    await bench.send(folder("d/"))
    assert [(one.url, one.scope, one.state) for one in await listed(bench)] == [(BASE + "d/", "subtree", "in_flight")]


@pytest.mark.parametrize("limit", [12, 50])
async def test_no_state_hides_another(bench: Bench, limit: int) -> None:
    """Of very many rejected URLs the oldest are listed, and the others all the same; the list is bounded."""
    names = [f"{n % 7}/{n}" for n in range(100)]
    await bench.change(*(content(name) for name in names), content("flying"))
    for one in await bench.hold(*(file(name) for name in names[:60])):
        await bench.store.park([one.id], error="Malformed")
    await bench.send(file("flying"))
    await bench.change(content("new"), wait=0)
    found = await listed(bench, limit=limit)
    assert len(found) <= limit
    states = Counter(one.state for one in found)
    assert set(states) == {"parked", "deferred", "in_flight", "waiting"}
    assert found == sorted(found, key=lambda one: one.since or 0.0)


async def test_a_sources_trouble_has_a_beginning(bench: Bench) -> None:
    """It stays through other words, and ends with them."""

    async def since(detail: str) -> float | None:
        await bench.store.save_source("www", SourceHealth(SourceState.DEGRADED, detail=detail))
        return (await bench.store.sources())["www"]["trouble_since"]  # type: ignore[no-any-return]

    assert await since("") is None
    began = bench.clock.now()
    assert await since("gone") == began
    bench.clock.advance(10)
    assert await since("still gone") == began
    assert await since("") is None
    assert await since("gone again") == began + 10


async def test_a_change_of_a_copied_tree_may_wait_for_the_other_copies(bench: Bench) -> None:
    """Where trees have copies on several instances, what is not due yet says so."""
    await bench.change(content("a"), wait=0)
    for has_copies, words in ((False, "quiet period"), (True, "other copies of the file are awaited")):
        given = Surroundings(bench.clock.now(), True, {"cdn": "main"}, has_copies=has_copies)
        (found,) = await bench.store.stale(given)
        assert (found.state, words in found.reason) == ("waiting", True)


async def test_each_need_waits_for_us_the_cdn_or_a_person(bench: Bench) -> None:
    """Each is counted once, with the oldest of each group; a rejected URL makes nothing that is under way older."""
    words = {status_word(state, None, None) for state in NeedState}
    words |= {status_word(NeedState.ATTEMPTED, state, None) for state in AttemptState if state.value != "cancelled"}
    assert {waits_for(word) for word in words - {"settled"}} == set(WaitsFor)
    began = bench.clock.now()
    assert set((await bench.store.counts()).waits_for.values()) == {Total(0, None)}
    await bench.change(content("rejected"), content("unconfirmed"))
    for at, (name, end) in enumerate((("rejected", bench.store.park), ("unconfirmed", None))):
        (one,) = await bench.hold(file(name)._replace(stale_since=began))
        if end is not None:
            await end([one.id], error="Malformed")
        else:
            await bench.store.mark_sending([one.id])
            await bench.store.accept({one.id: "t"}, next_look_at=began + 400)
            await bench.store.unconfirm([one.id], next_look_at=None, error=f"never ended {at}")
    await bench.change(content("flying"))
    await bench.send(file("flying"))
    await bench.change(content("due"))
    await bench.change(content("new"), wait=0)
    found = (await bench.store.counts()).waits_for
    assert found == {
        WaitsFor.US: Total(2, began + 120),
        WaitsFor.CDN: Total(1, began + 60),
        WaitsFor.PERSON: Total(2, began),
    }


async def test_a_plan_to_approve_waits_for_a_person(bench: Bench) -> None:
    """What is due in directories of the plan, and nothing else."""
    await bench.change(content("a/1"), content("a/2"), content("b/1"))
    await report(bench, deferred={("cdn", BASE + "a/"): "waits for approval: a plan of 2 URLs", ("cdn", BASE): "x"})
    found = await bench.store.unsettled(Place(), changed_before=bench.clock.now())
    assert sorted((one.state, one.needs, one.waits_for) for one in found) == [
        ("deferred", 1, "us"),
        ("deferred", 2, "person"),
    ]
    assert {type(one) for one in found} == {Unsettled}


async def test_what_is_stale_below_a_prefix_is_listed_whole(bench: Bench) -> None:
    """The oldest first, up to the limit, with what makes it stale from above; several prefixes may meet."""
    given = Surroundings(bench.clock.now(), True, {"cdn": "main"})

    async def below(*prefixes: str, limit: int = 100) -> list[str]:
        places = [Place("", BASE + prefix) for prefix in prefixes]
        return [one.url.removeprefix(BASE) for one in await bench.store.stale_below(given, places, limit=limit)]

    await bench.change(*(content(f"a/{number}") for number in range(60)))
    await bench.change(content("b/1"), content("ab"))
    assert len(await below("")) == 62
    assert await below("", limit=3) == ["a/0", "a/1", "a/10"] or len(await below("", limit=3)) == 3
    assert sorted(await below("a/5")) == ["a/5", *(f"a/5{number}" for number in range(10))]
    assert sorted(await below("b/", "b/1", "ab")) == ["ab", "b/1"]
    made = await bench.send(folder("a/"))
    assert {one.state for one in await bench.store.stale_below(given, [Place("", BASE + "a/1")], limit=9)} == {
        "in_flight"
    }
    await bench.finish(made)
    assert await below("a/") == []
    await bench.change(subtree("c/"))
    assert await below("c/d/e") == ["c/"]


async def test_the_last_refresh_of_a_url_is_its_own_or_of_a_directory_above(bench: Bench) -> None:
    """The newest that is complete, with the change that it covered; not that of a directory or a URL below."""
    url = BASE + "a/b/c"
    assert await bench.store.refreshed_last(url) is None
    changed = bench.clock.now()
    await bench.change(content("a/b/c"))
    await bench.finish(await bench.send(file("a/b/c")._replace(stale_since=changed)))
    own = Refreshed("cdn", "file", url, changed, bench.clock.now())
    assert await bench.store.refreshed_last(url) == own
    bench.clock.advance(60)
    await bench.change(content("a/x"), content("a/b/c/d"))
    await bench.finish(await bench.send(file("a/b/c/d")))
    assert await bench.store.refreshed_last(url) == own
    await bench.finish(await bench.send(folder("a/")))
    found = await bench.store.refreshed_last(url)
    assert found is not None
    assert (found.kind, found.url, found.finished_at) == ("directory", BASE + "a/", bench.clock.now())
