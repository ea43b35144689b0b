"""Everything that a key is served under turns fresh: clean URLs, compressed copies, browsers' spellings, long names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from listener.change import Change, ChangeKind
from tests.pipeline.world import a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


@pytest.mark.parametrize(
    ("site", "key", "paths"),
    [
        ({"strip_suffixes": [".html"]}, "about.html", ["about.html", "about"]),
        (
            {"strip_suffixes": [".html"]},
            "blog/index.html",
            ["blog/index.html", "blog/", "blog", "blog/index"],
        ),
        ({"also": ["{path}.gz -> {path}"]}, "app.css.gz", ["app.css.gz", "app.css"]),
        ({}, "app/[slug]/page.js", ["app/%5Bslug%5D/page.js", "app/[slug]/page.js"]),
    ],
)
async def test_every_address_of_a_changed_and_of_a_deleted_key_is_refreshed(
    tmp_path: Path, site: dict[str, Any], key: str, paths: list[str]
) -> None:
    """The emulator accepted each address once for the change, once more for the deletion, and nothing else."""
    async with a_world(tmp_path, site={**site, "min_interval_seconds": 0.0}) as world:
        world.source.deliver(world.write(key, "new"))
        await world.settled()
        assert sorted(world.paths) == sorted(f"{world.emulator.edge_url}/{path}" for path in paths)
        world.source.deliver(world.remove(key))
        await world.settled()
        assert sorted(world.paths) == sorted(2 * [f"{world.emulator.edge_url}/{path}" for path in paths])


async def test_what_a_browser_fetched_turns_fresh(tmp_path: Path) -> None:
    """Cached under the form that browsers send, with brackets as they are, and under the encoded one: both turn new."""
    async with a_world(tmp_path) as world:
        world.write("photo[1].jpg", "old")

        async def served(path: str) -> str:
            async with world.http.get(URL(f"{world.emulator.edge_url}/{path}", encoded=True)) as answer:
                return await answer.text()

        both = ["photo[1].jpg", "photo%5B1%5D.jpg"]
        assert [await served(path) for path in both] == ["old", "old"]
        world.source.deliver(world.write("photo[1].jpg", "new"))
        await world.settled()
        assert [await served(path) for path in both] == ["new", "new"]
        assert world.accepted == {"file": 2}


async def test_a_name_that_is_too_long_is_refreshed_by_its_directory(tmp_path: Path) -> None:
    """One directory refresh of the folder that can be named; nothing is rejected."""
    async with a_world(tmp_path) as world:
        world.source.deliver(Change("www", "长" * 70 + "/" + "文" * 50 + ".html", ChangeKind.CONTENT))
        await world.settled()
        assert world.paths == [f"{world.url('长' * 70)}/"]
        assert world.accepted == {"directory": 1}
        assert await world.store.dead_letters(limit=10) == []


async def test_a_deleted_folder_is_fresh_at_all_its_addresses(tmp_path: Path) -> None:
    """Its known keys are expanded, and each is refreshed under every address."""
    site = {"strip_suffixes": [".html"], "min_interval_seconds": 0.0}
    async with a_world(tmp_path, site=site) as world:
        world.source.deliver(world.write("d/index.html", "x"), world.write("d/[a].html", "x"))
        await world.settled()
        before = len(world.paths)
        world.source.deliver(Change("www", "d/", ChangeKind.SUBTREE_DELETED))
        await world.settled()
        urls = {path.removeprefix(world.emulator.edge_url) for path in world.paths[before:]}
        assert {"/d", "/d/", "/d/index.html", "/d/[a].html", "/d/[a]", "/d/%5Ba%5D"} <= urls or {"/d", "/d/"} == urls
