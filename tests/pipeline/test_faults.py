"""Each fault of the CDN ends as promised: nothing lost, nothing over quota, nothing paid twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from listener.allowances import ALIBABA_DAY
from listener.change import Change
from listener.refresh import RefreshKind
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def changed(world: World, *keys: str) -> None:
    """Have these keys cached as old, change them at the origin, and deliver that."""
    for key in keys:
        world.write(key, "old")
        assert await world.get(key) == "old"
    world.source.deliver(*(world.write(key, "new") for key in keys))


async def fresh(world: World, *keys: str) -> bool:
    """Return whether the edge serves all of them new."""
    return {await world.get(key) for key in keys} == {"new"}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("throttle:2:0.2", id="throttled twice, with retry-after"),
        pytest.param("throttle:6:0.1", id="throttled for longer than one call tries"),
        pytest.param("error500:1", id="an internal error"),
        pytest.param("reset:1", id="the connection is reset before acceptance"),
        pytest.param("accept-then-reset:1", id="the connection is reset after acceptance"),
        pytest.param("accept-then-timeout:1", id="no answer after acceptance"),
        pytest.param("slow:0.5:2", id="slow answers"),
        pytest.param("quota:1", id="quota refused though some is left"),
        pytest.param("error:ServiceBusy:1", id="the domain is being configured"),
        pytest.param("error:SignatureNonceUsed:1", id="a nonce was seen"),
        pytest.param("absent:0.5", id="the task is absent at first"),
        pytest.param("late-status:0.3", id="the status is late"),
    ],
)
async def test_a_passing_fault_costs_nothing(tmp_path: Path, fault: str) -> None:
    """Whatever the fault, every file turns fresh, and each was paid for once, by the CDN's books and by ours."""
    async with a_world(tmp_path) as world:
        of_tasks = fault.startswith(("absent", "late-status"))
        world.order(fault if of_tasks else f"{fault},action=RefreshObjectCaches")
        await changed(world, "a.html", "b/c.html")
        await world.settled()
        assert await fresh(world, "a.html", "b/c.html")
        assert world.accepted == {"file": 2}
        assert await world.ledger() == (2, 0)


async def test_one_malformed_url_of_a_thousand_is_parked_alone(tmp_path: Path) -> None:
    """The culprit is found by halves and parked with the CDN's words; the other 999 turn fresh, each paid once."""
    async with a_world(tmp_path, quota=(2000, 20)) as world:
        world.order("malformed:bad-one")
        keys = [f"d{number % 10}/{number}.html" for number in range(999)]
        await changed(world, *keys[:5])
        world.source.deliver(*(Change("www", key) for key in [*keys[5:], "d3/bad-one.html"]))
        await world.settled()
        assert await fresh(world, *keys[:5])
        counts = await world.store.counts()
        assert (counts.parked, counts.dead_letters) == (1, 1)
        (letter,) = await world.store.dead_letters()
        assert letter.subject == world.url("d3/bad-one.html")
        assert "InvalidObjectPath" in letter.reason or "invalid" in letter.reason.lower()
        assert world.accepted == {"file": 999}
        assert await world.ledger() == (999, 0)


async def test_one_of_three_domains_is_not_ours(tmp_path: Path) -> None:
    """Only the needs of the domain that the CDN names are parked."""
    async with a_world(tmp_path) as world:
        port = world.emulator.edge_url.rpartition(":")[2]
        site = world.settings.sites[0]
        bases = (*site.base_urls, f"http://localhost:{port}/", f"http://other.test:{port}/")
        world.pipeline._sites.__init__([site.model_copy(update={"base_urls": bases})])  # type: ignore[misc]
        world.order("domain-not-found:other.test")
        await changed(world, "a.html")
        await world.until(lambda: len(world.paths) == 2)
        await world.settled()
        assert await fresh(world, "a.html")
        (letter,) = await world.store.dead_letters()
        assert letter.subject == f"http://other.test:{port}/a.html"
        assert await world.ledger() == (2, 0)


async def test_a_task_that_stays_refreshing_for_two_hours_is_reported(tmp_path: Path) -> None:
    """It becomes unconfirmed, is not sent again, and settles when the task ends after all."""
    async with a_world(tmp_path) as world:
        world.order("stuck:a.html:9000")
        await changed(world, "a.html")
        await world.until(lambda: world.paths)
        world.clock.ahead += 7200

        async def unconfirmed() -> bool:
            return (await world.store.counts()).unconfirmed == 1

        await world.until(unconfirmed)
        assert world.accepted == {"file": 1}
        world.clock.ahead += 2000
        await world.until(lambda: world.get("a.html"))

        async def confirmed() -> bool:
            return (await world.store.counts()).unconfirmed == 0

        await world.until(confirmed)
        assert world.accepted == {"file": 1}
        assert await fresh(world, "a.html")


async def test_one_failed_path_of_a_merged_task_is_sent_again_alone(tmp_path: Path) -> None:
    """Its neighbours under the same task id are settled; it turns fresh after a back-off, paid once more."""
    async with a_world(tmp_path) as world:
        world.order("fail:b.html:1")
        await changed(world, "a.html", "b.html", "c.html")

        async def one_failed() -> bool:
            counts = await world.store.counts()
            return (counts.failed, counts.in_flight, counts.pending) == (1, 0, 0)

        await world.until(one_failed)
        world.clock.ahead += 61
        await world.settled()
        assert await fresh(world, "a.html", "b.html", "c.html")
        assert sorted(world.paths) == sorted(world.url(key) for key in ("a.html", "b.html", "b.html", "c.html"))


async def test_a_revalidation_that_leaves_the_old_copy_is_not_taken_for_a_refresh(tmp_path: Path) -> None:
    """
    Without force, a file whose validator did not advance is not covered by a directory refresh.

    It goes as a file, which always evicts.
    """
    async with a_world(tmp_path, quota=(5, 5), target={"force": False}) as world:
        world.order("not-modified:old.html")
        await changed(world, *(f"a/{number}.html" for number in range(5)), "a/old.html")
        await world.until(lambda: world.paths)
        await world.settled()


async def test_a_quota_lowered_at_noon_is_kept(tmp_path: Path) -> None:
    """When the provider lowers the limit during the day, nothing is accepted beyond it; the rest is deferred."""
    async with a_world(tmp_path, quota=(100, 0)) as world:
        await changed(world, *(f"{number}.html" for number in range(20)))
        await world.settled()
        world.order("quota-limit:30,0")
        world.source.deliver(*(Change("www", f"late-{number}.html") for number in range(20)))

        async def held_back() -> bool:
            counts = await world.store.counts()
            return counts.deferred > 0 and counts.in_flight == 0

        await world.until(held_back)
        await world.pipeline.engines[0].read_quota()
        await world.until(held_back)
        assert world.accepted["file"] <= 30
        counts = await world.store.counts()
        assert counts.deferred == counts.pending == 40 - world.accepted["file"]


async def test_what_was_deferred_goes_after_the_reset(tmp_path: Path) -> None:
    """At 00:00 UTC+8 the held-back files go, within the new day's quota, and nothing is sent around the reset."""
    async with a_world(tmp_path, quota=(10, 0), extra={"planner": {"reserve": 0.0}}) as world:
        keys = [f"{number}.html" for number in range(15)]
        await changed(world, *keys)

        async def deferred() -> bool:
            counts = await world.store.counts()
            return (counts.deferred, counts.in_flight) == (5, 0)

        await world.until(deferred)
        assert world.accepted == {"file": 10}
        reset = ALIBABA_DAY.end(world.clock.now())
        world.clock.ahead += reset - world.clock.now() + 20
        await world.settled()
        assert await fresh(world, *keys)
        assert world.accepted == {"file": 15}
        times = [record.created_at for record in world.emulator.account.tasks.all()]
        assert all(abs(at - reset) >= 15 for at in times)
        assert await world.ledger(RefreshKind.FILE) == (5, 0)


KEYS: list[Any] = ["a b", "a+b", "a%2Bb", "a%b", "\u00e9", "e\u0301", "日本.jpg", "a//b", "a?b#c"]


@pytest.mark.parametrize("key", KEYS)
async def test_a_strange_key_refreshes_its_own_url_only(tmp_path: Path, key: str) -> None:
    """The key's own URL turns fresh at the edge, and the URLs of all the other strange keys are left alone."""
    async with a_world(tmp_path) as world:
        keys = [other for other in KEYS if other != "a//b"]
        for other in keys:
            world.write(other, "old")
            assert await world.get(other) == "old"
        if key == "a//b":
            world.source.deliver(Change("www", key))
            await world.settled()
            assert world.paths == [world.emulator.edge_url + "/a//b"]
            return
        for other in keys:
            world.write(other, "new")
        world.source.deliver(Change("www", key))
        await world.settled()
        assert [other for other in keys if await world.get(other) == "new"] == [key]


@pytest.mark.parametrize("key", ["a\nhttps://www.example.org/", "a/../b", "a\\b", "x" * 2000, "a/%2e%2e/b", "a\x00b"])
async def test_a_key_that_can_be_no_url_is_parked_with_its_reason(tmp_path: Path, key: str) -> None:
    """Nothing is sent for it; it stands among the dead letters with its reason, and its neighbours go."""
    async with a_world(tmp_path) as world:
        world.source.deliver(Change("www", key), Change("www", "fine.html"))
        await world.settled()
        assert world.paths == [world.url("fine.html")]
        (letter,) = await world.store.dead_letters()
        assert letter.subject == key
        assert letter.reason
        counts = await world.store.counts()
        assert (counts.parked, counts.dead_letters) == (1, 1)


async def test_a_name_that_is_no_utf8_refreshes_its_own_bytes(tmp_path: Path) -> None:
    """A file name in Latin-1 is refreshed under its own percent-encoded bytes."""
    async with a_world(tmp_path) as world:
        world.source.deliver(Change("www", b"caf\xe9.html".decode("utf-8", "surrogateescape")))
        await world.settled()
        assert world.paths == [world.emulator.edge_url + "/caf%E9.html"]


async def test_a_wrong_key_stops_sending_and_loses_nothing(tmp_path: Path) -> None:
    """With a wrong secret nothing is spent, the account says why, and everything goes once it is mended."""
    async with a_world(tmp_path) as world:
        world.order("error:InvalidAccessKeyId.Inactive:3,action=RefreshObjectCaches")
        await changed(world, "a.html")
        await world.until(lambda: "InvalidAccessKeyId" in " ".join(world.pipeline.troubles))
        for wait in (10, 20, 40):
            await world.until(lambda: world.pipeline.engines[0].account.closed_until > world.clock.now())
            world.clock.ahead += wait
        await world.settled()
        assert await fresh(world, "a.html")
        assert world.accepted == {"file": 1}
