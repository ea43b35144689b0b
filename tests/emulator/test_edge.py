"""The edge: what it keeps, what a refresh does to it, and which file a URL names."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

MakeWorld = Callable[..., Awaitable[Any]]


async def test_stale_until_refreshed(world: Any) -> None:
    """A changed file is served in its old form, for ever, until a refresh of its URL is complete."""
    world.write("a.html", "old")
    assert await world.get("/a.html") == ("MISS", 200, "old")
    world.write("a.html", "new!")
    world.clock.time += 10_000_000
    assert await world.get("/a.html") == ("HIT", 200, "old")
    await world.refresh("/a.html")
    assert await world.get("/a.html") == ("HIT", 200, "old")
    world.clock.time += 1
    assert await world.get("/a.html") == ("MISS", 200, "new!")
    assert await world.get("/a.html") == ("HIT", 200, "new!")


async def test_file_refresh_is_exact(world: Any) -> None:
    """A file refresh evicts one URL: not the same path with another query, not another host's, not a neighbour."""
    world.write("a", "old")
    for path in ("/a", "/a?v=1", "/a?v=2"):
        await world.get(path)
    await world.get("/a", Host="other.example")
    world.write("a", "new!")
    await world.done("/a?v=1")
    assert (await world.get("/a?v=1"))[2] == "new!"
    assert [(await world.get(path))[2] for path in ("/a", "/a?v=2")] == ["old", "old"]
    assert (await world.get("/a", Host="other.example"))[2] == "old"


async def test_ignore_params_takes_every_query(world: Any) -> None:
    """An IgnoreParams refresh strips the query of what is submitted and of what is held."""
    world.write("a", "old")
    world.write("b", "old")
    for path in ("/a", "/a?v=1", "/b?v=1"):
        await world.get(path)
    world.write("a", "new!")
    world.write("b", "new!")
    await world.done("/a?x=9", kind="IgnoreParams", force=True)
    assert [(await world.get(path))[2] for path in ("/a", "/a?v=1", "/b?v=1")] == ["new!", "new!", "old"]


async def test_forced_directory_evicts_below(world: Any) -> None:
    """A forced directory refresh fetches everything below again, changed or not, and nothing next to it."""
    for name in ("d/a", "d/e/b", "dd/c"):
        world.write(name)
        await world.get(f"/{name}")
    await world.done("/d/", kind="Directory", force=True)
    assert [(await world.get(f"/{name}"))[0] for name in ("d/a", "d/e/b", "dd/c")] == ["MISS", "MISS", "HIT"]


async def test_unforced_directory_revalidates(world: Any) -> None:
    """Without force a directory is marked expired: what did not change is revalidated, what did is fetched."""
    world.write("d/same")
    world.write("d/changed")
    await world.get("/d/same")
    await world.get("/d/changed")
    world.write("d/changed", "two", mtime=1_767_000_000)
    await world.done("/d/", kind="Directory")
    assert await world.get("/d/same") == ("REVALIDATED", 200, "one")
    assert await world.get("/d/same") == ("HIT", 200, "one")
    assert await world.get("/d/changed") == ("MISS", 200, "two")


async def test_304_keeps_the_old_copy(world: Any) -> None:
    """A file rewritten within the second, with as many bytes, keeps its validators: only eviction heals."""
    world.write("d/a", "old", mtime=1_767_000_000.1)
    await world.get("/d/a")
    world.write("d/a", "new", mtime=1_767_000_000.9)
    await world.done("/d/", kind="Directory")
    assert await world.get("/d/a") == ("REVALIDATED", 200, "old")
    await world.done("/d/", kind="Directory", force=True)
    assert await world.get("/d/a") == ("MISS", 200, "new")


async def test_missing_is_held_too(world: Any) -> None:
    """A 404 is held like any object: a created file is seen, and a deleted one gone, after a refresh only."""
    assert (await world.get("/a"))[:2] == ("MISS", 404)
    path = world.write("a")
    assert (await world.get("/a"))[:2] == ("HIT", 404)
    await world.done("/a")
    assert await world.get("/a") == ("MISS", 200, "one")
    path.unlink()
    assert await world.get("/a") == ("HIT", 200, "one")
    await world.done("/a")
    assert (await world.get("/a"))[:2] == ("MISS", 404)


async def test_lifetimes(make_world: MakeWorld) -> None:
    """With lifetimes set, an object is revalidated when its own is over, and a 404 fetched when its own is."""
    world = await make_world(ttl_seconds=100.0, missing_ttl_seconds=10.0)
    world.write("a")
    await world.get("/a")
    await world.get("/missing")
    world.clock.time += 10
    assert [(await world.get(path))[0] for path in ("/a", "/missing")] == ["HIT", "MISS"]
    world.clock.time += 90
    assert (await world.get("/a"))[0] == "REVALIDATED"


async def test_index_is_another_object(world: Any) -> None:
    """``/d/`` serves ``index.html``, and is held apart from ``/d/index.html``."""
    world.write("d/index.html", "old")
    assert (await world.get("/d/"))[2] == (await world.get("/d/index.html"))[2] == "old"
    world.write("d/index.html", "new!")
    await world.done("/d/index.html")
    assert [(await world.get(path))[2] for path in ("/d/", "/d/index.html")] == ["old", "new!"]


async def test_prefetch_fills_the_cache(world: Any) -> None:
    """After a prefetch has ended, the first visitor is served from the cache."""
    world.write("a")
    await world.call("PushObjectCache", ObjectPath=world.url("/a"))
    world.clock.time += 1
    await world.control()
    assert await world.get("/a") == ("HIT", 200, "one")


async def test_head_age_and_validators(world: Any) -> None:
    """HEAD is answered like GET, without a body; Age counts from the fetch; validators come along."""
    world.write("a", mtime=1_767_000_000)
    await world.get("/a")
    world.clock.time += 7
    async with world.http.head(world.url("/a")) as response:
        assert response.headers["X-Cache"] == "HIT"
        assert response.headers["Age"] == "7"
        assert response.headers["Content-Length"] == "3"
        assert response.headers["Last-Modified"] == "Mon, 29 Dec 2025 09:20:00 GMT"
        assert response.headers["ETag"] == f'"{1_767_000_000:x}-3"'
    async with world.http.put(world.url("/a")) as response:
        assert response.status == 405


ZOO = {
    "a b": "/a%20b",
    "a+b": "/a+b",
    "a%2Bb": "/a%252Bb",
    "a%b": "/a%25b",
    "\u00e9": "/%C3%A9",
    "e\u0301": "/e%CC%81",
    "日本.jpg": "/%E6%97%A5%E6%9C%AC.jpg",
    "a?b#c": "/a%3Fb%23c",
    "x\nhttp:y": "/x%0Ahttp:y",
    "semi;colon,comma": "/semi;colon,comma",
}


@pytest.mark.parametrize(("name", "target"), ZOO.items(), ids=[ascii(name) for name in ZOO])
async def test_each_key_is_its_own_url(world: Any, name: str, target: str) -> None:
    """Each name is served under its own encoded URL, and a refresh of that URL is what makes it fresh."""
    for each in ZOO:
        world.write(each, f"old {each}")
    await world.get(target)
    world.write(name, f"new of {name}")
    assert await world.get(target) == ("HIT", 200, f"old {name}")
    await world.done(target)
    assert await world.get(target) == ("MISS", 200, f"new of {name}")


async def test_name_that_is_no_text(world: Any) -> None:
    """A file name that is not UTF-8 is reached by the escapes of its bytes."""
    path = os.fsencode(world.tree) + b"/\xff\xfe.bin"
    with open(path, "wb") as file:
        file.write(b"raw")
    assert await world.get("/%FF%fe.bin") == ("MISS", 200, "raw")
    assert (await world.get("/%ff%FE.bin"))[0] == "HIT"


async def test_escapes_in_any_case_are_one_object(world: Any) -> None:
    """``%e6`` and ``%E6`` are one object, as are ``%41`` and ``A``; ``+`` and ``%2B`` are two."""
    world.write("A日")
    assert (await world.get("/%41%e6%97%a5"))[0] == "MISS"
    assert (await world.get("/A%E6%97%A5"))[0] == "HIT"
    await world.done("/%41%e6%97%A5")
    assert (await world.get("/A%E6%97%A5"))[0] == "MISS"
    world.write("a+b")
    await world.get("/a+b")
    assert (await world.get("/a%2Bb"))[0] == "MISS"


@pytest.mark.parametrize(
    "target",
    ["/../secret", "/%2e%2e/secret", "/d/..%2f..%2fsecret", "/d//a", "//d/a", "/d%2Fa", "/./d/a", "/link", "/d",
     "/a%00b", "/pipe", "/d/a/", "/up/secret"],
)  # fmt: skip
async def test_only_exact_names_inside_the_directory(world: Any, target: str) -> None:
    """No spelling reaches a file outside the directory, or a file by anything but its own name."""
    (world.tree.parent / "secret").write_text("secret")
    world.write("d/a")
    (world.tree / "link").symlink_to("../secret")
    (world.tree / "up").symlink_to("..")
    os.mkfifo(world.tree / "pipe")
    assert (await world.get(target))[1] == 404


async def test_bad_escape_is_refused(world: Any) -> None:
    """A ``%`` that starts no escape is a bad request, as at a real edge."""
    assert (await world.get("/a%zz"))[1] == 400


async def test_root_may_be_switched(world: Any, make_world: MakeWorld, tmp_path: Path) -> None:
    """The origin may be a symbolic link that is switched to another release."""
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "a").write_text(release)
    current = tmp_path / "current"
    current.symlink_to("one")
    linked = await make_world(origin=str(current))
    assert (await linked.get("/a"))[2] == "one"
    current.unlink()
    current.symlink_to("two")
    await linked.done("/a")
    assert (await linked.get("/a"))[2] == "two"


async def test_origin_by_url(make_world: MakeWorld) -> None:
    """A web server as origin is asked with the path's very bytes; 304s hold, redirects pass, failures are not held."""
    seen: list[str] = []

    async def origin(request: web.BaseRequest) -> web.Response:
        seen.append(request.raw_path)
        if "broken" in request.raw_path:
            return web.Response(status=500 if seen.count(request.raw_path) == 1 else 200, text="mended")
        if "moved" in request.raw_path:
            return web.Response(status=301, headers={"Location": "/there"})
        if request.headers.get("If-None-Match") == '"v1"':
            return web.Response(status=304)
        return web.Response(text="body", headers={"ETag": '"v1"', "Set-Cookie": "visitor=1"})

    runner = web.ServerRunner(web.Server(origin))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    world = await make_world(origin=f"http://127.0.0.1:{port}/base/")
    try:
        assert await world.get("/d/a%20%2B+?q=%2F") == ("MISS", 200, "body")
        assert seen == ["/base/d/a%20%2B+?q=%2F"]
        await world.done("/d/", kind="Directory")
        assert (await world.get("/d/a%20%2B+?q=%2F"))[0] == "REVALIDATED"
        assert (await world.get("/moved"))[1] == 301
        assert (await world.get("/broken"))[:2] == ("MISS", 500)
        assert await world.get("/broken") == ("MISS", 200, "mended")
    finally:
        await runner.cleanup()
    assert (await world.get("/other"))[1] == 502
    assert (await world.get("/moved"))[:2] == ("HIT", 301)


async def test_fetch_across_a_refresh_is_not_kept(make_world: MakeWorld) -> None:
    """What was fetched before a refresh took effect is not held after it, though its answer comes later."""
    import asyncio

    started, go_on = asyncio.Event(), asyncio.Event()
    content = ["old"]

    async def origin(_: web.BaseRequest) -> web.Response:
        body = content[0]
        started.set()
        await go_on.wait()
        return web.Response(text=body)

    runner = web.ServerRunner(web.Server(origin))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    world = await make_world(origin=f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        for kind, target, path in (
            ("File", "/d/a", "/d/a"),
            ("Directory", "/d/", "/d/b"),
            ("IgnoreParams", "/d/c", "/d/c?x"),
        ):
            content[0] = "old"
            started.clear()
            go_on.clear()
            slow = asyncio.create_task(world.get(path))
            await started.wait()
            content[0] = "new"
            await world.done(target, kind=kind, force=True)
            await world.control()
            go_on.set()
            assert (await slow)[2] == "old"
            assert await world.get(path) == ("MISS", 200, "new")
    finally:
        await runner.cleanup()


async def test_cache_does_not_grow_without_end(make_world: MakeWorld) -> None:
    """Beyond its size the edge drops what was used least recently."""
    world = await make_world(cache_bytes=8)
    for name in ("a", "b"):
        world.write(name, "1234")
        await world.get(f"/{name}")
    await world.get("/a")
    world.write("c", "1234")
    await world.get("/c")
    assert [(await world.get(path))[0] for path in ("/a", "/c", "/b")] == ["HIT", "HIT", "MISS"]
    world.write("large", "123456789")
    assert [(await world.get("/large"))[0] for _ in range(2)] == ["MISS", "MISS"]
