"""What the store keeps of names and URLs that are not configured any more, and how it is given to others."""

from __future__ import annotations

import pytest

from listener.errors import ConfigurationError
from listener.refresh import NeedInput, Scope
from listener.store.orphans import NamedRows, Orphans
from listener.store.staleness import Surroundings
from tests.store.steps import BASE, Bench, content, file, subtree


async def stale(bench: Bench) -> dict[tuple[str, str], tuple[str, float | None]]:
    """Return state and age of each need by target and URL."""
    given = Surroundings(bench.clock.now(), True, {})
    return {(one.target, one.url): (one.state, one.since) for one in await bench.store.stale(given)}


async def test_what_is_not_configured_is_found(bench: Bench) -> None:
    """Sources with an index and targets with needs, with how much; nothing of those that are configured."""
    orphans = Orphans(bench.store)
    await bench.change(content("a"), content("b/c"), content("b/d"))
    (root,) = [row[0] for row in bench.sql("SELECT name FROM root")]
    assert await orphans.sources([root]) == await orphans.targets(["cdn"]) == []
    assert await orphans.sources(["other"]) == [NamedRows(root, 3)]
    assert await orphans.targets(["other"]) == [NamedRows("cdn", 3)]
    await orphans.forget_source(root)
    assert await orphans.sources([]) == []
    assert bench.sql("SELECT count(*) FROM object") == bench.sql("SELECT count(*) FROM root") == [(0,)]
    assert len(await stale(bench)) == 3
    assert await orphans.forget_target("cdn") == 3
    assert await stale(bench) == {}
    bench.assert_counted()


async def test_a_renamed_source_keeps_its_index(bench: Bench) -> None:
    """What a first scan made of the new name meanwhile goes, so that the next scan compares with what was known."""
    orphans = Orphans(bench.store)
    await bench.change(content("a"), content("b"))
    (root,) = [row[0] for row in bench.sql("SELECT name FROM root")]
    await bench.change(content("a")._replace(root="new"), content("c")._replace(root="new"), seed=True)
    await orphans.rename_source(root, "new")
    assert {row[0] for row in bench.sql("SELECT name FROM root")} == {"new"}
    assert set(await bench.store.objects("new", ["a", "b", "c"])) == {"a", "b"}
    with pytest.raises(ConfigurationError, match="no source"):
        await orphans.rename_source("nobody", "new")
    assert set(await bench.store.objects("new", ["a", "b", "c"])) == {"a", "b"}


async def test_a_renamed_target_has_every_need_with_its_age(bench: Bench) -> None:
    """Waiting, due, in flight, rejected; merged with what the new target has of the same URL."""
    began = bench.clock.now()
    await bench.change(content("due"), content("flying"), content("rejected"), subtree("s/"))
    await bench.send(file("flying"))
    (one,) = await bench.hold(file("rejected"))
    await bench.store.park([one.id], error="Malformed")
    await bench.change(content("waiting"), wait=0)
    await bench.store.request([NeedInput("new", BASE + "due", Scope.EXACT)])
    assert await Orphans(bench.store).rename_target("cdn", "new") == 5
    found = await stale(bench)
    expected = {("new", BASE + name): ("deferred", began) for name in ("due", "flying", "rejected", "s/")}
    expected["new", BASE + "waiting"] = "deferred", began + 60
    assert {key: value for key, value in found.items() if key[0] == "new"} == expected
    assert {value[0] for key, value in found.items() if key[0] == "cdn"} <= {"in_flight"}
    bench.assert_counted()


async def test_only_what_no_base_url_covers_is_unserved(bench: Bench) -> None:
    """Before, between and after the base URLs; not what the CDN has, nor another target's."""
    await bench.change(content("a/1"), content("b/1"), content("c/1"), content("c/2"), content("d"))
    await bench.send(file("c/2"))

    async def unserved(*bases: str) -> list[str]:
        found = await Orphans(bench.store).unserved("cdn", [BASE + base for base in bases], limit=100)
        return sorted(one.url.removeprefix(BASE) for one in found)

    assert await unserved("") == []
    assert await unserved("b/") == ["a/1", "c/1", "d"]
    assert await unserved("c/", "a/", "c/x/") == ["b/1", "d"]
    assert await unserved() == ["a/1", "b/1", "c/1", "d"]
    assert len(await Orphans(bench.store).unserved("cdn", [], limit=2)) == 2
    assert await Orphans(bench.store).unserved("other", [], limit=2) == []
