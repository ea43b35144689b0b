"""What the target says was purged is fetched again by Varnish, nginx, Squid and Traffic Server, and nothing else is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from listener.contracts import CheckState, Eviction
from listener.errors import Misconfigured, Unavailable
from listener.refresh import Receipt, RefreshKind
from listener.targets.http_purge import HttpPurge
from tests.targets.http_purge.caches import HOST, Cache, Origin, cache, origin
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
KINDS = ("varnish", "nginx", "squid", "trafficserver")
BASE = f"http://{HOST}"
DONE = Receipt()
TOKEN = "0" * 32
Command = Callable[[str], str]


@pytest.fixture(scope="module")
def versions() -> Iterator[Origin]:
    """Run the origin."""
    with origin() as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def any_cache(request: pytest.FixtureRequest, versions: Origin, system_command: Command) -> Iterator[tuple[str, Cache]]:
    """Run each of the four, as documented."""
    with cache(request.param, system_command, versions) as running:
        yield request.param, running


@pytest.fixture(scope="module")
def varnish(versions: Origin, system_command: Command) -> Iterator[Cache]:
    """Run a Varnish with bans and keys."""
    with cache("varnish", system_command, versions, xkey=True) as running:
        yield running


@asynccontextmanager
async def target_for(*caches: Cache, **settings: Any) -> AsyncIterator[HttpPurge]:
    """Return a target for these caches."""
    made = HttpPurge("edge", HttpPurge.Settings(servers=[one.address for one in caches], **settings))
    try:
        yield made
    finally:
        await made.close()


def cached(one: Cache, versions: Origin, *paths: str, host: str = HOST) -> None:
    """Have the present version of these paths cached, and change all of them at the origin."""
    for path in paths:
        for _ in range(2):
            assert one.version(path, host=host) == versions.version
    versions.version += 1
    assert [one.version(path, host=host) for path in paths] == [versions.version - 1] * len(paths)


@pytest.mark.parametrize(
    "path", ["/a.html", "/a%20b+c,(1)~.png", "/%C3%BC/x.txt", "/q.html?x=1&y=%2F", "/50%25.html", "/"]
)
async def test_a_purged_url_is_fetched_again(any_cache: tuple[str, Cache], versions: Origin, path: str) -> None:
    """In the spelling that visitors use; its neighbour, and the same path of another host, stay."""
    kind, one = any_cache
    other = f"/other-{path.encode().hex()}.html"
    assert one.version(path, host="b.example.com")
    cached(one, versions, path, other)
    async with target_for(one, preset=kind) as target:
        assert await target.submit(RefreshKind.FILE, [BASE + path], force=True, token=TOKEN) == DONE
        assert one.version(path) == versions.version
        assert one.version(other) < versions.version
        assert one.version(path, host="b.example.com") < versions.version


async def test_a_url_that_is_not_cached_is_done(any_cache: tuple[str, Cache]) -> None:
    """It cannot be stale."""
    kind, one = any_cache
    async with target_for(one, preset=kind) as target:
        assert await target.submit(RefreshKind.FILE, [f"{BASE}/never-seen"], force=True, token=TOKEN) == DONE


async def test_check_finds_that_purges_are_taken(any_cache: tuple[str, Cache]) -> None:
    """For each kind of request that the target would send."""
    kind, one = any_cache
    async with target_for(one, preset=kind) as target:
        checks = await target.check()
        assert len(checks) == len(target.limits)
        assert {check.state for check in checks} == {CheckState.OK}, checks


@pytest.mark.parametrize("subtree", ["ban", "xkey"])
async def test_a_purged_directory_takes_all_below_and_nothing_else(
    varnish: Cache, versions: Origin, subtree: str
) -> None:
    """At any depth, with any query; a dot in its name stands for itself; another host keeps its own."""
    top = f"/{subtree}1.2/"
    below = [top, f"{top}a.html", f"{top}b/c/d.html?x=1", f"{top}a+b(c)/d"]
    others = [f"/{subtree}1x2/a.html", top.removesuffix("/"), f"/other{top}a.html", f"/{subtree}"]
    cached(varnish, versions, below[1], host="b.example.com")
    cached(varnish, versions, *below, *others)
    async with target_for(varnish, subtree=subtree) as target:
        assert await target.submit(RefreshKind.DIRECTORY, [BASE + top], force=True, token=TOKEN) == DONE
    assert [varnish.version(path) for path in below] == [versions.version] * len(below)
    assert all(varnish.version(path) < versions.version for path in others)
    assert varnish.version(below[1], host="b.example.com") < versions.version


async def test_a_directory_with_signs_of_regular_expressions(varnish: Cache, versions: Origin) -> None:
    """Each stands for itself."""
    cached(varnish, versions, "/a+b(c)$/x", "/aab(c)$/x")
    async with target_for(varnish) as target:
        assert await target.submit(RefreshKind.DIRECTORY, [f"{BASE}/a+b(c)$/"], force=True, token=TOKEN) == DONE
    assert varnish.version("/a+b(c)$/x") == versions.version
    assert varnish.version("/aab(c)$/x") < versions.version


async def test_one_path_with_any_query(varnish: Cache, versions: Origin) -> None:
    """All of its variants, and no path that begins like it."""
    taken, kept = ["/p.html", "/p.html?a=1", "/p.html?b=2"], ["/p.html5", "/pxhtml"]
    cached(varnish, versions, *taken, *kept)
    async with target_for(varnish) as target:
        assert await target.submit(RefreshKind.IGNORE_PARAMS, [f"{BASE}/p.html"], force=True, token=TOKEN) == DONE
    assert [varnish.version(path) for path in taken] == [versions.version] * 3
    assert all(varnish.version(path) < versions.version for path in kept)


IGNORING = {
    "passes to the origin": 'sub vcl_recv { if (req.method == "PURGE") { return (pass); } }',
    "looks it up": "sub vcl_recv { return (hash); }",
}


@pytest.mark.parametrize("vcl", IGNORING.values(), ids=IGNORING.keys())
@pytest.mark.parametrize("path", ["/a.html", "/absent.html"], ids=["200", "404"])
async def test_a_vcl_that_ignores_purge_is_found(
    versions: Origin, system_command: Command, vcl: str, path: str
) -> None:
    """An answer of the origin, 200 or 404, is no purge: nothing counts as fresh, and the error says what to do."""
    with cache("varnish", system_command, versions, vcl=vcl) as one:
        one.get(path)
        async with target_for(one) as target:
            with pytest.raises(Misconfigured, match="ignores PURGE") as error:
                await target.submit(RefreshKind.FILE, [BASE + path], force=True, token=TOKEN)
            assert "vcl_recv" in error.value.hint
            (check,) = await target.check()
            assert check.state is CheckState.FAILED
            assert "ignores PURGE" in check.message


async def test_each_cache_brings_its_own_remedy(versions: Origin, system_command: Command) -> None:
    """One is away, and the other ignores purges: the error says both, and what to do about each."""
    with cache("varnish", system_command, versions, vcl=IGNORING["looks it up"]) as one:
        target = HttpPurge("cdn", HttpPurge.Settings(servers=["http://127.0.0.1:9", one.address]))
        with pytest.raises(Unavailable) as error:
            await target.submit(RefreshKind.FILE, [f"{BASE}/a.html"], force=True, token=TOKEN)
        await target.close()
    assert "http://127.0.0.1:9 cannot be reached" in str(error.value) and "ignores PURGE" in str(error.value)
    assert "start the cache" in error.value.hint and "vcl_recv" in error.value.hint


@pytest.mark.parametrize("kind", ["nginx", "squid", "trafficserver"])
async def test_a_cache_that_was_not_set_up_is_found(versions: Origin, system_command: Command, kind: str) -> None:
    """By the check, with what to do."""
    with cache(kind, system_command, versions, has_purges=False) as one:
        async with target_for(one, preset=kind) as target:
            (check,) = await target.check()
            assert check.state is CheckState.FAILED
            assert check.hint
            if kind != "nginx":  # where the origin's answer may be that of a purge
                with pytest.raises(Misconfigured, match="refuses PURGE"):
                    await target.submit(RefreshKind.FILE, [f"{BASE}/a"], force=True, token=TOKEN)


async def test_a_soft_purge_serves_the_old_copy_once_more(varnish: Cache, versions: Origin) -> None:
    """Until the cache has fetched the new one; what needs eviction is dropped at once."""
    cached(varnish, versions, "/soft.html", "/hard.html")
    async with target_for(varnish, soft=True) as target:
        assert await target.submit(RefreshKind.FILE, [f"{BASE}/soft.html"], force=False, token=TOKEN) == DONE
        assert await target.submit(RefreshKind.FILE, [f"{BASE}/hard.html"], force=True, token=TOKEN) == DONE
    assert varnish.version("/soft.html") < versions.version
    await until(lambda: varnish.version("/soft.html") == versions.version)
    assert varnish.version("/hard.html") == versions.version


async def test_a_soft_purge_of_a_directory_by_key(varnish: Cache, versions: Origin) -> None:
    """The same, for everything below it."""
    cached(varnish, versions, "/softly/a/b.html")
    async with target_for(varnish, soft=True, subtree="xkey") as target:
        assert target.limits[RefreshKind.DIRECTORY].eviction is Eviction.EITHER
        assert await target.submit(RefreshKind.DIRECTORY, [f"{BASE}/softly/"], force=False, token=TOKEN) == DONE
    assert varnish.version("/softly/a/b.html") < versions.version
    await until(lambda: varnish.version("/softly/a/b.html") == versions.version)
